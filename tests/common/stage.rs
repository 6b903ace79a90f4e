//! A server, Lockgate in front of it, and words for what happens between clients and locks.

use super::lockgate::Lockgate;
use super::reply::Reply;
use super::server::{RedisServer, ServerKind};
use super::wait::eventually;
use super::wire::Wire;

pub struct Stage {
    // In this order they are dropped: Lockgate first, so that it does not end in a storm of lost links.
    pub lockgate: Lockgate,
    pub server: RedisServer,
}

impl Stage {
    pub fn new() -> Self {
        Self::with("")
    }

    /// With lines for Lockgate's configuration.
    pub fn with(config: &str) -> Self {
        let server = RedisServer::start();
        let lockgate = Lockgate::before_with(&server, config);
        Self { lockgate, server }
    }

    /// With a server of that kind.
    pub fn on(kind: ServerKind) -> Self {
        let server = RedisServer::start_with(kind, &[]);
        let lockgate = Lockgate::before(&server);
        Self { lockgate, server }
    }

    /// A client of Lockgate.
    #[track_caller]
    pub fn client(&self) -> Wire {
        self.lockgate.wire()
    }

    /// A client that speaks RESP3.
    #[track_caller]
    pub fn client3(&self) -> Wire {
        self.lockgate.wire3()
    }

    /// A client that goes around Lockgate.
    pub fn bypass(&self) -> Wire {
        self.server.wire()
    }

    /// Waits until that many stand in the queue for `key`.
    #[track_caller]
    pub fn await_waiters(&self, key: &str, count: i64) {
        let mut look = self.client();
        eventually(&format!("{count} waiters for '{key}'"), || {
            (look.run(&format!("LOCK.INFO {key}")).field("waiters") == Reply::Int(count)).then_some(())
        });
    }

    /// Waits until nobody holds `key`.
    #[track_caller]
    pub fn await_free(&self, key: &str) {
        if super::within(super::PATIENCE, || self.holder(key).is_none().then_some(())).is_none() {
            let told = ["GET", "PTTL"].map(|word| self.bypass().run(&format!("{word} {key}")));
            let told =
                [&told[..], &["LOCK.INFO", "LOCK.QUEUE"].map(|word| self.client().run(&format!("{word} {key}")))]
                    .concat();
            panic!("'{key}' is not free in the end: {told:?}");
        }
    }

    /// Who holds `key` as its value says; `None` when nobody does.
    pub fn holder(&self, key: &str) -> Option<String> {
        match self.bypass().run(&format!("GET {key}")) {
            Reply::Nil => None,
            value => value.text().split('\x1f').next().map(str::to_owned),
        }
    }
}

impl Wire {
    /// Takes the lock, which must be free; returns the fence.
    #[track_caller]
    pub fn acquires(&mut self, key: &str, owner: &str) -> i64 {
        self.run(&format!("LOCK.ACQUIRE {key} {owner}")).int()
    }

    /// Asks for the lock and stands in line for it; the reply comes later.
    pub fn waits_for(&mut self, key: &str, owner: &str) {
        self.ask_line(&format!("LOCK.ACQUIRE {key} {owner} WAIT 60000"));
    }

    /// Releases the lock, which must be its own.
    #[track_caller]
    pub fn releases(&mut self, key: &str, owner: &str) {
        assert_eq!(self.run(&format!("LOCK.RELEASE {key} {owner}")), Reply::Int(1));
    }

    /// The grant which this client waits for; returns the fence.
    #[track_caller]
    pub fn is_granted(&mut self) -> i64 {
        let fence = self.reply().int();
        assert!(fence > 0, "a fence is a positive number, not {fence}");
        fence
    }

    /// True while no reply has come for what it asked.
    #[track_caller]
    pub fn still_waits(&mut self) {
        // A look, not a wait: what is known to have happened before would have been answered by now.
        if let Ok(frame) = self.try_frame(std::time::Duration::from_millis(30)) {
            panic!("it no longer waits: {:?}", Reply::parse(&frame));
        }
    }
}
