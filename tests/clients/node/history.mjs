// Takes part in a history (tests/histories.rs): ioredis, unmodified, with LOCK.* and with SET NX, on one connection for each of two
// actors. Writes each call as a JSON line, with the times of the machine's monotonic clock in µs.
// argv: seed, how long in ms, the ports of two nodes, the keys.

import { setTimeout as pause } from "node:timers/promises";
import { Redis } from "ioredis6";

const [seed, lasts, first, second, ...keys] = process.argv.slice(2);
const ports = [Number(first), Number(second)];
const DROP = "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end";
const nowUs = () => Number(process.hrtime.bigint() / 1000n);
const over = nowUs() + Number(lasts) * 1000;
let connections = 0;

// A generator that gives the same numbers for the same seed (mulberry32).
function dice(state) {
    return (below) => {
        state = (state + 0x6d2b79f5) | 0;
        let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
        mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
        return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
    };
}

// A command is sent once: what was lost is lost, and the actor knows that.
function connect(node) {
    connections += 1;
    const client = new Redis({
        port: ports[node],
        host: "127.0.0.1",
        maxRetriesPerRequest: 0,
        autoResendUnfulfilledCommands: false,
        enableOfflineQueue: true,
        retryStrategy: () => null,
    });
    client.on("error", () => {});
    return { client, node, number: connections };
}

async function call({ client, node, number }, key, owner, op, ...words) {
    const from = nowUs();
    let outcome;
    try {
        const reply = await client.call(...words);
        if (reply === null) outcome = "nil";
        else if (reply === "OK") outcome = "ok";
        else outcome = { int: Number(reply) };
    } catch (error) {
        outcome = error.name === "ReplyError" ? { error: error.message } : "unknown";
    }
    const taken = { id: 0, conn: number, node, key, owner, op, from_us: from, until_us: nowUs(), outcome };
    console.log(JSON.stringify(taken));
    return outcome;
}

async function act(actor) {
    const below = dice(Number(seed) * 10 + actor);
    let link = connect(below(2));
    for (let session = 1; nowUs() < over; session++) {
        const key = keys[below(keys.length)];
        const owner = `js${actor}.${session}`;
        let outcome;
        if (below(2) === 0) {
            const [ttl, wait, level] = [2000 + below(2000), 200 + below(2300), below(4)];
            const op = { acquire: { ttl_ms: ttl, wait_ms: wait, level, bond: "none" } };
            const words = ["LOCK.ACQUIRE", key, owner, "TTL", ttl, "WAIT", wait, "PRIORITY", level];
            outcome = await call(link, key, owner, op, ...words);
            if (outcome.int > 0) {
                await pause(below(20));
                const fence = outcome.int;
                await call(link, key, owner, { release: { fence } }, "LOCK.RELEASE", key, owner, "FENCE", fence);
            }
        } else {
            const ttl = 2500 + below(1500);
            const op = { set_nx: { ttl_ms: ttl, wait_ms: 1500 } };
            outcome = await call(link, key, owner, op, "SET", key, owner, "NX", "PX", ttl);
            if (outcome === "ok") {
                await pause(below(20));
                await call(link, key, owner, "compare_and_delete", "EVAL", DROP, 1, key, owner);
            }
        }
        if (outcome === "unknown") {
            link.client.disconnect();
            await pause(20 + below(100));
            link = connect(below(2));
        }
        await pause(below(10));
    }
    link.client.disconnect();
}

await Promise.all([act(1), act(2)]);
