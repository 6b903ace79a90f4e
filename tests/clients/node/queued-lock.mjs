// One ioredis client that many parts of a program share: one of them asks for a lock until it has it, the others go on meanwhile.
// argv: port, library, and "alone" where nobody else uses the client.

import { setTimeout as pause } from "node:timers/promises";

const [port, library, company] = [Number(process.argv[2]), process.argv[3], process.argv[4]];
const { Redis } = await import(library);
const redis = new Redis({ port, host: "127.0.0.1" });
redis.on("error", () => {});
let has = false;
let longest = 0;
let asked = 0;

async function lock() {
    while (!has) {
        has = await redis.set("lock:queued", "me", "PX", 60000, "NX") === "OK";
        asked += 1;
        if (!has) await pause(20);
    }
}

async function work() {
    while (!has) {
        const begun = performance.now();
        await redis.incr("work");
        longest = Math.max(longest, performance.now() - begun);
        await pause(5);
    }
}

await Promise.all(company === "alone" ? [lock()] : [lock(), work(), work()]);
await redis.del("lock:queued");
console.log(`got it, asked ${asked} times, longest ${Math.round(longest)} ms`);
redis.disconnect();
