"""Whether one client's load shows as a pause of others.

Four calm connections ask for a small key in turn, a request each millisecond, while something unpleasant goes on at the same
target. A wait that is longer than that stands for all the requests that would have come meanwhile: they are counted with what
would have been left of it, so that one long pause is not one sample among thousands of short ones.
"""

import random
import time
from contextlib import nullcontext

from . import machine
from .figures import median, percentile
from .noise import BIG_VALUES, NEVER_READS, PIPELINES, Noise
from .servers import Field, Kind, Target, request
from .tell import tell

# More than the links which a proxy may share among clients, so that some calm client shares one with the noisy client.
CALM_CONNECTIONS = 4
INTERVAL_MS = 1.0
WARM_UP_S = 0.2
# A reply that takes longer is not waited for: the target is stuck.
STUCK_AFTER_S = 10.0

QUIET = "nothing else"
DISTURBANCES = (QUIET, PIPELINES, BIG_VALUES, NEVER_READS)


def measure(field: Field, kinds: list[Kind], rounds: int, seconds: float) -> list[dict]:
    """One row per target and disturbance: p50, p99 and the longest of the calm clients' waits, in ms, medians of the rounds."""
    runs: dict[tuple[str, str], list[dict]] = {}
    for round_number in range(rounds):
        for disturbance in DISTURBANCES:
            for kind in random.sample(kinds, len(kinds)):
                target = field.start(kind)
                runs.setdefault((kind.name, disturbance), []).append(_one(target, disturbance, seconds))
                if target.is_proxy:
                    field.stop(target)
        tell(f"pauses  round {round_number + 1}/{rounds}")
    rows = [_row(name, disturbance, found) for (name, disturbance), found in runs.items()]
    for row in sorted(rows, key=lambda row: (DISTURBANCES.index(row["disturbance"]), row["target"])):
        tell(f"pauses  {row['disturbance']:26} {row['target']:10} p50 {row['p50_ms']:.2f}  p99 {row['p99_ms']:.2f}  "
             f"max {row['max_ms']:.2f} ms  peak {row['peak_bytes'] / 2**20:.0f} MiB" + (f"  {row['stuck']}" if row["stuck"] else ""))
    return rows


def _row(name: str, disturbance: str, runs: list[dict]) -> dict:
    return {
        "target": name, "disturbance": disturbance, "rounds": runs,
        **{figure: median(run[figure] for run in runs) for figure in ("p50_ms", "p99_ms", "max_ms")},
        "peak_bytes": max(run["peak_bytes"] for run in runs),
        "stuck": next((run["stuck"] for run in runs if run["stuck"]), None),
    }


def _one(target: Target, disturbance: str, seconds: float) -> dict:
    waits_ms: list[float] = []
    stuck = None
    peak = machine.resident_bytes(target.pid)
    try:
        with nullcontext() if disturbance == QUIET else Noise(target, disturbance) as noise:
            peak = _calm(target, seconds, waits_ms)
            if noise and noise.done == 0:
                stuck = "the noisy client got nothing done"
    except OSError as error:
        stuck = f"stuck: {error}"
        waits_ms.append(STUCK_AFTER_S * 1000)
    return {"p50_ms": percentile(waits_ms, 50), "p99_ms": percentile(waits_ms, 99), "max_ms": max(waits_ms),
            "peak_bytes": max(peak, machine.resident_bytes(target.pid)), "stuck": stuck}


def _calm(target: Target, seconds: float, waits_ms: list[float]) -> int:
    """Lets the calm clients ask for that long and adds their waits; returns the most memory that the target had meanwhile."""
    clients = [target.connect(STUCK_AFTER_S) for _ in range(CALM_CONNECTIONS)]
    ask = request(b"GET", b"key:000000000001")
    peak = 0
    turn = 0
    warm = time.perf_counter() + WARM_UP_S
    end = warm + seconds
    try:
        while (asked := time.perf_counter()) < end:
            client = clients[turn % CALM_CONNECTIONS]
            client.sendall(ask)
            if not client.recv(4096):
                raise ConnectionError("a calm client was disconnected")
            answered = time.perf_counter()
            waited_ms = (answered - asked) * 1000
            if answered >= warm:
                waits_ms.append(waited_ms)
                while (waited_ms := waited_ms - INTERVAL_MS) > 0:
                    waits_ms.append(waited_ms)
            turn += 1
            if turn % 100 == 0:
                peak = max(peak, machine.resident_bytes(target.pid))
            time.sleep(max(0.0, asked + INTERVAL_MS / 1000 - time.perf_counter()))
    finally:
        for client in clients:
            client.close()
    return peak
