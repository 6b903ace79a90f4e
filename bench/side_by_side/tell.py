"""What the one who waits for the figures sees meanwhile."""

import sys
import time

_started = time.monotonic()


def tell(text: str) -> None:
    """A line on standard error, with the time since the start."""
    minutes, seconds = divmod(int(time.monotonic() - _started), 60)
    print(f"{minutes:02}:{seconds:02}  {text}", file=sys.stderr, flush=True)
