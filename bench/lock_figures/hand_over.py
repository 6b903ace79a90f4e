"""How long it takes from a release to the next waiter's answer: on one node, across two, and with a library that polls."""

import random
import sys
import threading
import time
from pathlib import Path

from side_by_side import servers
from side_by_side.figures import median, percentile
from side_by_side.tell import tell

from . import wire

KEY = b"orders:hand-over"


def measure(field: servers.Field, first: servers.Target, second: servers.Target, count: int, site: Path | None) -> dict:
    """Per way: percentiles in ms, and the upstream commands of one hand-over."""
    found = {}
    ways = [("same node", first, first), ("across nodes", first, second)]
    slices = {name: [] for name, _, _ in ways} | {"direct": []}
    called: dict[str, dict[str, float]] = {}
    # In slices, so that both see the same machine.
    for _ in range(10):
        for name, one, other in random.sample(ways, 2):
            slices[name] += _slice(one, other, count // 10)
        slices["direct"] += _pushed(field.redis, count // 10)
    for name, one, other in ways:
        called[name] = _commands_of_one(field, one, other)
        found[name] = _figures(slices[name]) | {"commands": called[name]}
    found["direct"] = _figures(slices["direct"])
    polled = _polling(field.redis, site, min(count, 60)) if site else []
    if polled:
        found["polling"] = _figures(polled)
    tell("hand-over  " + "  ".join(f"{name} {row['p50_ms']:.3f} / {row['p99_ms']:.3f} ms" for name, row in found.items()))
    return found


def _figures(taken_s: list[float]) -> dict:
    return {
        "p50_ms": median(taken_s) * 1e3, "p99_ms": percentile(taken_s, 99) * 1e3, "longest_ms": max(taken_s) * 1e3, "count": len(taken_s),
    }


def _await_line(client: wire.Client, owner: bytes) -> None:
    while client.call(b"LOCK.POSITION", KEY, owner) != b":1":
        time.sleep(0.0005)


def _slice(one: servers.Target, other: servers.Target, count: int) -> list[float]:
    holder, waiter = (wire.Client(one), b"ann"), (wire.Client(other), b"bob")
    looks = {id(holder[0]): wire.Client(one), id(waiter[0]): wire.Client(other)}
    assert holder[0].call(b"LOCK.ACQUIRE", KEY, holder[1]).startswith(b":")
    taken_s = []
    for _ in range(count):
        waiter[0].ask(b"LOCK.ACQUIRE", KEY, waiter[1], b"WAIT", b"60000")
        _await_line(looks[id(waiter[0])], waiter[1])
        begun = time.perf_counter()
        holder[0].ask(b"LOCK.RELEASE", KEY, holder[1])
        assert waiter[0].line().startswith(b":")
        taken_s.append(time.perf_counter() - begun)
        assert holder[0].line() == b":1"
        holder, waiter = waiter, holder
    assert holder[0].call(b"LOCK.RELEASE", KEY, holder[1]) == b":1"
    for client in (holder[0], waiter[0], *looks.values()):
        client.close()
    return taken_s


def _pushed(redis: servers.Target, count: int) -> list[float]:
    """What Redis and this machine need in any case: from an LPUSH to the answer of the BLPOP that waits for it."""
    pushes, waits = wire.Client(redis), wire.Client(redis)
    taken_s = []
    for _ in range(count):
        waits.ask(b"BLPOP", b"orders:pushed", b"0")
        while b"blocked_clients:1" not in pushes.text(b"INFO", b"clients"):
            time.sleep(0.0005)
        begun = time.perf_counter()
        pushes.ask(b"LPUSH", b"orders:pushed", b"x")
        for _ in range(5):
            waits.line()
        taken_s.append(time.perf_counter() - begun)
        pushes.line()
    for client in (pushes, waits):
        client.close()
    return taken_s


def _commands_of_one(field: servers.Field, one: servers.Target, other: servers.Target, rounds: int = 40) -> dict[str, float]:
    """What one hand-over sends upstream, without what scripts call themselves, as a mean."""
    sums: dict[str, int] = {}
    holder, waiter, look = wire.Client(one), wire.Client(other), wire.Client(other)
    for _ in range(rounds):
        assert holder.call(b"LOCK.ACQUIRE", KEY, b"ann").startswith(b":")
        waiter.ask(b"LOCK.ACQUIRE", KEY, b"bob", b"WAIT", b"60000")
        _await_line(look, b"bob")
        # What the wait began with, the watch link's look, is over when nothing more comes.
        time.sleep(0.02)
        before = wire.commands(field.redis)
        holder.ask(b"LOCK.RELEASE", KEY, b"ann")
        waiter.line(), holder.line()
        time.sleep(0.02)
        for name, calls in wire.calls_between(before, wire.commands(field.redis)).items():
            sums[name] = sums.get(name, 0) + calls
        assert waiter.call(b"LOCK.RELEASE", KEY, b"bob") == b":1"
    for client in (holder, waiter, look):
        client.close()
    return {name: calls / rounds for name, calls in sums.items() if calls / rounds >= 0.5}


def _polling(redis: servers.Target, site: Path, count: int) -> list[float]:
    """redis-py's Lock straight on Redis, as most people have it today; it asks again every 0.1 s."""
    sys.path.append(str(site))
    try:
        from redis import Redis
    except ImportError:
        return []
    taken_s: list[float] = []
    ends = threading.Semaphore(0)
    waits = threading.Semaphore(0)
    granted: list[float] = []

    def waiter() -> None:
        lock = Redis(port=redis.port).lock("polled", timeout=30)
        for _ in range(count):
            waits.acquire()
            lock.acquire()
            granted.append(time.perf_counter())
            lock.release()
            ends.release()

    thread = threading.Thread(target=waiter, daemon=True)
    thread.start()
    lock = Redis(port=redis.port).lock("polled", timeout=30)
    for _ in range(count):
        lock.acquire()
        waits.release()
        # Anywhere between two of its tries.
        time.sleep(0.15 + random.random() * 0.1)
        begun = time.perf_counter()
        lock.release()
        ends.acquire()
        taken_s.append(granted[-1] - begun)
    thread.join()
    return taken_s
