// SET NX PX as applications write it by hand, with a script for the release. argv[4]: ioredis5, ioredis6 or node-redis; a
// refusal is tried again after a few milliseconds.

import { randomUUID } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";
import { countTogether, port } from "./workers.mjs";

const library = process.argv[4];
const key = "lock:by-hand";
const release = "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end";

async function client() {
    if (library === "node-redis") {
        const { createClient } = await import("redis");
        const redis = await createClient({ socket: { port, host: "127.0.0.1" } }).connect();
        return {
            redis,
            take: (token) => redis.set(key, token, { condition: "NX", expiration: { type: "PX", value: 20000 } }),
            drop: (token) => redis.eval(release, { keys: [key], arguments: [token] }),
            quit: () => redis.close(),
        };
    }
    const { Redis } = await import(library);
    const redis = new Redis({ port, host: "127.0.0.1" });
    return {
        redis,
        take: (token) => redis.set(key, token, "PX", 20000, "NX"),
        drop: (token) => redis.eval(release, 1, key, token),
        quit: () => redis.quit(),
    };
}

await countTogether(async () => {
    const { redis, take, drop, quit } = await client();
    return {
        get: (name) => redis.get(name),
        set: (name, value) => redis.set(name, value),
        locked: async (body) => {
            const token = randomUUID();
            while ((await take(token)) !== "OK") await pause(4);
            await body();
            if (Number(await drop(token)) !== 1) throw new Error("the lock was lost");
        },
        quit,
    };
});
