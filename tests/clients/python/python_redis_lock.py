"""python-redis-lock: SET NX with a list that wakes the next one (BLPOP), and scripts for the rest."""

import redis
import redis_lock
from workers import PORT, count_together


def worker(_number):
    client = redis.Redis(port=PORT)
    return client, lambda: redis_lock.Lock(client, "python-redis-lock", expire=20)


count_together(worker)
