// LOCK.ACQUIRE with WAIT through node-redis' `sendCommand`. argv[4]: the RESP version.

import { createClient } from "redis";
import { countTogether, port, queuedLock } from "./workers.mjs";

await countTogether(async (number) => {
    const client = createClient({ socket: { port, host: "127.0.0.1" }, RESP: Number(process.argv[4] ?? 2) });
    client.on("error", (error) => {
        console.error(error);
        process.exit(1);
    });
    await client.connect();
    const done = await client.multi().incr(`n:${number}`).incr(`n:${number}`).exec();
    if (Number(done[1]) !== 2) throw new Error("a transaction came back wrong");
    return {
        get: (key) => client.get(key),
        set: (key, value) => client.set(key, value),
        locked: queuedLock((...words) => client.sendCommand(words), "orders:node-redis", `worker-${number}`),
        quit: () => client.close(),
    };
});
