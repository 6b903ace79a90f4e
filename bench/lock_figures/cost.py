"""What an uncontended lock costs Redis: LOCK.ACQUIRE against SET NX PX, LOCK.RELEASE against a compare-and-delete script.

The plain commands go straight to Redis over one connection with so many of them under way; as many connections with one command
under way each go to Lockgate, which sends them on over its shared link. So Redis has the same number of requests before it on either
side, and what a request costs it beside its command (to be read, to be answered) weighs the same.
"""

import hashlib
import random

from side_by_side import machine, servers
from side_by_side.tell import tell

from . import wire

# Requests under way. The first is what is judged.
DEPTHS = (16, 1, 64)
COMPARE_AND_DELETE = b"if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end"


def measure(field: servers.Field, lockgate: servers.Target, rounds: int, pairs: int) -> dict[str, list[dict]]:
    """Per depth and round: µs of Redis' CPU for each operation, as its process uses it and as `INFO commandstats` has it."""
    digest = hashlib.sha1(COMPARE_AND_DELETE).hexdigest().encode()
    client = wire.Client(field.redis)
    client.text(b"SCRIPT", b"LOAD", COMPARE_AND_DELETE)
    client.close()
    loads = {}
    for depth in DEPTHS:
        count = pairs // (4 if depth == 1 else 1) // depth * depth
        keys = [b"orders:%07d" % number for number in range(count)]

        def requests(*words: bytes) -> list[bytes]:
            return [servers.request(*(key if word == b"KEY" else word for word in words)) for key in keys]

        plain = (requests(b"SET", b"KEY", wire.OWNER, b"NX", b"PX", wire.LEASE), requests(b"EVALSHA", digest, b"1", b"KEY", wire.OWNER))
        locks = (requests(b"LOCK.ACQUIRE", b"KEY", wire.OWNER, b"TTL", wire.LEASE), requests(b"LOCK.RELEASE", b"KEY", wire.OWNER))
        loads[depth] = [
            ("plain", [(wire.Stepper(field.redis, some, depth), expect) for some, expect in zip(plain, (b"+OK", b":1"))]),
            ("lock", [(wire.Pourer(lockgate, some, depth), expect) for some, expect in zip(locks, (b":", b":1"))]),
        ]
    samples: dict[str, list[dict]] = {str(depth): [] for depth in DEPTHS}
    # The first round only warms up.
    for number in range(rounds + 1):
        for depth in random.sample(DEPTHS, len(DEPTHS)):
            sample: dict = {}
            for side, (takes, frees) in random.sample(loads[depth], 2):
                for what, (load, expect) in (("acquire", takes), ("release", frees)):
                    sample |= _one(field, lockgate, f"{side}_{what}", load, expect)
            if number > 0:
                samples[str(depth)].append(sample)
                tell(f"cost, {depth} under way  " + "  ".join(f"{name} {sample[f'{name}_cpu_us']:.2f} µs" for name in (
                    "plain_acquire", "lock_acquire", "plain_release", "lock_release")))
    return samples


def _one(field: servers.Field, lockgate: servers.Target, name: str, load, expect: bytes) -> dict:
    count = load.count
    before, busy, own = wire.commands(field.redis), machine.Busy.now(), machine.own_cpu_seconds()
    redis_s, proxy_s = machine.cpu_seconds(field.redis.pid), machine.cpu_seconds(lockgate.pid)
    load.run(expect)
    redis_s, proxy_s = machine.cpu_seconds(field.redis.pid) - redis_s, machine.cpu_seconds(lockgate.pid) - proxy_s
    after, now = wire.commands(field.redis), machine.Busy.now()
    seen = wire.calls_between(before, after)
    # A script's own calls are counted apart; the time of the script has them in it.
    outer = {called: calls for called, calls in seen.items() if called in ("set", "evalsha", "eval")}
    if "evalsha" in outer:
        outer.pop("set", None)
    usec = sum(after[called][1] - before.get(called, (0, 0.0))[1] for called in outer)
    return {
        f"{name}_cpu_us": redis_s / count * 1e6,
        f"{name}_command_us": usec / count,
        f"{name}_proxy_us": proxy_s / count * 1e6,
        f"{name}_round_trips": sum(outer.values()) / count,
        f"{name}_others_s": now.ran - busy.ran - (machine.own_cpu_seconds() - own) - redis_s - proxy_s + now.stolen - busy.stolen,
    }
