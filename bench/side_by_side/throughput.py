"""Requests per second and CPU per request, under redis-benchmark, for every depth and number of connections."""

import csv
import io
import random
import subprocess
import time
from dataclasses import asdict, dataclass

from . import machine
from .servers import Field, Kind, Target
from .tell import tell

KEYS = 10_000
# Requests of the short run, by depth, that warms a process up and finds out how many a timed run takes.
WARM_UP_REQUESTS = {1: 5_000, 16: 40_000, 64: 80_000}


@dataclass(frozen=True)
class Cell:
    """One kind of load: the command, how many connections send it, and how many requests each has under way."""

    command: str
    connections: int
    depth: int

    def __str__(self) -> str:
        return f"{self.command} c={self.connections} P={self.depth}"


@dataclass
class Sample:
    """One measurement of one cell on one target."""

    target: str
    command: str
    connections: int
    depth: int
    round: int
    requests: int
    seconds: float
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    # Zero for `direct`, where there is no proxy.
    proxy_cpu_us: float
    redis_cpu_us: float
    proxy_user_share: float
    # CPU of processes which are not part of the measurement, and time the hypervisor took, in cores.
    others_cores: float
    stolen_cores: float


class LoadFailed(RuntimeError):
    """redis-benchmark did not get through; the message ends with what it said."""


def fill(field: Field) -> None:
    """Writes the keys that the load reads."""
    run_redis_benchmark(field.redis, Cell("set", 50, 64), KEYS * 20)


def measure(field: Field, kinds: list[Kind], cells: list[Cell], rounds: int, seconds: float) -> list[dict]:
    """Every cell on every kind of target, once a round; within a cell they follow one another directly, in random order.

    Each measurement finds a fresh process, a little warmed up: twemproxy never gives back what a deep pipeline made it take,
    and then costs twice as much per request in every later load. To start it afresh is to show it at its best.
    """
    fill(field)
    samples: list[dict] = []
    for round_number in range(rounds):
        for cell in cells:
            taken = {}
            for kind in random.sample(kinds, len(kinds)):
                target = field.start(kind)
                warm_up = max(WARM_UP_REQUESTS.get(cell.depth, 40_000), cell.connections * cell.depth)
                rate = float(run_redis_benchmark(target, cell, warm_up)[0]["rps"])
                # Enough that opening and closing the connections is a small part, also where all goes slowly.
                count = max(int(rate * seconds), cell.connections * max(cell.depth * 4, 100))
                taken[kind.name] = sample = _sample(field, target, cell, round_number, count)
                samples.append(asdict(sample))
                if target.is_proxy:
                    field.stop(target)
            tell(f"round {round_number + 1}/{rounds}  {str(cell):18} " + "  ".join(
                f"{kind.name} {taken[kind.name].requests_per_s:,.0f}/s {taken[kind.name].proxy_cpu_us:.2f} µs" for kind in kinds))
    return samples


def _sample(field: Field, target: Target, cell: Cell, round_number: int, count: int) -> Sample:
    redis = field.redis
    proxy_before, redis_before = machine.cpu_seconds(target.pid), machine.cpu_seconds(redis.pid)
    split_before = machine.user_and_system_seconds(target.pid)
    own_before, busy_before = machine.own_cpu_seconds(), machine.Busy.now()
    row, wall_s = run_redis_benchmark(target, cell, count)
    busy, own = machine.Busy.now(), machine.own_cpu_seconds() - own_before
    proxy_s = machine.cpu_seconds(target.pid) - proxy_before if target.is_proxy else 0.0
    redis_s = machine.cpu_seconds(redis.pid) - redis_before
    split = [after - before for after, before in zip(machine.user_and_system_seconds(target.pid), split_before)]
    return Sample(
        target=target.kind.name, command=cell.command, connections=cell.connections, depth=cell.depth,
        round=round_number, requests=count, seconds=count / float(row["rps"]), requests_per_s=float(row["rps"]),
        p50_ms=float(row["p50_latency_ms"]), p99_ms=float(row["p99_latency_ms"]), max_ms=float(row["max_latency_ms"]),
        proxy_cpu_us=proxy_s * 1e6 / count, redis_cpu_us=redis_s * 1e6 / count,
        proxy_user_share=split[0] / sum(split) if target.is_proxy and sum(split) else 0.0,
        others_cores=max(0.0, busy.ran - busy_before.ran - proxy_s - redis_s - own) / wall_s,
        stolen_cores=(busy.stolen - busy_before.stolen) / wall_s,
    )


def run_redis_benchmark(target: Target, cell: Cell, count: int, prefix: tuple[str, ...] = ()) -> tuple[dict[str, str], float]:
    """Sends `count` requests; returns redis-benchmark's own row of figures and the seconds from start to exit."""
    command = [
        *prefix, "redis-benchmark", "-h", "127.0.0.1", "-p", str(target.port), "--csv", "-r", str(KEYS),
        "-t", cell.command, "-c", str(cell.connections), "-P", str(cell.depth), "-n", str(count),
    ]
    started = time.monotonic()
    try:
        # A redis-benchmark that cannot connect tries for ever.
        done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    except subprocess.TimeoutExpired as late:
        raise LoadFailed(f"{cell} on {target.kind.label}: no end after {late.timeout:.0f} s") from None
    rows = [row for row in csv.DictReader(io.StringIO(_from_header(done.stdout)))]
    if done.returncode != 0 or len(rows) != 1:
        raise LoadFailed(f"{cell} on {target.kind.label}: {(done.stderr or done.stdout)[-500:]}")
    return rows[0], time.monotonic() - started


def _from_header(output: str) -> str:
    start = output.find('"test"')
    return output[start:] if start >= 0 else ""
