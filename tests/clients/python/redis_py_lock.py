"""redis-py's own Lock (SET NX PX, a script for the release), which polls. argv[3]: the RESP version."""

import redis
from workers import PORT, VARIANT, count_together


def worker(number):
    client = redis.Redis(port=PORT, protocol=int(VARIANT or 2), client_name=f"worker-{number}")
    return client, lambda: client.lock("lock:redis-py", timeout=20, sleep=0.004)


count_together(worker)
