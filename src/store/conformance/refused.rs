//! What a script does where the upstream refuses one of its writes: out of memory, say, or by its access control. Nothing is left half
//! done: the call fails and the lock stands as it did, or what it says has come true.
//!
//! The server is asked by a user who may call everything but one command.

use std::future::{Future, ready};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use super::server::{Server, now};
use crate::domain::{CallId, Level, LockKey, OwnerId, PlainLease, WallClock};
use crate::locks::rank::{Place, Rank};
use crate::locks::{Form, Offer, Standing, Task};
use crate::protocol::args::encode_command;
use crate::protocol::reply::ReplyScanner;
use crate::store::reply::Reply;
use crate::store::{
    Acquired, AllAcquired, AllAsked, Ask, HandedOver, Outcome, Store, StoreError, Times, Transfer, companion,
};
use crate::upstream::call::{CallError, Caller};

const KEY: &[u8] = b"k";
/// Its place in a call for several is before `k`.
const FREE_KEY: &[u8] = b"k2";
const LEASE_MS: u64 = 600_000;
const CLAIM_MS: u64 = 200_000;
const TIMES: Times = Times { sent_us: 1_763_740_000_000_000, knows_us: 1_763_740_000_000_000, left_over: None };
const HOLD: &[u8] = b"ann\x1f7\x1f1\x1f1\x1fn:4\x1fmeta";
const CLAIM: &[u8] = b"ann\x1f7\x1f1\x1f1\x1fn:5?\x1f";
/// Commands that the user of the scripts may not call. With `lease` he may call all, and the lease is one that no server writes; with
/// `fence` he may write the locks, and not the counter.
const REFUSED: [&str; 6] = ["set", "fence", "lease", "del", "get", "exists"];
/// Of a user who lacks nothing that a script needs: nothing of a lock is published.
const NOTHING: &str = "publish";
/// What only the queue is written by.
const OF_THE_QUEUE: [&str; 2] = ["hset", "hdel"];
const STATES: [&str; 5] = ["free", "awaited", "held", "held and awaited", "claim"];

/// One connection to the real server alone: the model of Redis knows nothing of users.
#[derive(Clone)]
struct Alone(Arc<Mutex<UnixStream>>);

impl Alone {
    fn ask(&self, request: &[u8]) -> Vec<u8> {
        let mut socket = self.0.lock().unwrap();
        socket.write_all(request).unwrap();
        let (mut reply, mut scanner, mut chunk) = (Vec::new(), ReplyScanner::new(), [0u8; 4096]);
        loop {
            let n = socket.read(&mut chunk).unwrap();
            assert!(n > 0, "the server closed the link");
            let scan = scanner.scan(&chunk[..n], 1).unwrap();
            reply.extend_from_slice(&chunk[..n]);
            if scan.frames == 1 {
                return reply;
            }
        }
    }

    fn run(&self, words: &[&[u8]]) -> Reply {
        let mut request = Vec::new();
        encode_command(words, &mut request);
        Reply::read(&self.ask(&request)).unwrap()
    }
}

impl Caller for Alone {
    fn call(&self, request: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, CallError>> + 'static {
        ready(Ok(self.ask(&request)))
    }
}

pub(super) struct Stage {
    admin: Alone,
    user: Alone,
    lease_ms: u64,
    /// What somebody has put into the queue.
    rubbish: Option<(&'static [u8], &'static [u8])>,
}

impl Stage {
    /// With one thing that is refused.
    fn new(server: &Server, refused: &str) -> Self {
        let [admin, user] = [0, 1].map(|_| Alone(Arc::new(Mutex::new(server.stream()))));
        let without = format!("-{refused}");
        let rights: &[&str] = match refused {
            "lease" => &[],
            "fence" => &["-set", "(+set ~k ~k2)"],
            _ => &[&without],
        };
        let words = ["ACL", "SETUSER", refused, "on", "nopass", "~*", "&*", "+@all"];
        let words: Vec<&[u8]> = words.iter().chain(rights).map(|word| word.as_bytes()).collect();
        let lease_ms = if refused == "lease" { u64::MAX } else { LEASE_MS / 2 };
        assert_eq!(admin.run(&words), Reply::Text(b"OK".to_vec()));
        assert_eq!(user.run(&[b"AUTH", refused.as_bytes(), b"x"]), Reply::Text(b"OK".to_vec()));
        Stage { admin, user, lease_ms, rubbish: None }
    }

    /// Whose user may do all, and whose queues hold this, too.
    pub(super) fn with_rubbish(server: &Server, node: &'static [u8], text: &'static [u8]) -> Self {
        Stage { rubbish: Some((node, text)), ..Stage::usual(server) }
    }

    /// Whose user may do all.
    pub(super) fn usual(server: &Server) -> Self {
        Stage::new(server, NOTHING)
    }

    fn store(node: &str) -> Store {
        Store::new(node.into(), WallClock::default(), LEASE_MS)
    }

    /// The lock in that state.
    fn set(&self, state: &str) {
        let key = LockKey::new(0, KEY);
        self.admin.run(&[b"FLUSHALL"]);
        let lease = LEASE_MS.to_string();
        self.admin.run(&[b"SET", KEY, HOLD, b"PX", lease.as_bytes()]);
        if state.contains("awaited") {
            let refused = now(Self::store("m").acquire(
                &self.admin,
                &key,
                &ask(b"bob", true, false, self.lease_ms),
                &[],
                TIMES,
                false,
            ))
            .unwrap();
            assert!(matches!(refused, Acquired::Refused(..)), "{refused:?}");
        }
        match state {
            "free" | "awaited" => drop(self.admin.run(&[b"DEL", KEY])),
            "claim" => drop(self.admin.run(&[b"SET", KEY, CLAIM, b"PX", CLAIM_MS.to_string().as_bytes()])),
            _ => {}
        }
        if let Some((node, text)) = self.rubbish {
            for key in [KEY, FREE_KEY] {
                self.admin.run(&[b"HSET", &companion::queue(&LockKey::new(0, key)), node, text]);
            }
        }
    }

    /// Both locks, and which of them has an expiry above what it had.
    fn stands(&self) -> Vec<Reply> {
        let lease = |key| match self.admin.run(&[b"PTTL", key]) {
            Reply::Integer(left) => Reply::Integer((left + 60_000) / 100_000),
            other => other,
        };
        vec![self.admin.run(&[b"GET", KEY]), lease(KEY), self.admin.run(&[b"GET", FREE_KEY]), lease(FREE_KEY)]
    }
}

fn ask(owner: &[u8], waits: bool, is_plain: bool, lease_ms: u64) -> Ask {
    let form = match is_plain {
        true => Form::Plain { value: Arc::from(owner), lease: PlainLease::Ms(lease_ms) },
        false => Form::Lock { owner: OwnerId::new(owner).expect("a plain name"), lease_ms, meta: Arc::from(&b""[..]) },
    };
    let call = CallId(8);
    let standing = Standing { first_call: call, arrival_us: None, promote_after_us: 0, waits, claim_ms: CLAIM_MS };
    Ask { call, form, level: Level::Normal, standing }
}

fn waiter(lease_ms: u64) -> Offer {
    let place = Place { arrival_us: 1, first_call: CallId(3) };
    let form = ask(b"cid", true, false, lease_ms).form;
    Offer { call: CallId(3), rank: Rank::new(Level::High, place, 0), level: Level::High, form, claim_ms: CLAIM_MS }
}

fn asked(acquired: Result<Acquired, StoreError>) -> Result<&'static str, StoreError> {
    acquired.map(|acquired| match acquired {
        Acquired::Granted(..) => "granted",
        Acquired::Repeated(..) => "repeated",
        Acquired::HandedOver(..) => "handed over",
        Acquired::Refused(..) | Acquired::NotSet => "no",
    })
}

fn handed(handed: Result<HandedOver, StoreError>) -> Result<&'static str, StoreError> {
    handed.map(|handed| match handed {
        HandedOver::To(..) => "handed over",
        HandedOver::Confirmed(..) => "confirmed",
        HandedOver::Free(_) => "free",
        HandedOver::Over(..) => "over",
        HandedOver::Held(..) => "held",
    })
}

fn ended(outcome: Outcome, hands_over: bool) -> &'static str {
    match (outcome, hands_over) {
        (Outcome::Released, true) => "1, handed over",
        (Outcome::Released, false) => "1",
        (Outcome::HeldByAnother, _) => "0",
        (Outcome::HeldByNobody, true) => "-1, handed over",
        (Outcome::HeldByNobody, false) => "-1",
    }
}

const COMMANDS: [&str; 17] = [
    "acquire",
    "acquire and wait",
    "acquire first",
    "set nx",
    "look around",
    "look around for one",
    "take back",
    "take back for one",
    "confirm",
    "release",
    "release for one",
    "force",
    "extend",
    "transfer",
    "look to change",
    "acquire all",
    "acquire the rest",
];

/// What one of the calls says.
fn says(stage: &Stage, command: &str) -> Result<&'static str, StoreError> {
    let (store, user, key, offers) = (Stage::store("n"), &stage.user, LockKey::new(0, KEY), [waiter(stage.lease_ms)]);
    let lease_ms = stage.lease_ms;
    let asks = |ask: Ask| asked(now(store.acquire(user, &key, &ask, &[], TIMES, false)));
    let turns = |task: Task, offers: &[Offer]| handed(now(store.hand_over(user, &key, &task, offers, TIMES, false)));
    let releases = |by: Option<&[u8]>, offers: &[Offer]| {
        now(store.release(user, &key, by, None, offers, TIMES, false)).map(|f| ended(f.outcome, f.handed.is_some()))
    };
    match command {
        "acquire" => asks(ask(b"ann", false, false, lease_ms)),
        "acquire and wait" => asks(ask(b"dan", true, false, lease_ms)),
        "acquire first" => {
            let mut ask = ask(b"dan", true, false, lease_ms);
            ask.standing.arrival_us = Some(1);
            asks(ask)
        }
        "set nx" => asks(ask(b"v", false, true, lease_ms)),
        "look around" => turns(Task::Look, &[]),
        "look around for one" => turns(Task::Look, &offers),
        "take back" => turns(Task::TakeBack(HOLD.into()), &[]),
        "take back for one" => turns(Task::TakeBack(HOLD.into()), &offers),
        "confirm" => turns(Task::Confirm { claim: CLAIM.into(), offer: waiter(lease_ms) }, &offers),
        "release" => releases(Some(b"ann"), &[]),
        "release for one" => releases(Some(b"ann"), &offers),
        "force" => releases(None, &[]),
        "extend" => now(store.extend(user, &key, b"ann", None, lease_ms, false)).map(|o| ended(o, false)),
        "transfer" => {
            let call = CallId(8);
            let transfer = Transfer {
                from: b"ann",
                fence: None,
                to: b"eve",
                lease_ms: (lease_ms == u64::MAX).then_some(lease_ms),
                call,
                now_ms: 1,
            };
            now(store.transfer(user, &key, &transfer, false)).map(|moved| if moved.is_some() { "moved" } else { "nil" })
        }
        "look to change" => now(store.look_to_change(user, &key, false)).map(|held| held.map_or("free", |_| "held")),
        _ => {
            let asked = AllAsked { owner: b"ann", call: CallId(8), level: Level::High, lease_ms, now_ms: 1 };
            let mut keys = [LockKey::new(0, FREE_KEY), key];
            if command == "acquire the rest" {
                keys.reverse();
            }
            now(store.acquire_all(user, &keys, &asked, |_| false)).map(|all| match all {
                AllAcquired::Granted(_) => "granted",
                AllAcquired::InTheWay { .. } => "in the way",
            })
        }
    }
}

/// Whether the server says so: no error in a script itself, and no reply that makes no sense.
fn is_the_servers(line: &str) -> bool {
    !line.starts_with("ERR user_script") && !line.contains("answered a lock script with something else")
}

/// What comes of each call in each state: `refused` leaves the locks as they were, a `*` says that they have changed.
pub(super) fn table(stage: &Stage) -> String {
    let mut table = String::new();
    for command in COMMANDS {
        let outcomes = STATES.map(|state| {
            stage.set(state);
            let before = stage.stands();
            let word = match says(stage, command) {
                Ok(word) => word,
                Err(StoreError::Refused(line)) if is_the_servers(&line) => "refused",
                Err(error) => panic!("{command}, {state}: {error}"),
            };
            format!("{state}: {word}{}", if stage.stands() == before { "" } else { "*" })
        });
        table.push_str(&format!("{command} | {}\n", outcomes.join(" | ")));
    }
    table
}

#[test]
fn a_write_that_is_refused_leaves_no_lock_half_done() {
    let server = Server::start();
    let found: String = REFUSED.map(|refused| format!("{refused}\n{}", table(&Stage::new(&server, refused)))).concat();
    assert_eq!(found, TABLE.trim_start(), "{found}");
}

#[test]
fn a_queue_that_cannot_be_written_changes_no_answer() {
    let server = Server::start();
    let usual = table(&Stage::usual(&server));
    assert!(!usual.contains("refused"), "{usual}");
    let answers = |table: &str| -> Vec<String> {
        table.lines().filter(|line| !line.starts_with("look to change")).map(str::to_owned).collect()
    };
    for refused in OF_THE_QUEUE {
        assert_eq!(answers(&table(&Stage::new(&server, refused))), answers(&usual), "without {refused}");
    }
}

/// Whoever may not remove a waiter may not promote or cancel one.
#[test]
fn who_may_not_write_a_queue_is_told_so_before_he_changes_who_waits() {
    let server = Server::start();
    let stage = Stage::new(&server, "hdel");
    for state in STATES {
        stage.set(state);
        let before = stage.stands();
        let said = says(&stage, "look to change");
        assert!(matches!(said, Err(StoreError::Refused(_))), "{state}: {said:?}");
        assert!(stage.stands() == before, "{state}: a look has changed something");
    }
}

/// Nobody leads by chance: a node that is not told who leads takes nothing away.
#[test]
fn who_may_not_read_who_leads_does_not_take_the_lead() {
    let server = Server::start();
    let stage = Stage::new(&server, "get");
    for lease_ms in [LEASE_MS, 0] {
        stage.admin.run(&[b"FLUSHALL"]);
        stage.admin.run(&[b"SET", companion::LEADER, b"m", b"PX", b"100000"]);
        let said = now(Stage::store("n").lead(&stage.user, "n", lease_ms));
        assert!(matches!(said, Err(StoreError::Refused(_))), "{said:?}");
        assert_eq!(stage.admin.run(&[b"GET", companion::LEADER]), Reply::Text(b"m".to_vec()));
    }
}

const TABLE: &str = "
set
acquire | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
acquire and wait | free: refused | awaited: refused | held: no | held and awaited: no | claim: no
acquire first | free: refused | awaited: refused | held: no | held and awaited: no | claim: no
set nx | free: refused | awaited: refused | held: no | held and awaited: no | claim: no
look around | free: free | awaited: refused | held: held | held and awaited: held | claim: held
look around for one | free: refused | awaited: refused | held: held | held and awaited: held | claim: held
take back | free: free | awaited: refused | held: free* | held and awaited: free* | claim: held
take back for one | free: refused | awaited: refused | held: free* | held and awaited: free* | claim: held
confirm | free: refused | awaited: refused | held: held | held and awaited: held | claim: refused
release | free: -1 | awaited: -1 | held: 1* | held and awaited: 1* | claim: 1*
release for one | free: -1 | awaited: -1 | held: 1* | held and awaited: 1* | claim: 1*
force | free: -1 | awaited: -1 | held: 1* | held and awaited: 1* | claim: 1*
extend | free: -1 | awaited: -1 | held: 1* | held and awaited: 1* | claim: 0
transfer | free: nil | awaited: nil | held: refused | held and awaited: refused | claim: nil
look to change | free: free | awaited: free | held: held | held and awaited: held | claim: held
acquire all | free: refused | awaited: in the way | held: refused | held and awaited: refused | claim: in the way
acquire the rest | free: refused | awaited: in the way | held: refused | held and awaited: refused | claim: in the way
fence
acquire | free: refused | awaited: refused | held: repeated* | held and awaited: repeated* | claim: repeated*
acquire and wait | free: refused | awaited: refused | held: no | held and awaited: no | claim: no
acquire first | free: refused | awaited: refused | held: no | held and awaited: no | claim: no
set nx | free: granted* | awaited: refused | held: no | held and awaited: no | claim: no
look around | free: free | awaited: refused | held: held | held and awaited: held | claim: held
look around for one | free: refused | awaited: refused | held: held | held and awaited: held | claim: held
take back | free: free | awaited: refused | held: free* | held and awaited: free* | claim: held
take back for one | free: refused | awaited: refused | held: free* | held and awaited: free* | claim: held
confirm | free: refused | awaited: refused | held: held | held and awaited: held | claim: confirmed*
release | free: -1 | awaited: -1 | held: 1* | held and awaited: 1* | claim: 1*
release for one | free: -1 | awaited: -1 | held: 1* | held and awaited: 1* | claim: 1*
force | free: -1 | awaited: -1 | held: 1* | held and awaited: 1* | claim: 1*
extend | free: -1 | awaited: -1 | held: 1* | held and awaited: 1* | claim: 0
transfer | free: nil | awaited: nil | held: refused | held and awaited: refused | claim: nil
look to change | free: free | awaited: free | held: held | held and awaited: held | claim: held
acquire all | free: refused | awaited: in the way | held: refused | held and awaited: refused | claim: in the way
acquire the rest | free: refused | awaited: in the way | held: refused | held and awaited: refused | claim: in the way
lease
acquire | free: refused | awaited: handed over* | held: refused | held and awaited: refused | claim: refused
acquire and wait | free: refused | awaited: handed over* | held: no | held and awaited: no | claim: no
acquire first | free: refused | awaited: refused | held: no | held and awaited: no | claim: no
set nx | free: refused | awaited: handed over* | held: no | held and awaited: no | claim: no
look around | free: free | awaited: handed over* | held: held | held and awaited: held | claim: held
look around for one | free: refused | awaited: refused | held: held | held and awaited: held | claim: held
take back | free: free | awaited: handed over* | held: free* | held and awaited: handed over* | claim: held
take back for one | free: refused | awaited: refused | held: free* | held and awaited: free* | claim: held
confirm | free: refused | awaited: refused | held: held | held and awaited: held | claim: refused
release | free: -1 | awaited: -1, handed over* | held: 1* | held and awaited: 1, handed over* | claim: 1*
release for one | free: -1 | awaited: -1 | held: 1* | held and awaited: 1* | claim: 1*
force | free: -1 | awaited: -1, handed over* | held: 1* | held and awaited: 1, handed over* | claim: 1*
extend | free: -1 | awaited: -1 | held: refused | held and awaited: refused | claim: 0
transfer | free: nil | awaited: nil | held: refused | held and awaited: refused | claim: nil
look to change | free: free | awaited: free | held: held | held and awaited: held | claim: held
acquire all | free: refused | awaited: in the way | held: refused | held and awaited: refused | claim: in the way
acquire the rest | free: refused | awaited: in the way | held: refused | held and awaited: refused | claim: in the way
del
acquire | free: granted* | awaited: handed over* | held: repeated* | held and awaited: repeated* | claim: repeated*
acquire and wait | free: granted* | awaited: handed over* | held: no | held and awaited: no | claim: no
acquire first | free: granted* | awaited: granted* | held: no | held and awaited: no | claim: no
set nx | free: granted* | awaited: handed over* | held: no | held and awaited: no | claim: no
look around | free: free | awaited: handed over* | held: held | held and awaited: held | claim: held
look around for one | free: handed over* | awaited: handed over* | held: held | held and awaited: held | claim: held
take back | free: free | awaited: handed over* | held: refused | held and awaited: handed over* | claim: held
take back for one | free: handed over* | awaited: handed over* | held: handed over* | held and awaited: handed over* | claim: held
confirm | free: handed over* | awaited: handed over* | held: held | held and awaited: held | claim: confirmed*
release | free: -1 | awaited: -1, handed over* | held: refused | held and awaited: 1, handed over* | claim: refused
release for one | free: -1, handed over* | awaited: -1, handed over* | held: 1, handed over* | held and awaited: 1, handed over* | claim: 1, handed over*
force | free: -1 | awaited: -1, handed over* | held: refused | held and awaited: 1, handed over* | claim: refused
extend | free: -1 | awaited: -1 | held: 1* | held and awaited: 1* | claim: 0
transfer | free: nil | awaited: nil | held: moved* | held and awaited: moved* | claim: nil
look to change | free: free | awaited: free | held: held | held and awaited: held | claim: held
acquire all | free: granted* | awaited: in the way | held: granted* | held and awaited: granted* | claim: in the way
acquire the rest | free: granted* | awaited: in the way | held: granted* | held and awaited: granted* | claim: in the way
get
acquire | free: granted* | awaited: refused | held: refused | held and awaited: refused | claim: refused
acquire and wait | free: granted* | awaited: refused | held: refused | held and awaited: refused | claim: refused
acquire first | free: granted* | awaited: refused | held: refused | held and awaited: refused | claim: refused
set nx | free: granted* | awaited: refused | held: refused | held and awaited: refused | claim: refused
look around | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
look around for one | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
take back | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
take back for one | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
confirm | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
release | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
release for one | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
force | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
extend | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
transfer | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
look to change | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
acquire all | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
acquire the rest | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
exists
acquire | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
acquire and wait | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
acquire first | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
set nx | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
look around | free: free | awaited: handed over* | held: held | held and awaited: held | claim: held
look around for one | free: handed over* | awaited: handed over* | held: held | held and awaited: held | claim: held
take back | free: free | awaited: handed over* | held: free* | held and awaited: handed over* | claim: held
take back for one | free: handed over* | awaited: handed over* | held: handed over* | held and awaited: handed over* | claim: held
confirm | free: handed over* | awaited: handed over* | held: held | held and awaited: held | claim: confirmed*
release | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
release for one | free: -1, handed over* | awaited: -1, handed over* | held: 1, handed over* | held and awaited: 1, handed over* | claim: 1, handed over*
force | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
extend | free: -1 | awaited: -1 | held: 1* | held and awaited: 1* | claim: 0
transfer | free: nil | awaited: nil | held: moved* | held and awaited: moved* | claim: nil
look to change | free: free | awaited: free | held: held | held and awaited: held | claim: held
acquire all | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: refused
acquire the rest | free: refused | awaited: refused | held: refused | held and awaited: refused | claim: in the way
";
