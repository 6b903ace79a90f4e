"""The figures that Lockgate is to reach, and whether a run reached them."""

from dataclasses import dataclass

from .figures import Cells
from .memory import MIB
from .pause import DISTURBANCES, QUIET

ADDED_LATENCY_US_MAX = 30.0
SETTLED_MIB_MAX = 30.0
IDLE_MIB_MAX = 100.0
# A pause counts as one of Lockgate's when it is clearly longer than what Redis itself, or a proxy with a link for each client,
# lets the same neighbour see: by half, and by more than a scheduler does to any process on a busy machine.
PAUSE_FACTOR_MAX = 1.5
PAUSE_SLACK_MS = 2.0


@dataclass
class Verdict:
    """One figure: what it is, what was to be reached, what was measured."""

    figure: str
    reach: str
    measured: str
    met: bool


def judge(results: dict) -> list[Verdict]:
    """A verdict for every figure that this run measured."""
    return [*_throughput(results), *_latency(results), *_memory(results), *_pauses(results)]


def _throughput(results: dict) -> list[Verdict]:
    cells = Cells(results.get("throughput", []))
    verdicts = []
    for depth in sorted({cell[2] for cell in cells}):
        most = 1.0 if depth == 1 else 0.5
        for connections in sorted({cell[1] for cell in cells}):
            ratios = {
                cell[0]: cells.ratio(cell, "lockgate", "twemproxy", "proxy_cpu_us")
                for cell in cells if cell[1:] == (connections, depth)
            }
            ratios = {command: ratio for command, ratio in ratios.items() if ratio is not None}
            if ratios:
                verdicts.append(Verdict(
                    f"CPU per request, {_many(connections)}, `-P {depth}`", f"≤ {most:.2f} × twemproxy",
                    ", ".join(f"{ratio:.2f} ({command})" for command, ratio in ratios.items()),
                    all(ratio <= most for ratio in ratios.values()),
                ))
    ratios = {
        cell[0]: cells.ratio(cell, "lockgate", "twemproxy", "requests_per_s") for cell in cells if cell[1:] == (50, 1)
    }
    if ratios and None not in ratios.values():
        verdicts.append(Verdict(
            "requests/s, 50 connections, `-P 1`", "≥ 1.00 × twemproxy",
            ", ".join(f"{ratio:.2f} ({command})" for command, ratio in ratios.items()),
            all(ratio >= 1 for ratio in ratios.values()),
        ))
    return verdicts


def _latency(results: dict) -> list[Verdict]:
    row = results.get("latency", {}).get("lockgate")
    if not row:
        return []
    return [Verdict("median latency added, one connection", f"≤ {ADDED_LATENCY_US_MAX:.0f} µs", f"{row['added_us']:.1f} µs",
                    row["added_us"] <= ADDED_LATENCY_US_MAX)]


def _memory(results: dict) -> list[Verdict]:
    row = results.get("memory", {}).get("lockgate")
    if not row:
        return []
    settled, idle = row["settled"] / MIB, row["idle_total"] / MIB
    return [
        Verdict(f"memory {row['settled_after_s']:.0f} s after load", f"< {SETTLED_MIB_MAX:.0f} MB", f"{settled:.1f} MiB",
                settled < SETTLED_MIB_MAX),
        Verdict(f"memory with {row['idle_connections']:,} idle connections", f"< {IDLE_MIB_MAX:.0f} MB", f"{idle:.1f} MiB",
                idle < IDLE_MIB_MAX),
    ]


def _pauses(results: dict) -> list[Verdict]:
    rows = {(row["target"], row["disturbance"]): row for row in results.get("pauses", [])}
    verdicts = []
    for disturbance in DISTURBANCES:
        mine = rows.get(("lockgate", disturbance))
        peers = [row["p99_ms"] for (target, what), row in rows.items() if what == disturbance and target in ("direct", "haproxy")]
        if disturbance == QUIET or not mine or not peers:
            continue
        most = max(peers) * PAUSE_FACTOR_MAX + PAUSE_SLACK_MS
        verdicts.append(Verdict(f"p99 of calm clients beside {disturbance}", f"≤ {most:.1f} ms (direct or HAProxy × "
                                f"{PAUSE_FACTOR_MAX} + {PAUSE_SLACK_MS:.0f} ms)", mine["stuck"] or f"{mine['p99_ms']:.1f} ms", mine["p99_ms"] <= most and not mine["stuck"]))
    return verdicts


def _many(connections: int) -> str:
    return "1 connection" if connections == 1 else f"{connections} connections"
