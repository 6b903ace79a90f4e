"""redis-py's own Lock, queued behind a holder: it must get the lock in the end, without an error on the way.
argv: port."""

import sys

import redis

client = redis.Redis(port=int(sys.argv[1]))
lock = client.lock("lock:queued", timeout=60, blocking_timeout=40)
assert lock.acquire(), "not granted in time"
lock.release()
print("got it")
