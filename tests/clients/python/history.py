"""Takes part in a history (tests/histories.rs): redis-py, unmodified, with LOCK.* and with SET NX, on one connection. Writes each
call as a JSON line, with the times of the machine's monotonic clock in µs.
argv: seed, how long in ms, the ports of two nodes, the keys."""

import json
import random
import sys
import time

import redis

seed, lasts_ms, first, second, *keys = sys.argv[1:]
dice = random.Random(int(seed))
over = time.monotonic() + int(lasts_ms) / 1000
ports = [int(first), int(second)]
DROP = "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end"
connection = 0


def connect(node):
    global connection
    connection += 1
    return redis.Redis(port=ports[node], socket_timeout=25, retry=None, health_check_interval=0)


def now_us():
    return time.monotonic_ns() // 1000


def call(node, client, key, owner, op, *words):
    """The outcome as the recording names it."""
    began = now_us()
    try:
        reply = client.execute_command(*words)
    except redis.ResponseError as error:
        outcome = {"error": str(error)}
    except redis.RedisError:
        outcome = "unknown"
    else:
        if reply is None:
            outcome = "nil"
        elif isinstance(reply, int) and not isinstance(reply, bool):
            outcome = {"int": reply}
        else:
            outcome = "ok"
    print(
        json.dumps(
            {
                "id": 0,
                "conn": connection,
                "node": node,
                "key": key,
                "owner": owner,
                "op": op,
                "from_us": began,
                "until_us": now_us(),
                "outcome": outcome,
            }
        ),
        flush=True,
    )
    return outcome


session = 0
node = dice.randrange(2)
client = connect(node)
while time.monotonic() < over:
    session += 1
    key, owner = dice.choice(keys), f"py.{session}"
    if dice.random() < 0.5:
        ttl, wait, level = dice.randrange(2000, 4000), dice.randrange(200, 2500), dice.randrange(4)
        op = {"acquire": {"ttl_ms": ttl, "wait_ms": wait, "level": level, "bond": "none"}}
        words = ["LOCK.ACQUIRE", key, owner, "TTL", ttl, "WAIT", wait, "PRIORITY", level]
        outcome = call(node, client, key, owner, op, *words)
        if isinstance(outcome, dict) and "int" in outcome:
            time.sleep(dice.random() / 50)
            fence = outcome["int"]
            op = {"release": {"fence": fence}}
            call(node, client, key, owner, op, "LOCK.RELEASE", key, owner, "FENCE", fence)
    else:
        ttl = dice.randrange(2500, 4000)
        op = {"set_nx": {"ttl_ms": ttl, "wait_ms": 1500}}
        outcome = call(node, client, key, owner, op, "SET", key, owner, "NX", "PX", ttl)
        if outcome == "ok":
            time.sleep(dice.random() / 50)
            call(node, client, key, owner, "compare_and_delete", "EVAL", DROP, 1, key, owner)
    if outcome == "unknown":
        client.close()
        node = dice.randrange(2)
        client = connect(node)
    time.sleep(dice.random() / 100)
