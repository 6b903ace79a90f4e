"""Eight workers, one lock, one counter: each worker reads the counter, lets the others run, and writes it back raised by
one, under the lock and nothing else. A lock that lets two in at once loses updates."""

import os
import sys
import threading
import traceback

WORKERS = 8
ROUNDS = 12
PORT = int(sys.argv[1])
COUNTER = sys.argv[2] if len(sys.argv) > 2 else "counter"
VARIANT = sys.argv[3] if len(sys.argv) > 3 else ""


def count_together(make_worker):
    """`make_worker(number)` gives `(client, lock)`; `with lock():` is the critical section."""
    failed = []

    def work(number):
        try:
            client, lock = make_worker(number)
            for _ in range(ROUNDS):
                with lock():
                    before = int(client.get(COUNTER) or 0)
                    os.sched_yield()
                    client.set(COUNTER, before + 1)
        except BaseException:
            failed.append(traceback.format_exc())

    threads = [threading.Thread(target=work, args=(number,)) for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for text in failed:
        print(text, file=sys.stderr)
    client, _ = make_worker(WORKERS)
    total = int(client.get(COUNTER) or 0)
    if failed or total != WORKERS * ROUNDS:
        sys.exit(f"updates were lost: {total} of {WORKERS * ROUNDS}")
    print(f"counted to {total}")
