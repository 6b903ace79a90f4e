// LOCK.ACQUIRE with WAIT through ioredis' `call`, and the ordinary commands around it. argv[4]: ioredis5 or ioredis6.

import { countTogether, port, queuedLock } from "./workers.mjs";

const { Redis } = await import(process.argv[4]);

await countTogether(async (number) => {
    const redis = new Redis({ port, host: "127.0.0.1", lazyConnect: true, connectionName: `worker-${number}` });
    await redis.connect();
    // Pipelines and transactions go their usual way on the same connection.
    const pipelined = await redis.pipeline().set(`own:${number}`, "v").get(`own:${number}`).exec();
    if (pipelined[1][1] !== "v") throw new Error("a pipeline came back wrong");
    const done = await redis.multi().incr(`n:${number}`).incr(`n:${number}`).exec();
    if (Number(done[1][1]) !== 2) throw new Error("a transaction came back wrong");
    return {
        get: (key) => redis.get(key),
        set: (key, value) => redis.set(key, value),
        locked: queuedLock((...words) => redis.call(...words), "orders:ioredis", `worker-${number}`),
        quit: () => redis.quit(),
    };
});
