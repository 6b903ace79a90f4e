"""pottery's Redlock over one master: scripts registered by redis-py, SET NX PX."""

import redis
from pottery import Redlock
from workers import PORT, count_together


def worker(_number):
    client = redis.Redis(port=PORT)
    return client, lambda: Redlock(key="pottery", masters={client}, auto_release_time=20)


count_together(worker)
