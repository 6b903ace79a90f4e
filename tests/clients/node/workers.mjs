// Eight workers, one lock, one counter: each worker reads the counter, gives everybody else a chance to run, and writes it
// back raised by one, under the lock and nothing else. A lock that lets two in at once loses updates.

import { setImmediate as others } from "node:timers/promises";

export const WORKERS = 8;
export const ROUNDS = 12;
export const port = Number(process.argv[2]);
export const counter = process.argv[3] ?? "counter";

/// `makeWorker(number)` gives `{ get, set, locked, quit }`: two commands of the client, a function that runs another under
/// the lock, and the end.
export async function countTogether(makeWorker) {
    const workers = await Promise.all(Array.from({ length: WORKERS }, (_, number) => makeWorker(number)));
    await Promise.all(
        workers.map(async (worker) => {
            for (let round = 0; round < ROUNDS; round++) {
                await worker.locked(async () => {
                    const before = Number((await worker.get(counter)) ?? 0);
                    await others();
                    await worker.set(counter, String(before + 1));
                });
            }
        }),
    );
    const total = Number(await workers[0].get(counter));
    await Promise.all(workers.map((worker) => worker.quit()));
    if (total !== WORKERS * ROUNDS) {
        console.error(`updates were lost: ${total} of ${WORKERS * ROUNDS}`);
        process.exit(1);
    }
    console.log(`counted to ${total}`);
}

/// Acquires by waiting in Lockgate's queue; `call(...words)` is the client's way to send any command.
export function queuedLock(call, key, owner) {
    return async (body) => {
        const fence = Number(await call("LOCK.ACQUIRE", key, owner, "TTL", "20000", "WAIT", "60000"));
        if (!(fence > 0)) throw new Error(`no fence but ${fence}`);
        await body();
        const released = Number(await call("LOCK.RELEASE", key, owner, "FENCE", String(fence)));
        if (released !== 1) throw new Error(`the release said ${released}`);
    };
}
