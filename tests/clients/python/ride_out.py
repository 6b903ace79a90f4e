"""A counter that goes up by one at a time, with redis-py as it comes: no error of its connection may reach the program.
argv: port. Prints the counter after each step; ends when standard input does, with the number of steps."""

import sys
import threading

import redis

client = redis.Redis(port=int(sys.argv[1]))
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
steps = 0
while not over.is_set():
    client.set("step", steps)
    client.set(f"lock:{steps}", "me", nx=True, px=60000)
    with client.pipeline() as several:
        several.incr("several")
        several.get("step")
        several.execute()
    steps += 1
    print(steps, flush=True)
print(f"rode it out in {steps} steps")
