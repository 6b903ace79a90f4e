// No lock at all, to show that the counter would notice. argv[4]: ioredis5 or ioredis6.

import { countTogether, port } from "./workers.mjs";

const { Redis } = await import(process.argv[4]);

await countTogether(async () => {
    const redis = new Redis({ port, host: "127.0.0.1" });
    return {
        get: (key) => redis.get(key),
        set: (key, value) => redis.set(key, value),
        locked: (body) => body(),
        quit: () => redis.quit(),
    };
});
