// Lock clients in line: for each line on standard input one more worker asks for the lock; whoever gets it notes his number
// in the list `order` and lets go. argv: port, library, workers.

import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";

const [port, library, workers] = [Number(process.argv[2]), process.argv[3], Number(process.argv[4])];
const release = "if redis.call('get',KEYS[1]) == ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end";

const makers = {
    "ioredis5": () => plainIoredis("ioredis5"),
    "ioredis6": () => plainIoredis("ioredis6"),
    "node-redis": async () => {
        const { createClient } = await import("redis");
        const client = await createClient({ socket: { port, host: "127.0.0.1" } }).connect();
        const token = randomUUID();
        return {
            acquire: async () => {
                const got = await client.set("lock:order", token, { condition: "NX", expiration: { type: "PX", value: 60000 } });
                if (got !== "OK") throw new Error(`not granted but ${got}`);
            },
            note: (number) => client.rPush("order", String(number)),
            release: () => client.eval(release, { keys: ["lock:order"], arguments: [token] }),
            quit: () => client.close(),
        };
    },
    "redlock": async () => {
        const [{ Redis }, { default: Redlock }] = await Promise.all([import("ioredis6"), import("redlock")]);
        const redis = new Redis({ port, host: "127.0.0.1" });
        const redlock = new Redlock([redis], { retryCount: 0 });
        let lock;
        return {
            acquire: async () => { lock = await redlock.acquire(["lock:order"], 60000); },
            note: (number) => redis.rpush("order", number),
            release: () => lock.release(),
            quit: () => redis.quit(),
        };
    },
    "redis-semaphore": async () => {
        const [{ Redis }, { Mutex }] = await Promise.all([import("ioredis6"), import("redis-semaphore")]);
        const redis = new Redis({ port, host: "127.0.0.1" });
        const mutex = new Mutex(redis, "order:lock", { lockTimeout: 60000, acquireTimeout: 60000, retryInterval: 5 });
        return {
            acquire: () => mutex.acquire(),
            note: (number) => redis.rpush("order", number),
            release: () => mutex.release(),
            quit: () => redis.quit(),
        };
    },
};

async function plainIoredis(version) {
    const { Redis } = await import(version);
    const redis = new Redis({ port, host: "127.0.0.1" });
    const token = randomUUID();
    return {
        acquire: async () => {
            const got = await redis.set("lock:order", token, "PX", 60000, "NX");
            if (got !== "OK") throw new Error(`not granted but ${got}`);
        },
        note: (number) => redis.rpush("order", number),
        release: () => redis.eval(release, 1, "lock:order", token),
        quit: () => redis.quit(),
    };
}

async function work(number) {
    const worker = await makers[library]();
    await worker.acquire();
    await worker.note(number);
    await worker.release();
    await worker.quit();
}

const all = [];
for await (const _ of createInterface({ input: process.stdin })) {
    all.push(work(all.length));
    if (all.length === workers) break;
}
// An open pipe would keep the process.
process.stdin.destroy();
await Promise.all(all);
