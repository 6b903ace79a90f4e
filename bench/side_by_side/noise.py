"""The unpleasant neighbours: clients that do nothing wrong, and should trouble nobody else."""

import multiprocessing
import select
import signal
import socket

from .servers import Target, request

PIPELINE = 10_000
BIG_VALUE = b"v" * (10 * 1024 * 1024)
# Small enough that Redis is not itself held up by copying one, asked for often enough to fill any buffer soon.
UNREAD_VALUE = b"v" * (1024 * 1024)
UNREAD_INTERVAL_S = 0.005

PIPELINES = "pipelines of 10,000"
BIG_VALUES = "10 MB values"
NEVER_READS = "a client that never reads"


class Noise:
    """One such client in a process of its own, at work while the `with` block runs."""

    def __init__(self, target: Target, kind: str):
        self._under_way, self._over = multiprocessing.Event(), multiprocessing.Event()
        self._done = multiprocessing.Value("L", 0)
        self._process = multiprocessing.Process(target=self._work, args=(target.port, kind), daemon=True)

    def __enter__(self) -> "Noise":
        self._process.start()
        if not self._under_way.wait(20):
            self.__exit__()
            raise TimeoutError("the noisy client did not get under way")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._process.join(1)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    @property
    def done(self) -> int:
        """How many pipelines, values or requests it has got through."""
        return self._done.value

    def _work(self, port: int, kind: str) -> None:
        # Forked from a program that turns ctrl-C and SIGTERM into a tidy end; this one simply ends.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                {PIPELINES: self._pipelines, BIG_VALUES: self._big_values, NEVER_READS: self._never_reads}[kind](client)
        except OSError:
            # How far it got is known by `done`.
            pass

    def _pipelines(self, client: socket.socket) -> None:
        one = request(b"GET", b"key:000000000001")
        client.sendall(one)
        replies_bytes = len(client.recv(4096)) * PIPELINE
        asks = memoryview(one * PIPELINE)
        client.setblocking(False)
        self._under_way.set()
        while not self._over.is_set():
            # Written and read at once, or both sides would wait with their buffers full.
            unsent, owed = asks, replies_bytes
            while owed:
                readable, writable, _ = select.select([client], [client] if unsent else [], [], 30)
                if writable:
                    unsent = unsent[client.send(unsent):]
                if readable:
                    owed -= _read(client, owed)
                if not readable and not writable:
                    return
            self._done.value += 1

    def _big_values(self, client: socket.socket) -> None:
        write, read = request(b"SET", b"bench:big2", BIG_VALUE), request(b"GET", b"bench:big2")
        self._under_way.set()
        while not self._over.is_set():
            client.sendall(write)
            client.recv(64)
            client.sendall(read)
            owed = len(b"$10485760\r\n") + len(BIG_VALUE) + 2
            while owed:
                owed -= _read(client, owed)
            self._done.value += 1

    def _never_reads(self, client: socket.socket) -> None:
        client.sendall(request(b"SET", b"bench:unread", UNREAD_VALUE))
        client.recv(64)
        client.setblocking(False)
        ask = request(b"GET", b"bench:unread")
        self._under_way.set()
        while not self._over.wait(UNREAD_INTERVAL_S):
            try:
                client.send(ask)
                self._done.value += 1
            except BlockingIOError:
                # The other side has stopped reading, as it may.
                pass


def _read(client: socket.socket, most: int) -> int:
    piece = client.recv(min(most, 1 << 18))
    if not piece:
        raise ConnectionError("closed in the middle of a reply")
    return len(piece)
