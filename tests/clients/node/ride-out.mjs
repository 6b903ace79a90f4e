// A program that goes on asking, with ioredis as it comes: no error of its connection may reach it.
// argv: port, library. Prints a number after each step; ends when standard input does.

const { Redis } = await import(process.argv[3]);
const redis = new Redis({ port: Number(process.argv[2]), host: "127.0.0.1" });
// ioredis tells of each connection that it could not make; only what reaches a call is an error of the program.
redis.on("error", () => {});
let over = false;
process.stdin.on("end", () => { over = true; }).resume();
let steps = 0;
while (!over) {
    await redis.set("step", steps);
    await redis.set(`lock:${steps}`, "me", "PX", 60000, "NX");
    await Promise.all([redis.incr("several"), redis.get("step")]);
    steps += 1;
    console.log(steps);
}
console.log(`rode it out in ${steps} steps`);
redis.disconnect();
