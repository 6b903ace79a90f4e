"""What a proxy adds to the latency of a single calm connection.

redis-benchmark gives each load a run of its own, and between two runs this kind of machine drifts by more than a proxy adds.
Here one client goes round the targets in slices of some milliseconds, so that all of them see the same machine.
"""

import random
import time

from .figures import median, percentile
from .servers import Target, request
from .tell import tell

SLICE_REQUESTS = 120
# The first replies of a slice find caches cold and a CPU that has slept.
SLICE_WARM_UP = 20


def measure(targets: list[Target], seconds: float) -> dict[str, dict[str, float]]:
    """Per target: median, p99 and the median added to `direct`, in µs."""
    connections = {target.kind.name: target.connect() for target in targets}
    ask = request(b"GET", b"key:000000000001")
    all_us: dict[str, list[float]] = {name: [] for name in connections}
    slice_medians: dict[str, list[float]] = {name: [] for name in connections}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name in random.sample(sorted(connections), len(connections)):
            taken_us = _slice(connections[name], ask)
            all_us[name] += taken_us
            slice_medians[name].append(median(taken_us))
    for connection in connections.values():
        connection.close()
    found = {}
    for target in targets:
        name = target.kind.name
        found[name] = {
            "median_us": median(slice_medians[name]),
            "p99_us": percentile(all_us[name], 99),
            "added_us": median(mine - direct for mine, direct in zip(slice_medians[name], slice_medians["direct"])),
            "requests": len(all_us[name]),
        }
    tell("one connection  " + "  ".join(f"{name} {row['median_us']:.1f} µs (+{row['added_us']:.1f})" for name, row in found.items()))
    return found


def _slice(connection, ask: bytes) -> list[float]:
    clock = time.perf_counter_ns
    send, receive = connection.sendall, connection.recv
    taken_us = []
    for _ in range(SLICE_REQUESTS):
        before = clock()
        send(ask)
        reply = receive(4096)
        taken_us.append((clock() - before) / 1000)
        assert reply.endswith(b"\r\n"), f"a whole short reply in one piece, not {reply!r}"
    return taken_us[SLICE_WARM_UP:]
