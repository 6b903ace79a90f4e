"""Whether one client's load shows as a pause of others.

Four calm connections ask for a small key in turn, a request each millisecond, while something unpleasant goes on at the same
target. A wait that is longer than that stands for all the requests that would have come meanwhile: they are counted with what
would have been left of it, so that one long pause is not one sample among thousands of short ones.
"""

import multiprocessing
import random
import select
import signal
import socket
import time
from multiprocessing.synchronize import Event

from . import machine
from .figures import median, percentile
from .servers import Target, request
from .tell import tell

# More than the links which a proxy may share among clients, so that some calm client shares one with the noisy client.
CALM_CONNECTIONS = 4
INTERVAL_MS = 1.0
PIPELINE = 10_000
BIG_VALUE = b"v" * (10 * 1024 * 1024)
UNREAD_REPLIES = 20
WARM_UP_S = 0.2

QUIET = "quiet"
PIPELINES = "pipelines of 10,000"
BIG_VALUES = "10 MB values"
NEVER_READS = "a client that never reads"
DISTURBANCES = (QUIET, PIPELINES, BIG_VALUES, NEVER_READS)


def measure(targets: list[Target], rounds: int, seconds: float) -> list[dict]:
    """One row per target and disturbance: p50, p99 and the longest of the calm clients' waits, in ms, medians of the rounds."""
    with targets[0].connect() as setup:
        setup.sendall(request(b"SET", b"bench:big", BIG_VALUE))
        setup.recv(64)
    runs: dict[tuple[str, str], list[dict]] = {}
    for round_number in range(rounds):
        for disturbance in DISTURBANCES:
            for target in random.sample(targets, len(targets)):
                runs.setdefault((target.kind.name, disturbance), []).append(_one(target, disturbance, seconds))
        tell(f"pauses  round {round_number + 1}/{rounds}")
    rows = []
    for (name, disturbance), found in runs.items():
        rows.append({"target": name, "disturbance": disturbance, "rounds": found,
                     **{figure: median(run[figure] for run in found) for figure in ("p50_ms", "p99_ms", "max_ms")},
                     "worst_ms": max(run["max_ms"] for run in found),
                     "peak_bytes": max(run["peak_bytes"] for run in found)})
    for row in sorted(rows, key=lambda row: (DISTURBANCES.index(row["disturbance"]), row["target"])):
        tell(f"pauses  {row['disturbance']:26} {row['target']:10} p50 {row['p50_ms']:.2f}  p99 {row['p99_ms']:.2f}  "
             f"max {row['max_ms']:.2f} ms  {row['peak_bytes'] / 2**20:.0f} MiB")
    return rows


def _one(target: Target, disturbance: str, seconds: float) -> dict:
    under_way, over = multiprocessing.Event(), multiprocessing.Event()
    noise = None
    if disturbance != QUIET:
        noise = multiprocessing.Process(target=_NOISE[disturbance], args=(target.port, under_way, over), daemon=True)
        noise.start()
        if not under_way.wait(20):
            noise.kill()
            raise TimeoutError(f"{target.kind.label}: '{disturbance}' did not get under way")
    try:
        waits_ms, peak = _calm(target, seconds)
    finally:
        over.set()
        if noise:
            noise.join(1)
            if noise.is_alive():
                noise.kill()
                noise.join()
    return {"p50_ms": percentile(waits_ms, 50), "p99_ms": percentile(waits_ms, 99), "max_ms": max(waits_ms), "peak_bytes": peak}


def _calm(target: Target, seconds: float) -> tuple[list[float], int]:
    clients = [target.connect() for _ in range(CALM_CONNECTIONS)]
    ask = request(b"GET", b"key:000000000001")
    waits_ms: list[float] = []
    peak = 0
    turn = 0
    warm = time.perf_counter() + WARM_UP_S
    end = warm + seconds
    while (asked := time.perf_counter()) < end:
        client = clients[turn % CALM_CONNECTIONS]
        client.sendall(ask)
        client.recv(4096)
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
    for client in clients:
        client.close()
    return waits_ms, max(peak, machine.resident_bytes(target.pid))


def _connect(port: int):
    # Forked from a program that turns SIGTERM and ctrl-C into a tidy end; a noisy client simply ends.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def _pipelines(port: int, under_way: Event, over: Event) -> None:
    client = _connect(port)
    asks = request(b"GET", b"key:000000000001") * PIPELINE
    client.sendall(request(b"GET", b"key:000000000001"))
    replies_bytes = len(client.recv(4096)) * PIPELINE
    under_way.set()
    while not over.is_set():
        # Requests go out in parts, so that no side waits for the other with both buffers full.
        owed, sent = replies_bytes, 0
        client.setblocking(False)
        while owed:
            try:
                sent += client.send(asks[sent:sent + 65_536]) if sent < len(asks) else 0
            except BlockingIOError:
                pass
            try:
                owed -= len(client.recv(65_536))
            except BlockingIOError:
                if sent == len(asks):
                    _wait_readable(client)


def _wait_readable(client) -> None:
    select.select([client], [], [], 1.0)


def _big_values(port: int, under_way: Event, over: Event) -> None:
    client = _connect(port)
    write, read = request(b"SET", b"bench:big2", BIG_VALUE), request(b"GET", b"bench:big2")
    under_way.set()
    while not over.is_set():
        client.sendall(write)
        client.recv(64)
        client.sendall(read)
        owed = len(b"$10485760\r\n") + len(BIG_VALUE) + 2
        while owed:
            owed -= len(client.recv(min(owed, 1 << 18)))


def _never_reads(port: int, under_way: Event, over: Event) -> None:
    client = _connect(port)
    client.sendall(request(b"GET", b"bench:big") * UNREAD_REPLIES)
    under_way.set()
    over.wait()


_NOISE = {PIPELINES: _pipelines, BIG_VALUES: _big_values, NEVER_READS: _never_reads}
