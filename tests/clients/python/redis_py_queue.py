"""LOCK.ACQUIRE with WAIT through redis-py's `execute_command`. argv[3]: the RESP version."""

import contextlib

import redis
from workers import PORT, VARIANT, count_together


def worker(number):
    client = redis.Redis(port=PORT, protocol=int(VARIANT or 2))
    with client.pipeline() as pipe:
        assert pipe.incr(f"n:{number}").incr(f"n:{number}").execute()[1] == 2

    @contextlib.contextmanager
    def lock():
        owner = f"worker-{number}"
        fence = client.execute_command("LOCK.ACQUIRE", "orders:redis-py", owner, "TTL", 20000, "WAIT", 60000)
        assert isinstance(fence, int) and fence > 0, fence
        yield
        assert client.execute_command("LOCK.RELEASE", "orders:redis-py", owner, "FENCE", fence) == 1

    return client, lock


count_together(worker)
