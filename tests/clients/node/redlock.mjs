// npm's redlock (5.0.0-beta.2) over ioredis, as its manual shows it. argv[4]: ioredis5 or ioredis6.

import Redlock from "redlock";
import { countTogether, port } from "./workers.mjs";

const { Redis } = await import(process.argv[4]);

await countTogether(async () => {
    const redis = new Redis({ port, host: "127.0.0.1" });
    const redlock = new Redlock([redis], { retryCount: -1, retryDelay: 4, retryJitter: 4 });
    return {
        get: (key) => redis.get(key),
        set: (key, value) => redis.set(key, value),
        locked: async (body) => {
            const lock = await redlock.acquire(["lock:redlock"], 20000);
            const extended = await lock.extend(20000);
            await body();
            await extended.release();
        },
        quit: () => redis.quit(),
    };
});
