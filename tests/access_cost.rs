//! What a check costs: no allocation, and in a release build less than 100 ns for a usual command by a usual user. `bench/access` prints it.

#![allow(missing_docs, unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use lockgate::access::{Catalog, Dialect, Found, Request, User, Users, judge};

thread_local!(static ALLOCATED: Cell<u64> = const { Cell::new(0) });

/// The system's allocator, counting on each thread.
struct Counting;

// SAFETY: everything is the system allocator's own; a counter beside it changes nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATED.try_with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What applications send most, by one role each.
const USUAL: &[&str] = &[
    "GET app:user:1234",
    "SET app:user:1234 value EX 60",
    "SET locks:order:77 token NX PX 30000",
    "DEL locks:order:77",
    "EXISTS app:user:1234",
    "EXPIRE app:user:1234 60",
    "INCR app:counter",
    "HSET app:hash:1 field value",
    "HGETALL app:hash:1",
    "LPUSH tasks:queue job",
    "RPOP tasks:queue",
    "SADD teams:1 ann",
    "ZADD app:scores 1 ann",
    "MGET app:1 app:2 app:3 app:4",
    "XADD app:stream * a 1",
    "LOCK.ACQUIRE locks:order:77 worker-17 TTL 30000 WAIT 5000",
    "LOCK.RELEASE locks:order:77 worker-17",
    "LOCK.EXTEND locks:order:77 worker-17 30000",
    "PING",
    "CLIENT SETNAME app",
];

fn find_and_judge(user: &User, catalog: &Catalog, args: &[&[u8]]) -> bool {
    let Found::Command(command) = catalog.find(args) else { return false };
    judge(user, catalog, Request { command, args, db: 0, databases: 16 }).is_ok()
}

#[test]
fn a_check_allocates_nothing_and_costs_next_to_nothing() {
    let file = include_bytes!("../configs/users.acl");
    let users = Users::load(file, "users.acl", Arc::new(Catalog::builtin()), Dialect::NEWEST).expect("good roles");
    let (user, catalog) = (users.get(b"app").expect("there"), users.catalog());
    let mut costs = Vec::new();
    for line in USUAL {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let before = ALLOCATED.get();
        black_box(find_and_judge(user, catalog, black_box(&args)));
        assert_eq!(ALLOCATED.get(), before, "{line}");
        let best = (0..50).map(|_| {
            let began = Instant::now();
            for _ in 0..1000 {
                black_box(find_and_judge(user, catalog, black_box(&args)));
            }
            began.elapsed().as_nanos() as f64 / 1000.0
        });
        costs.push((best.fold(f64::MAX, f64::min), line));
    }
    costs.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (ns, line) in &costs {
        println!("a check: {ns:5.1} ns  {line}");
    }
    let (median, p95) = (costs[costs.len() / 2].0, costs[costs.len() * 95 / 100 - 1].0);
    println!("a check of a usual command: median {median:.1} ns, 95 % within {p95:.1} ns");
    if !cfg!(debug_assertions) {
        assert!(p95 < 100.0, "{p95} ns");
    }
}
