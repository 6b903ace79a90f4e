"""What many held locks cost in memory: the proxy, and Redis against a plain SET NX PX."""

import time

from side_by_side import machine, servers
from side_by_side.tell import tell

from . import wire

CONNECTIONS = 50
# As long as a UUID, which is what lock libraries write.
OWNER = b"5f0c2a9e-7b1d-4f6e-8a3c-5d7e9f1b2a4c"
LONG_LEASE = b"3600000"


def measure(field: servers.Field, count: int) -> dict:
    """Bytes per lock in Redis, and the growth of the proxy, with plain holds and with EPHEMERAL ones."""
    each = count // CONNECTIONS
    keys = [[b"orders:%02d:%06d" % (connection, number) for number in range(each)] for connection in range(CONNECTIONS)]

    def streams(*words: bytes) -> list[bytes]:
        return [b"".join(servers.request(*(key if word == b"KEY" else word for word in words)) for key in some) for some in keys]

    side = wire.Client(field.redis)
    found: dict = {"count": each * CONNECTIONS}
    plain = streams(b"SET", b"KEY", OWNER, b"NX", b"PX", LONG_LEASE)
    found["plain_bytes"] = _fill_and_weigh(field.redis, plain, each, b"+OK", side)
    lockgate = field.start(servers.LOCKGATE)
    wire.pour(lockgate, streams(b"GET", b"KEY"), each, b"$-1")
    before = machine.resident_bytes(lockgate.pid)
    found["lock_bytes"] = _fill_and_weigh(
        lockgate, streams(b"LOCK.ACQUIRE", b"KEY", OWNER, b"TTL", LONG_LEASE), each, b":", side)
    found["proxy_growth"] = machine.resident_bytes(lockgate.pid) - before
    field.stop(lockgate)
    lockgate = field.start(servers.LOCKGATE)
    wire.pour(lockgate, streams(b"GET", b"KEY"), each, b"$-1")
    before = machine.resident_bytes(lockgate.pid)
    ephemeral = streams(b"LOCK.ACQUIRE", b"KEY", OWNER, b"TTL", LONG_LEASE, b"EPHEMERAL")
    held = wire.pour(lockgate, ephemeral, each, b":", stay=True)
    found["ephemeral_growth"] = machine.resident_bytes(lockgate.pid) - before
    for client in held:
        client.close()
    give_up = time.monotonic() + 60
    while int(side.call(b"DBSIZE")[1:]) > 1 and time.monotonic() < give_up:
        time.sleep(0.05)
    found["ephemeral_left"] = int(side.call(b"DBSIZE")[1:])
    field.stop(lockgate)
    side.call(b"FLUSHALL")
    side.close()
    tell(f"memory  plain {found['plain_bytes']:.0f} B, lock {found['lock_bytes']:.0f} B; proxy +{found['proxy_growth'] / 2**20:.1f} MiB, "
         f"EPHEMERAL +{found['ephemeral_growth'] / 2**20:.1f} MiB")
    return found


def _used(side: wire.Client) -> int:
    text = side.text(b"INFO", b"memory").decode()
    return int(next(line for line in text.split() if line.startswith("used_memory:")).split(":")[1])


def _fill_and_weigh(target: servers.Target, streams: list[bytes], each: int, expect: bytes, side: wire.Client) -> float:
    """Bytes per key: by how much used_memory shrinks when all of them go, so that no connection's buffers are among them."""
    side.call(b"FLUSHALL")
    wire.pour(target, streams, each, expect)
    time.sleep(0.5)
    full = _used(side)
    side.call(b"FLUSHALL")
    return (full - _used(side)) / (each * len(streams))
