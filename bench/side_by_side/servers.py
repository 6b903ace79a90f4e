"""Redis and the proxies before it: each on a free loopback port, in one temporary folder, gone when we are."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from . import machine

PR_SET_PDEATHSIG = 1
STARTED_WITHIN_S = 15.0
STOPPED_WITHIN_S = 10.0
CONNECTIONS_MAX = 12_000

_libc = ctypes.CDLL(None, use_errno=True)


class StartFailed(RuntimeError):
    """A server did not come up; the message ends with what it printed."""


@dataclass(frozen=True)
class Kind:
    """What can be measured: how it is named on the command line and in tables, and how many files one client costs it."""

    name: str
    label: str
    files_per_client: int
    workers: int = 1


DIRECT = Kind("direct", "direct", 1)
LOCKGATE = Kind("lockgate", "Lockgate", 1)
LOCKGATE_2 = Kind("lockgate2", "Lockgate, 2 workers", 1, workers=2)
OTHER = Kind("other", "Lockgate, other build", 1)
HAPROXY = Kind("haproxy", "HAProxy", 2)
TWEMPROXY = Kind("twemproxy", "twemproxy", 1)
KINDS = (DIRECT, LOCKGATE, LOCKGATE_2, OTHER, HAPROXY, TWEMPROXY)


@dataclass
class Target:
    """Something that clients can connect to."""

    kind: Kind
    port: int
    process: subprocess.Popen

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_proxy(self) -> bool:
        return self.kind is not DIRECT

    def connect(self, timeout_s: float = 30.0) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


class Field:
    """The servers of one run. Leaving it stops them all, whatever the reason."""

    def __init__(self, lockgate: Path, other: Path | None = None):
        self.binaries = {LOCKGATE: lockgate, LOCKGATE_2: lockgate, OTHER: other}
        self.folder = Path(tempfile.mkdtemp(prefix="lockgate-bench-"))
        self.running: list[Target] = []
        self.redis: Target | None = None

    def __enter__(self) -> "Field":
        try:
            self.redis = self._start_redis()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for target in list(reversed(self.running)):
            self.stop(target)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, kind: Kind, under: tuple[str, ...] = ()) -> Target:
        """A fresh process of this kind in front of the one Redis; for `direct` that Redis itself.

        `under` is a command that runs it, such as a profiler.
        """
        assert self.redis, "the field is entered before anything is started in it"
        if kind is DIRECT:
            return self.redis
        if kind is HAPROXY:
            return self._start_haproxy(under)
        if kind is TWEMPROXY:
            return self._start_twemproxy(under)
        return self._start_lockgate(kind, under)

    def stop(self, target: Target) -> None:
        """Asks the process to end, insists after a while, and waits until it is gone."""
        if target in self.running:
            self.running.remove(target)
        if target.process.poll() is None:
            target.process.send_signal(signal.SIGTERM)
            try:
                target.process.wait(STOPPED_WITHIN_S)
            except subprocess.TimeoutExpired:
                target.process.kill()
                target.process.wait()

    def log_of(self, target: Target) -> str:
        return self._log(target.kind, target.port).read_text(errors="replace")

    def _start_redis(self) -> Target:
        port = free_port()
        return self._spawn(DIRECT, port, [
            "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", str(self.folder), "--maxclients", str(CONNECTIONS_MAX), "--tcp-backlog", "4096",
            "--io-threads", "1", "--daemonize", "no", "--protected-mode", "no",
        ])

    def _start_lockgate(self, kind: Kind, under: tuple[str, ...]) -> Target:
        port = free_port()
        environment = {
            "LOCKGATE_WORKERS": str(kind.workers),
            "LOCKGATE_LIMITS__CONNECTIONS": str(CONNECTIONS_MAX),
        }
        return self._spawn(kind, port, [
            *under, str(self.binaries[kind]), "serve", "--listen", f"127.0.0.1:{port}",
            "--upstream", f"redis://127.0.0.1:{self.redis.port}",
        ], environment)

    def _start_haproxy(self, under: tuple[str, ...]) -> Target:
        port = free_port()
        # One client costs HAProxy two files and a little; more clients than it has files for it does not start with.
        clients_max = min(CONNECTIONS_MAX, (machine.raise_open_files() - 60) // 2)
        config = self.folder / f"haproxy-{port}.cfg"
        config.write_text(
            f"global\n  nbthread 1\n  maxconn {clients_max}\n"
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 10m\n  timeout server 10m\n"
            f"listen redis\n  bind 127.0.0.1:{port} backlog 4096\n  maxconn {clients_max}\n"
            f"  server redis 127.0.0.1:{self.redis.port}\n"
        )
        return self._spawn(HAPROXY, port, [*under, "haproxy", "-db", "-f", str(config)])

    def _start_twemproxy(self, under: tuple[str, ...]) -> Target:
        port = free_port()
        config = self.folder / f"twemproxy-{port}.yml"
        config.write_text(
            f"redis:\n  listen: 127.0.0.1:{port}\n  redis: true\n  hash: fnv1a_64\n  distribution: modula\n"
            "  auto_eject_hosts: false\n  preconnect: true\n  backlog: 4096\n  server_connections: 1\n"
            f"  servers:\n    - 127.0.0.1:{self.redis.port}:1\n"
        )
        return self._spawn(TWEMPROXY, port, [
            *under, "nutcracker", "-c", str(config), "-o", str(self.folder / f"twemproxy-{port}.out"),
            "-p", str(self.folder / f"twemproxy-{port}.pid"), "-a", "127.0.0.1", "-s", str(free_port()),
        ])

    def _log(self, kind: Kind, port: int) -> Path:
        return self.folder / f"{kind.name}-{port}.log"

    def _spawn(self, kind: Kind, port: int, command: list[str], environment: dict[str, str] | None = None) -> Target:
        with self._log(kind, port).open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder,
                env={**os.environ, **(environment or {})},
                # Of its own group, so that ctrl-C reaches only us and we stop things in order; killed with us at the latest.
                # Not of its own session: where the kernel shares out CPU by session (autogroup), that is another weight than ours.
                process_group=0, preexec_fn=_die_with_parent,
            )
        target = Target(kind, port, process)
        self.running.append(target)
        try:
            self._wait_until_it_answers(target)
        except BaseException:
            self.stop(target)
            raise
        return target

    def _wait_until_it_answers(self, target: Target) -> None:
        give_up = time.monotonic() + STARTED_WITHIN_S
        while time.monotonic() < give_up and target.process.poll() is None:
            try:
                with target.connect(timeout_s=1.0) as connection:
                    connection.sendall(request(b"GET", b"bench:ready"))
                    if connection.recv(64).startswith(b"$"):
                        return
            except OSError:
                pass
            time.sleep(0.02)
        raise StartFailed(f"{target.kind.label} did not answer on port {target.port}:\n{self.log_of(target)[-2000:]}")


def request(*words: bytes) -> bytes:
    """A command as clients send it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
