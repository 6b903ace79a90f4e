"""What the kernel tells about processes and about the machine they share."""

import os
import platform
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process with all its threads, past ones too, to the nanosecond.

    /proc/<pid>/stat counts in ticks of 10 ms; the process's own CPU clock has the same sum without the rounding.
    """
    return time.clock_gettime((~pid << 3) | 2)


def user_and_system_seconds(pid: int) -> tuple[float, float]:
    """How that time splits into user and system, in ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / TICKS_PER_SECOND, int(fields[12]) / TICKS_PER_SECOND


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM now."""
    return _status_kib(pid, "VmRSS") * 1024


def peak_resident_bytes(pid: int) -> int:
    """The most memory that a process had in RAM so far."""
    return _status_kib(pid, "VmHWM") * 1024


def _status_kib(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise LookupError(f"/proc/{pid}/status has no {field}")


@dataclass
class Busy:
    """CPU seconds of the whole machine: what ran, and what a hypervisor took away."""

    ran: float
    stolen: float

    @staticmethod
    def now() -> "Busy":
        user, nice, system, _idle, _iowait, irq, softirq, steal = [
            int(field) / TICKS_PER_SECOND for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
        ]
        return Busy(user + nice + system + irq + softirq, steal)


def own_cpu_seconds() -> float:
    """CPU time of this program and of the children it has already waited for."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


def raise_open_files() -> int:
    """Lifts our limit of open files, which children inherit, as far as we may; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, hard), max(wanted, hard)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def first_line(*command: str) -> str:
    """The first line that a command prints, or an empty text where it does not run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).strip().split("\n")[0]


def describe(root: Path) -> dict[str, str]:
    """Machine and versions, in the words of the report."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.machine(),
    )
    total_kib = int(Path("/proc/meminfo").read_text().split()[1])
    os_name = next(
        (line.split("=")[1].strip('"') for line in Path("/etc/os-release").read_text().splitlines() if line.startswith("PRETTY_NAME")),
        platform.system(),
    )
    commit = first_line("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
    changed = first_line("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no", "--", "src", "Cargo.toml", "Cargo.lock", "lua")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cpu": f"{os.cpu_count()} × {model}",
        "memory": f"{total_kib / 1024 / 1024:.0f} GiB",
        "system": f"{os_name}, Linux {platform.release()}",
        "commit": commit + (" with local changes" if changed else ""),
    }
