// ioredis over TLS: argv: port, folder of certificates, name of the client's certificate or "-".
import { readFileSync } from "node:fs";
import assert from "node:assert";

const [port, folder, name] = process.argv.slice(2);
const mine = name === "-" ? {} : { cert: readFileSync(`${folder}/${name}.crt`), key: readFileSync(`${folder}/${name}.key`) };
for (const variant of ["ioredis5", "ioredis6"]) {
    const { default: Redis } = await import(variant);
    const tls = { ca: readFileSync(`${folder}/ca.crt`), servername: "localhost", ...mine };
    const client = new Redis({ host: "127.0.0.1", port: Number(port), tls });
    assert.equal(await client.ping(), "PONG");
    const big = "x".repeat(3_000_000);
    await client.set("big", big);
    assert.equal(await client.get("big"), big);
    const all = await Promise.all(Array.from({ length: 5000 }, (_, number) => client.incrby(`n${variant}`, 1)));
    assert.deepEqual(all, Array.from({ length: 5000 }, (_, number) => number + 1));
    assert.ok(await client.call("LOCK.ACQUIRE", "lock:node", "ann", "TTL", "10000"));
    await client.call("LOCK.RELEASE", "lock:node", "ann");
    await client.del(`n${variant}`);
    await client.quit();
}
console.log("all of it works");
