"""Memory: what is left after load, and what a connection costs that has spoken once and then stays idle."""

import time

from . import machine
from .servers import Field, Kind, LOCKGATE_2, DIRECT, Target, request
from .tell import tell
from .throughput import Cell, run_redis_benchmark

MIB = 1024 * 1024
BIG_VALUE_BYTES = 10 * MIB
BIG_VALUE_CONNECTIONS = 20
# Opened at a time, which any backlog holds.
BATCH = 200
# Ours and the target's own: what else is open besides the clients.
SPARE_FILES = 100


def measure(field: Field, kinds: list[Kind], idle_connections: int, settle_s: float) -> dict[str, dict[str, float]]:
    """Per proxy, each in a fresh process: bytes at the start, after load, some seconds later; and per idle connection."""
    kinds = [kind for kind in kinds if kind not in (DIRECT, LOCKGATE_2)]
    found: dict[str, dict[str, float]] = {}
    loaded = []
    for kind in kinds:
        target = field.start(kind)
        row = {"fresh": machine.resident_bytes(target.pid)}
        run_redis_benchmark(target, Cell("get", 500, 64), 400_000)
        row["after_pipelines"] = machine.resident_bytes(target.pid)
        _big_values(target)
        row["after_big_values"] = machine.resident_bytes(target.pid)
        row["peak"] = machine.peak_resident_bytes(target.pid)
        found[kind.name] = row
        loaded.append(target)
    time.sleep(settle_s)
    for target in loaded:
        found[target.kind.name]["settled"] = machine.resident_bytes(target.pid)
        found[target.kind.name]["settled_after_s"] = settle_s
        field.stop(target)
    for kind in kinds:
        found[kind.name] |= _idle(field, kind, idle_connections)
    for name, row in found.items():
        tell(f"memory  {name}: " + "  ".join(f"{what} {bytes_ / MIB:.1f}" for what, bytes_ in row.items()
                                             if what in ("fresh", "after_pipelines", "after_big_values", "peak", "settled", "idle_total"))
             + f" MiB  {row['per_idle_connection'] / 1024:.1f} KiB a connection")
    return found


def _big_values(target: Target) -> None:
    """Many clients write a large value and read it back, all at once."""
    clients = [target.connect() for _ in range(BIG_VALUE_CONNECTIONS)]
    value = b"v" * BIG_VALUE_BYTES
    for client in clients[:4]:
        client.sendall(request(b"SET", b"bench:big", value))
        _receive(client, len(b"+OK\r\n"))
    for client in clients:
        client.sendall(request(b"GET", b"bench:big"))
    for client in clients:
        _receive(client, len(b"$10485760\r\n") + BIG_VALUE_BYTES + 2)
        client.close()


def _idle(field: Field, kind: Kind, wanted: int) -> dict[str, float]:
    """Opens connections, lets each send one request, and weighs the proxy before and after."""
    target = field.start(kind)
    count = min(wanted, (machine.raise_open_files() - SPARE_FILES) // kind.files_per_client)
    ask = request(b"GET", b"key:000000000001")
    before = machine.resident_bytes(target.pid)
    clients = []
    try:
        while len(clients) < count:
            batch = [target.connect() for _ in range(min(BATCH, count - len(clients)))]
            clients += batch
            for client in batch:
                client.sendall(ask)
            for client in batch:
                if not client.recv(4096).startswith(b"$"):
                    raise ConnectionError(f"{kind.label} did not answer connection {len(clients)}")
        time.sleep(3.0)
        after = machine.resident_bytes(target.pid)
    finally:
        for client in clients:
            client.close()
    field.stop(target)
    return {"idle_connections": count, "idle_total": after, "per_idle_connection": (after - before) / count}


def _receive(client, count: int) -> None:
    """Reads that many bytes and forgets them."""
    while count > 0:
        piece = client.recv(min(count, 1 << 18))
        if not piece:
            raise ConnectionError("closed in the middle of a reply")
        count -= len(piece)
