//! Nodes that are killed, stopped or replaced in every moment of a hand-over: whoever waits on a living node waits no longer than the
//! node timeout for it, nothing is lost, and nothing stays behind.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::holder::{Hold, Holder};
use common::{Circle, PATIENCE, RedisServer, Reply, ServerKind, Wire, eventually};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const KEY: &str = "orders:1";
/// `nodes.timeout` as it is by default, and what a busy machine may need to do anything at all.
const NODE_TIMEOUT: Duration = Duration::from_secs(3);
const SLACK: Duration = Duration::from_secs(1);

/// Node 0 hands a lock to node 1 once, so that the server knows the scripts by name.
fn warm_up(circle: &Circle) {
    circle.client(0).acquires("warm:1", "ann");
    let mut bob = circle.waits(1, "warm:1", "bob", "");
    circle.client(0).releases("warm:1", "ann");
    bob.is_granted();
    bob.releases("warm:1", "bob");
}

/// The grant comes within the node timeout from `since`.
#[track_caller]
fn assert_granted_soon(client: &mut Wire, since: Instant) -> i64 {
    let fence = client.is_granted();
    assert!(since.elapsed() < NODE_TIMEOUT + SLACK, "granted only after {:?}", since.elapsed());
    fence
}

#[test]
fn a_killed_node_with_the_best_waiters_of_many_keys_holds_up_nobody_for_long() {
    for kind in ServerKind::ALL {
        let mut circle = Circle::with(kind, 3, "");
        let keys: Vec<String> = (0..8).map(|number| format!("orders:{number}")).collect();
        let mut holder = circle.client(0);
        let mut living = Vec::new();
        let mut doomed = Vec::new();
        for (number, key) in keys.iter().enumerate() {
            holder.acquires(key, "ann");
            doomed.push(circle.waits(2, key, "bob", "PRIORITY high"));
            doomed.push(circle.waits(2, key, "bill", "PRIORITY high"));
            living.push(circle.waits(number % 2, key, "cat", ""));
            living.push(circle.waits(1 - number % 2, key, "dan", ""));
        }
        circle.nodes[2].kill();
        let killed = Instant::now();
        // Half of them at once, so that the dead node is handed locks; half when nobody has heard of it for a while.
        for (number, key) in keys.iter().enumerate() {
            if number == keys.len() / 2 {
                eventually("it counts as dead", || {
                    circle.nodes[..2].iter().all(|node| node.wrote().contains("counts as dead")).then_some(())
                });
                assert!(killed.elapsed() < NODE_TIMEOUT + SLACK, "{:?} until then", killed.elapsed());
            }
            let released = Instant::now();
            circle.client(number % 2).releases(key, "ann");
            assert_granted_soon(&mut living[2 * number], released);
            living[2 * number + 1].still_waits();
            let released = Instant::now();
            circle.client(number / 2 % 2).releases(key, "cat");
            assert_granted_soon(&mut living[2 * number + 1], released);
            circle.client(0).releases(key, "dan");
        }
        circle.assert_nothing_stays();
        assert_eq!(circle.server.wire().run("EXISTS orders:0 orders:7"), Reply::Int(0));
    }
}

#[test]
fn two_dead_nodes_of_three_cost_no_more_than_one() {
    let mut circle = Circle::of(3);
    circle.client(0).acquires(KEY, "ann");
    let _doomed = [circle.waits(1, KEY, "bob", ""), circle.waits(2, KEY, "cat", ""), circle.waits(1, KEY, "dan", "")];
    let mut eve = circle.waits(0, KEY, "eve", "");
    circle.nodes[1].kill();
    circle.nodes[2].kill();
    let killed = Instant::now();
    circle.client(0).releases(KEY, "ann");
    assert_granted_soon(&mut eve, killed);
    eve.releases(KEY, "eve");
    circle.assert_nothing_stays();
}

#[test]
fn a_lock_that_was_handed_to_a_node_which_then_dies_goes_on() {
    for kind in ServerKind::ALL {
        let mut circle = Circle::with(kind, 2, "");
        circle.client(0).acquires(KEY, "ann");
        let _bob = circle.waits(1, KEY, "bob", "");
        let mut cat = circle.waits(0, KEY, "cat", "");
        circle.stop(1);
        let released = Instant::now();
        circle.client(0).releases(KEY, "ann");
        assert_eq!(circle.holder(KEY).as_deref(), Some("bob"), "it is the stopped node's turn");
        circle.nodes[1].kill();
        assert_granted_soon(&mut cat, released);
        cat.releases(KEY, "cat");
        assert_eq!(circle.holder(KEY), None);
        circle.assert_nothing_stays();
    }
}

#[test]
fn a_node_that_dies_while_its_confirmation_is_on_its_way_holds_up_nobody_for_long() {
    let server = RedisServer::start();
    let holder = Holder::before(server.addr(), b"\r\nconfirm\r\n");
    let mut circle = Circle::last_by(server, 2, &holder.url());
    warm_up(&circle);
    circle.client(0).acquires(KEY, "ann");
    let _bob = circle.waits(1, KEY, "bob", "");
    let mut cat = circle.waits(0, KEY, "cat", "");
    holder.hold(Hold::Request);
    let released = Instant::now();
    circle.client(0).releases(KEY, "ann");
    eventually("the confirmation is on its way", || (holder.held() > 0).then_some(()));
    circle.nodes[1].kill();
    assert_granted_soon(&mut cat, released);
    cat.releases(KEY, "cat");
    circle.assert_nothing_stays();
}

#[test]
fn a_node_that_dies_about_to_answer_has_granted_and_the_owner_learns_of_it_elsewhere() {
    // The upstream has made the claim a lock, and nobody can tell whether the client was told. It is his, as with a client that dies
    // behind its SET NX: by its lease, or by asking again.
    let server = RedisServer::start();
    let holder = Holder::before(server.addr(), b"\r\nconfirm\r\n");
    let mut circle = Circle::last_by(server, 2, &holder.url());
    warm_up(&circle);
    for asks_again in [true, false] {
        circle.client(0).acquires(KEY, "ann");
        let bob = circle.waits(1, KEY, "bob", "TTL 2500");
        let mut cat = circle.waits(0, KEY, "cat", "");
        holder.hold(Hold::Replies);
        let (before, released) = (holder.held(), Instant::now());
        circle.client(0).releases(KEY, "ann");
        eventually("it is confirmed", || {
            let value = match circle.server.wire().run(&format!("GET {KEY}")) {
                Reply::Nil => return None,
                value => value.text(),
            };
            (holder.held() > before && value.starts_with("bob\x1f") && !value.contains('?')).then_some(())
        });
        holder.hold(Hold::Nothing);
        circle.nodes[1].kill();
        drop(bob);
        cat.still_waits();
        if asks_again {
            let mut bob = circle.client(0);
            bob.acquires(KEY, "bob");
            bob.releases(KEY, "bob");
        }
        assert_granted_soon(&mut cat, released);
        cat.releases(KEY, "cat");
        circle.assert_nothing_stays();
        let url = holder.url();
        circle.restart_at(1, &url);
    }
}

#[test]
fn a_lost_confirmation_whose_node_lives_is_found_again() {
    let server = RedisServer::start();
    let holder = Holder::before(server.addr(), b"\r\nconfirm\r\n");
    let circle = Circle::last_by(server, 2, &holder.url());
    warm_up(&circle);
    for hold in [Hold::Request, Hold::Replies] {
        circle.client(0).acquires(KEY, "ann");
        let mut bob = circle.waits(1, KEY, "bob", "");
        let mut cat = circle.waits(0, KEY, "cat", "");
        holder.hold(hold);
        let before = holder.held();
        circle.client(0).releases(KEY, "ann");
        eventually("it is on its way", || (holder.held() > before).then_some(()));
        holder.hold(Hold::Nothing);
        if hold == Hold::Request {
            // It never comes, and what was handed to him goes on meanwhile; he stays the next one.
            cat.is_granted();
            holder.cut();
            bob.still_waits();
            circle.client(0).releases(KEY, "cat");
            bob.is_granted();
        } else {
            holder.cut();
            bob.is_granted();
            cat.still_waits();
            circle.client(0).releases(KEY, "bob");
            cat.is_granted();
            cat.releases(KEY, "cat");
        }
        circle.server.wire().run(&format!("DEL {KEY}"));
        circle.assert_nothing_stays();
    }
}

#[test]
fn a_node_that_begins_anew_under_its_name_right_after_a_crash_takes_its_turn_again() {
    let mut circle = Circle::of(2);
    circle.client(0).acquires(KEY, "ann");
    let _lost = circle.waits(1, KEY, "bob", "");
    let mut cat = circle.waits(0, KEY, "cat", "");
    circle.restart(1);
    // What it had registered in its earlier life is still there.
    let released = Instant::now();
    let mut dan = circle.client(1);
    dan.ask_line(&format!("LOCK.ACQUIRE {KEY} dan WAIT 60000"));
    circle.await_place(1, KEY, "dan");
    circle.client(1).releases(KEY, "ann");
    assert_granted_soon(&mut cat, released);
    dan.still_waits();
    circle.client(1).releases(KEY, "cat");
    dan.is_granted();
    // And with the ghost at the head of the queue, nobody waiting in the new life.
    let _lost = circle.waits(1, KEY, "eve", "PRIORITY high");
    let mut fay = circle.waits(0, KEY, "fay", "");
    circle.restart(1);
    let released = Instant::now();
    circle.client(0).releases(KEY, "dan");
    assert_granted_soon(&mut fay, released);
    fay.releases(KEY, "fay");
    circle.assert_nothing_stays();
}

#[test]
fn a_node_that_stood_still_goes_on_with_its_waiters() {
    let circle = Circle::of(2);
    circle.client(0).acquires(KEY, "ann");
    let mut bob = circle.waits(1, KEY, "bob", "");
    let mut cat = circle.waits(0, KEY, "cat", "");
    let mut dan = circle.waits(1, KEY, "dan", "");
    let mut elsewhere = circle.client(0);
    elsewhere.acquires("orders:2", "ann");
    let mut eve = circle.waits(1, "orders:2", "eve", "");
    circle.stop(1);
    let stopped = Instant::now();
    circle.client(0).releases(KEY, "ann");
    assert_granted_soon(&mut cat, stopped);
    eventually("it stands still for 5 s, and counts as dead", || {
        let is_dead = circle.nodes[0].wrote().contains("counts as dead");
        (is_dead && stopped.elapsed() > Duration::from_secs(5)).then_some(())
    });
    eventually("what it had registered is gone", || {
        circle.companions().iter().all(|name| !name.starts_with("lockgate:q:")).then_some(())
    });
    circle.go_on(1);
    // He comes after its waiters had come, and finds them before himself as soon as they are there again.
    circle.await_waiters(0, KEY, 2);
    eventually("they are registered again", || {
        (circle.companions().iter().filter(|name| name.contains(":q:")).count() == 2).then_some(())
    });
    let mut fay = circle.waits(0, KEY, "fay", "");
    for (holder, next, name) in [("cat", &mut bob, "bob"), ("bob", &mut dan, "dan"), ("dan", &mut fay, "fay")] {
        circle.client(0).releases(KEY, holder);
        next.is_granted();
        assert_eq!(circle.holder(KEY).as_deref(), Some(name));
    }
    elsewhere.releases("orders:2", "ann");
    eve.is_granted();
    fay.releases(KEY, "fay");
    eve.releases("orders:2", "eve");
    circle.assert_nothing_stays();
}

/// Takes the lock, raises a counter that no atomic step protects, and releases, so many times.
fn count_up(client: &mut Wire, owner: &str, rounds: usize, options: &str) {
    for _ in 0..rounds {
        client.ask_line(&format!("LOCK.ACQUIRE {KEY} {owner} WAIT 60000 TTL 60000 {options}"));
        let granted =
            client.try_frame(4 * PATIENCE).unwrap_or_else(|silence| panic!("{owner}: {}", silence.describe()));
        assert!(Reply::parse(&granted).int() > 0);
        let before = match client.run("GET counter") {
            Reply::Nil => 0,
            count => count.text().parse::<i64>().unwrap(),
        };
        client.run(&format!("SET counter {}", before + 1));
        client.releases(KEY, owner);
    }
}

#[test]
fn workers_lose_no_count_while_a_node_stands_still_and_goes_on() {
    let circle = Circle::of(2);
    let done = AtomicUsize::new(0);
    let rounds = 60;
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (circle, done) = (&circle, &done);
            scope.spawn(move || {
                let mut client = circle.client(number % 2);
                for _ in 0..rounds {
                    count_up(&mut client, &format!("w{number}"), 1, "");
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for share in [1, 3] {
            eventually("they are in the middle of it", || {
                (done.load(Ordering::SeqCst) > 6 * rounds * share / 5).then_some(())
            });
            circle.stop(1);
            let stopped = Instant::now();
            eventually("it stands still for 5 s", || (stopped.elapsed() > Duration::from_secs(5)).then_some(()));
            circle.go_on(1);
        }
    });
    assert_eq!(circle.server.wire().run("GET counter"), Reply::bulk((6 * rounds).to_string()));
    circle.assert_nothing_stays();
}

/// A client in a process of its own, which takes the lock and keeps it until it is killed.
struct Victim {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Victim {
    fn of(circle: &Circle, node: usize, owner: &str) -> Self {
        let program = "import socket, sys\n\
            connection = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n\
            connection.sendall(sys.argv[2].encode() + b'\\r\\n')\n\
            print('asked', flush=True)\n\
            print(connection.recv(64).decode(), flush=True)\n\
            connection.recv(64)\n";
        let line = format!("LOCK.ACQUIRE {KEY} {owner} WAIT 60000 TTL 60000 EPHEMERAL");
        let mut child = Command::new("python3")
            .args(["-c", program, &circle.nodes[node].port().to_string(), &line])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is there");
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn eight_workers_on_two_nodes_and_clients_that_are_killed_share_one_lock() {
    let circle = Circle::of(2);
    let at_work = AtomicI64::new(8);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (circle, at_work) = (&circle, &at_work);
            scope.spawn(move || {
                let options = if number % 3 == 0 { "EPHEMERAL" } else { "" };
                count_up(&mut circle.client(number % 2), &format!("w{number}"), 50, options);
                at_work.fetch_sub(1, Ordering::SeqCst);
            });
        }
        // Some are killed while they wait, some while they hold it; a lease of a minute is nobody's hope.
        for number in 0.. {
            if at_work.load(Ordering::SeqCst) == 0 && number >= 12 {
                break;
            }
            let mut victim = Victim::of(&circle, number % 2, &format!("victim-{number}"));
            assert_eq!(victim.line(), "asked\n");
            if number % 3 > 0 {
                assert!(victim.line().starts_with(':'));
            }
            victim.kill();
        }
    });
    assert_eq!(circle.server.wire().run("GET counter"), Reply::bulk("400"));
    eventually("the last one's lock is free", || circle.holder(KEY).is_none().then_some(()));
    circle.assert_nothing_stays();
}

/// Dice that a test can throw again.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A worker who goes to another node when his own is gone, and asks again as the same owner.
struct Wanderer<'a> {
    doors: &'a [Mutex<SocketAddr>],
    owner: String,
    dice: Dice,
    client: Option<Wire>,
}

impl Wanderer<'_> {
    /// The reply to that, on whichever node; `None` when it was lost with its node.
    fn try_ask(&mut self, line: &str) -> Option<Reply> {
        let client = match &mut self.client {
            Some(client) => client,
            None => {
                let door = self.dice.throw(self.doors.len() as u64) as usize;
                let addr = *self.doors[door].lock().unwrap();
                self.client.insert(Wire::try_connect(addr)?)
            }
        };
        client.ask_line(line);
        let reply = client.try_frame(4 * PATIENCE);
        if matches!(reply, Err(common::wire::Silence::TooLong(_))) {
            panic!("{}: nobody answers '{line}'", self.owner);
        }
        let reply = reply.ok().map(|frame| Reply::parse(&frame));
        if reply.is_none() || matches!(reply, Some(Reply::Error(_))) {
            self.client = None;
        }
        reply.filter(|reply| !matches!(reply, Reply::Error(_)))
    }

    fn ask(&mut self, line: &str) -> Reply {
        eventually(&format!("{} is answered: {line}", self.owner), || self.try_ask(line))
    }
}

#[test]
fn whatever_befalls_the_nodes_one_at_a_time_has_the_lock_under_ever_higher_fences() {
    let seed = std::env::var("LOCKGATE_SEED").map_or_else(|_| std::process::id().into(), |text| text.parse().unwrap());
    let seconds = std::env::var("LOCKGATE_CHAOS_S").map_or(12, |text| text.parse().unwrap());
    println!("LOCKGATE_SEED={seed}");
    let mut circle = Circle::of(3);
    let doors: Vec<Mutex<SocketAddr>> = circle.nodes.iter().map(|node| Mutex::new(node.addr())).collect();
    let (holds, is_over) = (Mutex::new((None::<String>, 0)), AtomicBool::new(false));
    let counts: Vec<i64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..6)
            .map(|number| {
                let (doors, holds, is_over) = (&doors, &holds, &is_over);
                scope.spawn(move || {
                    let owner = format!("w{number}");
                    let mut worker = Wanderer { doors, owner: owner.clone(), dice: Dice(seed + number), client: None };
                    let mut count = 0;
                    while !is_over.load(Ordering::SeqCst) {
                        if worker.dice.throw(4) == 0 {
                            worker.client = None;
                        }
                        let level = ["low", "normal", "high"][worker.dice.throw(3) as usize];
                        let line = format!("LOCK.ACQUIRE {KEY} {owner} WAIT 60000 TTL 120000 PRIORITY {level}");
                        let fence = worker.ask(&line).int();
                        {
                            let mut holds = holds.lock().unwrap();
                            assert_eq!(holds.0, None, "{owner} was told that he has it, too");
                            assert!(fence > holds.1, "{owner} has fence {fence} after {}", holds.1);
                            *holds = (Some(owner.clone()), fence);
                        }
                        let before = match worker.ask("GET counter") {
                            Reply::Nil => 0,
                            text => text.text().parse::<i64>().unwrap(),
                        };
                        worker.ask(&format!("SET counter {}", before + 1));
                        count += 1;
                        // From when it is on its way the next one may have it.
                        holds.lock().unwrap().0 = None;
                        worker.ask(&format!("LOCK.RELEASE {KEY} {owner} FENCE {fence}"));
                    }
                    count
                })
            })
            .collect();
        let _over = Over(&is_over);
        let (mut dice, end) = (Dice(seed), Instant::now() + Duration::from_secs(seconds));
        while Instant::now() < end {
            let node = dice.throw(3) as usize;
            let pause = Duration::from_millis(dice.throw(600));
            match dice.throw(3) {
                0 => {
                    circle.restart(node);
                    *doors[node].lock().unwrap() = circle.nodes[node].addr();
                }
                1 => {
                    circle.stop(node);
                    std::thread::sleep(pause * 6);
                    circle.go_on(node);
                }
                _ => {
                    circle.stop(node);
                    std::thread::sleep(pause);
                    circle.restart(node);
                    *doors[node].lock().unwrap() = circle.nodes[node].addr();
                }
            }
            std::thread::sleep(pause);
        }
        is_over.store(true, Ordering::SeqCst);
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let total: i64 = counts.iter().sum();
    println!("{total} holds: {counts:?}");
    assert_eq!(circle.server.wire().run("GET counter"), Reply::bulk(total.to_string()));
    assert_eq!(circle.holder(KEY), None);
    circle.assert_nothing_stays();
}

/// Ends what runs beside a test, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
