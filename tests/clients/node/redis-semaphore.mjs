// npm's redis-semaphore: its Mutex, which is SET NX PX, a script for the release and another for the refresh.
// argv[4]: ioredis5 or ioredis6.

import { Mutex } from "redis-semaphore";
import { countTogether, port } from "./workers.mjs";

const { Redis } = await import(process.argv[4]);

await countTogether(async () => {
    const redis = new Redis({ port, host: "127.0.0.1" });
    return {
        get: (key) => redis.get(key),
        set: (key, value) => redis.set(key, value),
        locked: async (body) => {
            const mutex = new Mutex(redis, "semaphore:lock", { lockTimeout: 2000, acquireTimeout: 60000, retryInterval: 4 });
            await mutex.acquire();
            await body();
            await mutex.release();
        },
        quit: () => redis.quit(),
    };
});
