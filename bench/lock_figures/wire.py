"""Raw connections: what they send is made beforehand, so that this program is not what is measured."""

import selectors
import socket

from side_by_side.servers import Target, request

OWNER = b"5f0c2a9e7b1d4f6e8a3c5d7e9f1b2a4c"
LEASE = b"30000"


class Client:
    """One connection, one reply line at a time."""

    def __init__(self, target: Target):
        self.socket = target.connect(timeout_s=60.0)
        self._came = b""

    def ask(self, *words: bytes) -> None:
        self.socket.sendall(request(*words))

    def line(self) -> bytes:
        """The next line; the whole reply where that is of one line."""
        while b"\r\n" not in self._came:
            more = self.socket.recv(65_536)
            if not more:
                raise OSError("the connection was closed")
            self._came += more
        line, _, self._came = self._came.partition(b"\r\n")
        return line

    def call(self, *words: bytes) -> bytes:
        self.ask(*words)
        return self.line()

    def text(self, *words: bytes) -> bytes:
        """The bulk string that is the reply, such as INFO's."""
        length = int(self.call(*words)[1:])
        while len(self._came) < length + 2:
            self._came += self.socket.recv(65_536)
        text, self._came = self._came[:length], self._came[length + 2:]
        return text

    def close(self) -> None:
        self.socket.close()


def pour(target: Target, streams: list[bytes], replies: int, expect: bytes, stay: bool = False) -> list[socket.socket]:
    """Sends each stream of pipelined commands over a connection of its own and reads as many one-line replies from each.

    Every line must begin with `expect`. With `stay` the connections stay open and are returned.
    """
    waiting, stayed = selectors.DefaultSelector(), []
    for stream in streams:
        connection = target.connect()
        connection.setblocking(False)
        waiting.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, [memoryview(stream), replies])
    try:
        while waiting.get_map():
            ready = waiting.select(timeout=30)
            if not ready:
                raise OSError("no reply for 30 s")
            for key, events in ready:
                left, owed = key.data
                if events & selectors.EVENT_WRITE and left:
                    left = left[key.fileobj.send(left[:65_536]):]
                    if not left:
                        waiting.modify(key.fileobj, selectors.EVENT_READ, key.data)
                if events & selectors.EVENT_READ:
                    came = key.fileobj.recv(1 << 18)
                    lines = came.count(b"\r\n")
                    wrong = lines - came.count(b"\r\n" + expect) - came.startswith(expect)
                    # A piece may begin in the middle of a line.
                    if not came or wrong > 1:
                        raise OSError(f"an unexpected reply: {came[:200]!r}")
                    owed -= lines
                    if owed == 0:
                        waiting.unregister(key.fileobj)
                        if stay:
                            stayed.append(key.fileobj)
                        else:
                            key.fileobj.close()
                key.data[:] = [left, owed]
    finally:
        for key in list(waiting.get_map().values()):
            key.fileobj.close()
        waiting.close()
    return stayed


class Stepper:
    """One connection with so many requests under way: the next ones go out when these are answered."""

    def __init__(self, target: Target, requests: list[bytes], depth: int):
        self._target, self.count, self._depth = target, len(requests), depth
        self._batches = [b"".join(requests[at:at + depth]) for at in range(0, len(requests), depth)]

    def run(self, expect: bytes) -> None:
        connection = self._target.connect()
        for batch in self._batches:
            connection.sendall(batch)
            came = connection.recv(65_536)
            while came.count(b"\r\n") < self._depth:
                came += connection.recv(65_536)
            if came.count(b"\r\n" + expect) + came.startswith(expect) != self._depth:
                raise OSError(f"an unexpected reply: {came[:200]!r}")
        connection.close()


class Pourer:
    """So many connections, each with a long pipeline of commands that the other side runs one after the other."""

    def __init__(self, target: Target, requests: list[bytes], connections: int):
        self._target, self.count = target, len(requests)
        self._streams = [b"".join(requests[at::connections]) for at in range(connections)]

    def run(self, expect: bytes) -> None:
        pour(self._target, self._streams, self.count // len(self._streams), expect)


def commands(redis: Target) -> dict[str, tuple[int, float]]:
    """How often each command was called on the server so far, scripts' own calls included, and the µs spent in it."""
    client = Client(redis)
    text = client.text(b"INFO", b"commandstats").decode()
    client.close()
    found = {}
    for line in text.split():
        name, _, stats = line.partition(":")
        if name.startswith("cmdstat_"):
            values = dict(part.split("=") for part in stats.split(","))
            found[name.removeprefix("cmdstat_")] = (int(values["calls"]), float(values["usec"]))
    return found


def calls_between(before: dict, after: dict) -> dict[str, int]:
    """How often each command was called between two looks, INFO left out."""
    counts = {name: calls - before.get(name, (0, 0))[0] for name, (calls, _) in after.items()}
    return {name: count for name, count in counts.items() if count > 0 and name != "info"}
