"""Types into an interactive redis-cli, on a terminal of its own, and prints what it shows.

argv: port, then pairs of what to type and what must then be seen; `\\r` in what is typed is Enter, `\\t` completes."""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time

PATIENCE_S = 20


def main():
    port, *steps = sys.argv[1:]
    child, terminal = pty.fork()
    if child == 0:
        # Without a width redis-cli would ask the terminal for it, and nobody is there to answer.
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        os.environ["TERM"] = "xterm"
        os.execvp("redis-cli", ["redis-cli", "-p", port])
    shown = read_until(terminal, f"127.0.0.1:{port}> ")
    for typed, expected in zip(steps[::2], steps[1::2]):
        # A terminal gives keys one by one, and redis-cli asks its hints anew after each.
        for key in typed.replace("\\r", "\r").replace("\\t", "\t"):
            os.write(terminal, key.encode())
        seen = read_until(terminal, expected)
        # Keys typed before the next prompt would be echoed by the terminal, without hints.
        prompt = f"127.0.0.1:{port}> "
        if typed.endswith("\\r") and prompt not in seen.split(expected, 1)[1]:
            seen += read_until(terminal, prompt)
        shown += seen
    print(shown)
    os.close(terminal)
    os.waitpid(child, 0)


def read_until(terminal, expected):
    end = time.monotonic() + PATIENCE_S
    raw = b""
    while True:
        # Without the codes that move the cursor and colour the hint.
        text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", raw.decode(errors="replace"))
        if expected in text:
            return text
        if not select.select([terminal], [], [], max(0, end - time.monotonic()))[0]:
            sys.exit(f"{expected!r} was never shown, only {text!r}")
        try:
            raw += os.read(terminal, 65536)
        except OSError:
            sys.exit(f"redis-cli ended; it had shown {text!r}")


main()
