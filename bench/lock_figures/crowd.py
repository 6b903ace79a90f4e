"""Ten thousand waiters for one key: what they cost other keys, and each other."""

import random
import selectors
import time

from side_by_side import machine, servers
from side_by_side.figures import median, percentile
from side_by_side.tell import tell

from . import wire

SMALL = 10
LEASE = b"600000"


def measure(field: servers.Field, waiters: int, rounds: int, cycles: int) -> dict:
    """Latency of another key beside the crowd and in a Lockgate of its own, and the cost of a turn in a short and in a long line."""
    lockgate, empty = field.start(servers.LOCKGATE), field.start(servers.LOCKGATE)
    calm = {"without": wire.Client(empty), "beside": wire.Client(lockgate)}
    clients = [wire.Client(lockgate) for _ in range(waiters + 1)]
    small = [wire.Client(lockgate) for _ in range(SMALL + 1)]
    look = wire.Client(lockgate)
    resident = machine.resident_bytes(lockgate.pid)
    begun = time.monotonic()
    lines = {"short": Line(b"orders:short", small, look), "long": Line(b"orders:long", clients, look)}
    joined_s = time.monotonic() - begun
    found: dict = {"waiters": waiters, "joined_s": joined_s, "growth": machine.resident_bytes(lockgate.pid) - resident, "turns": {}}
    taken_us: dict[str, list[float]] = {name: [] for name in calm}
    # In slices, so that both see the same machine.
    for _ in range(40):
        for name in random.sample(sorted(calm), 2):
            taken_us[name] += _pairs(calm[name], 100)
    samples: dict[str, list[dict]] = {name: [] for name in lines}
    for _ in range(rounds):
        for name in random.sample(sorted(lines), 2):
            samples[name].append(_turns(field, lockgate, lines[name], cycles))
    for name, some in samples.items():
        found["turns"][name] = {figure: median(sample[figure] for sample in some) for figure in some[0]}
    for name, some in taken_us.items():
        found[f"{name}_us"] = {"p50": median(some), "p99": percentile(some, 99)}
    for client in [*clients, *small, *calm.values(), look]:
        client.close()
    field.stop(lockgate)
    field.stop(empty)
    tell(f"crowd of {waiters}  another key {found['without_us']['p50']:.0f} → {found['beside_us']['p50']:.0f} µs; a turn " + ", ".join(
        f"{name} {row['proxy_us']:.0f} + {row['redis_us']:.0f} µs" for name, row in found["turns"].items()))
    return found


class Line:
    """Who waits for a key, and who holds it."""

    def __init__(self, key: bytes, clients: list[wire.Client], look: wire.Client):
        self.key, self._waiting = key, selectors.DefaultSelector()
        self._holder = (clients[0], b"owner-%06d" % 0)
        assert clients[0].call(b"LOCK.ACQUIRE", key, self._holder[1], b"TTL", LEASE).startswith(b":")
        for number, client in enumerate(clients[1:], start=1):
            self._waits(client, b"owner-%06d" % number)
        give_up = time.monotonic() + 120
        while _waiters(look, key) != b":%d" % (len(clients) - 1):
            if time.monotonic() > give_up:
                raise OSError("not all came to stand in line")
            time.sleep(0.05)

    def turn(self) -> float:
        """The holder releases, and stands at the end again when the next one has it; how long that took, in s."""
        client, owner = self._holder
        begun = time.perf_counter()
        client.ask(b"LOCK.RELEASE", self.key, owner)
        assert client.line() == b":1"
        ready = self._waiting.select(timeout=30)
        taken_s = time.perf_counter() - begun
        assert len(ready) == 1, f"{len(ready)} were told that it is their turn"
        self._holder = ready[0][0].data
        assert self._holder[0].line().startswith(b":")
        self._waiting.unregister(self._holder[0].socket)
        self._waits(client, owner)
        return taken_s

    def _waits(self, client: wire.Client, owner: bytes) -> None:
        client.ask(b"LOCK.ACQUIRE", self.key, owner, b"TTL", LEASE, b"WAIT", LEASE)
        self._waiting.register(client.socket, selectors.EVENT_READ, (client, owner))


def _waiters(look: wire.Client, key: bytes) -> bytes:
    fields = int(look.call(b"LOCK.INFO", key)[1:])
    words = []
    for _ in range(fields):
        head = look.line()
        words.append(look.line() if head.startswith(b"$") and head != b"$-1" else head)
    return words[words.index(b"waiters") + 1]


def _turns(field: servers.Field, lockgate: servers.Target, line: Line, count: int) -> dict:
    proxy_s, redis_s = machine.cpu_seconds(lockgate.pid), machine.cpu_seconds(field.redis.pid)
    taken_s = [line.turn() for _ in range(count)]
    proxy_s, redis_s = machine.cpu_seconds(lockgate.pid) - proxy_s, machine.cpu_seconds(field.redis.pid) - redis_s
    return {
        "proxy_us": proxy_s / count * 1e6, "redis_us": redis_s / count * 1e6,
        "p50_us": median(taken_s) * 1e6, "p99_us": percentile(taken_s, 99) * 1e6,
    }


def _pairs(client: wire.Client, count: int) -> list[float]:
    taken_us = []
    for _ in range(count):
        begun = time.perf_counter()
        assert client.call(b"LOCK.ACQUIRE", b"orders:calm", b"ann").startswith(b":")
        assert client.call(b"LOCK.RELEASE", b"orders:calm", b"ann") == b":1"
        taken_us.append((time.perf_counter() - begun) * 1e6)
    return taken_us
