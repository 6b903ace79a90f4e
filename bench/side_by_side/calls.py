"""System calls and context switches per request, where `perf` may count them."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from .servers import Target
from .tell import tell
from .throughput import Cell, run_redis_benchmark

# By depth; counting slows the load down, so these are few.
REQUESTS = {1: 20_000, 16: 150_000, 64: 200_000}
EVENTS = ("raw_syscalls:sys_enter", "context-switches")


def available() -> bool:
    """Whether perf is there and may count these events (it takes root, or a low perf_event_paranoid)."""
    if not shutil.which("perf"):
        return False
    tried = subprocess.run(["perf", "stat", "-x", ";", "-e", ",".join(EVENTS), "true"], capture_output=True, text=True)
    return tried.returncode == 0 and "not supported" not in tried.stderr and "not counted" not in tried.stderr


def measure(redis: Target, targets: list[Target], cells: list[Cell]) -> list[dict]:
    """Per proxy and cell: calls and switches of the proxy and of Redis behind it, per request. Outside the timed rounds."""
    rows = []
    for cell in cells:
        count = REQUESTS.get(cell.depth, 100_000)
        for target in targets:
            row = {"target": target.kind.name, "command": cell.command, "connections": cell.connections, "depth": cell.depth}
            for role, process in (("proxy", target), ("redis", redis)):
                if role == "proxy" and not target.is_proxy:
                    continue
                calls, switches = _count(process, target, cell, count)
                row |= {f"{role}_calls": calls / count, f"{role}_switches": switches / count}
            rows.append(row)
        tell(f"system calls a request  {str(cell):18} " + "  ".join(
            f"{row['target']} {row.get('proxy_calls', 0):.3f}+{row['redis_calls']:.3f}" for row in rows[-len(targets):]))
    return rows


def _count(process: Target, target: Target, cell: Cell, count: int) -> tuple[float, float]:
    with tempfile.NamedTemporaryFile(mode="r") as output:
        run_redis_benchmark(target, cell, count, prefix=(
            "perf", "stat", "-x", ";", "-o", output.name, "-e", ",".join(EVENTS), "-p", str(process.pid), "--"))
        text = Path(output.name).read_text()
    found = [float(re.search(rf"^([0-9.]+);[^;]*;{re.escape(event)}", text, re.MULTILINE).group(1)) for event in EVENTS]
    return found[0], found[1]
