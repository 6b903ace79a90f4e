//! Several Lockgate processes in front of one server, and words for what waits where.

use super::lockgate::Lockgate;
use super::reply::Reply;
use super::server::{RedisServer, ServerKind};
use super::tools;
use super::wait::eventually;
use super::wire::Wire;
use nix::sys::signal::Signal;

pub struct Circle {
    // In this order they are dropped: the nodes first, so that they do not end in a storm of lost links.
    pub nodes: Vec<Lockgate>,
    pub server: RedisServer,
}

impl Circle {
    /// So many nodes, named `n0`, `n1` …; returns when all know one another.
    pub fn of(count: usize) -> Self {
        Self::with(ServerKind::Redis70, count, "")
    }

    /// On that kind of server, each with these lines at the beginning of its configuration.
    pub fn with(kind: ServerKind, count: usize, config: &str) -> Self {
        let server = RedisServer::start_with(kind, &[]);
        let url = server.url();
        let nodes = (0..count).map(|number| node(&url, number, config)).collect();
        let circle = Self { nodes, server };
        circle.await_all();
        circle
    }

    /// As [`Circle::with`], the last node reaching the server by that URL.
    pub fn last_by(server: RedisServer, count: usize, url: &str) -> Self {
        let mut nodes: Vec<Lockgate> = (1..count).map(|number| node(&server.url(), number - 1, "")).collect();
        nodes.push(node(url, count - 1, ""));
        let circle = Self { nodes, server };
        circle.await_all();
        circle
    }

    /// Each node has heard all others.
    #[track_caller]
    pub fn await_all(&self) {
        let others = self.nodes.len() - 1;
        for node in &self.nodes {
            eventually("the nodes know one another", || {
                (node.wrote().matches("another node is there").count() >= others).then_some(())
            });
        }
    }

    /// Starts a node again where the killed one of that number was, under its name.
    pub fn restart(&mut self, number: usize) {
        let url = self.server.url();
        self.restart_at(number, &url);
    }

    /// The same, reaching the server by that URL; returns when it knows the others.
    pub fn restart_at(&mut self, number: usize, url: &str) {
        self.nodes[number].kill();
        self.nodes[number] = node(url, number, "");
        self.await_all();
    }

    #[track_caller]
    pub fn client(&self, node: usize) -> Wire {
        self.nodes[node].wire()
    }

    /// Asks on that node, and comes back when the call stands in line there.
    #[track_caller]
    pub fn waits(&self, node: usize, key: &str, owner: &str, options: &str) -> Wire {
        let mut client = self.client(node);
        client.ask_line(&format!("LOCK.ACQUIRE {key} {owner} WAIT 60000 {options}"));
        self.await_place(node, key, owner);
        client
    }

    /// The same with a `SET NX`.
    #[track_caller]
    pub fn waits_plain(&self, node: usize, key: &str, value: &str) -> Wire {
        let mut client = self.client(node);
        client.ask_line(&format!("SET {key} {value} NX PX 60000"));
        self.await_place(node, key, value);
        client
    }

    #[track_caller]
    pub fn await_place(&self, node: usize, key: &str, owner: &str) {
        let mut look = self.client(node);
        eventually(&format!("'{owner}' waits for '{key}'"), || {
            matches!(look.run(&format!("LOCK.POSITION {key} {owner}")), Reply::Int(1..)).then_some(())
        });
    }

    /// Waits until that many wait for `key`, as that node knows.
    #[track_caller]
    pub fn await_waiters(&self, node: usize, key: &str, count: i64) {
        let mut look = self.client(node);
        let mut last = Reply::Nil;
        let found = super::within(super::PATIENCE, || {
            last = look.run(&format!("LOCK.INFO {key}")).field("waiters");
            (last == Reply::Int(count)).then_some(())
        });
        assert!(found.is_some(), "{last:?} wait for '{key}' instead of {count}");
    }

    /// Who holds `key` as its value says, a claim included; `None` when nobody does.
    pub fn holder(&self, key: &str) -> Option<String> {
        match self.server.wire().run(&format!("GET {key}")) {
            Reply::Nil => None,
            value => value.text().split('\x1f').next().map(str::to_owned),
        }
    }

    /// The names of all keys that Lockgate keeps beside locks.
    pub fn companions(&self) -> Vec<String> {
        let keys = self.server.wire().run("KEYS lockgate:*");
        let mut names: Vec<String> = keys.items().iter().map(Reply::text).collect();
        names.sort();
        names
    }

    /// Nothing is left beside locks but the counter and, where several nodes live, who leads them.
    #[track_caller]
    pub fn assert_nothing_stays(&self) {
        let mut last = Vec::new();
        let found = super::within(super::PATIENCE, || {
            last = self.companions();
            last.iter().all(|name| name == "lockgate:fence" || name == "lockgate:leader").then_some(())
        });
        assert!(found.is_some(), "left behind: {last:?}");
    }

    /// Stops a node's process where it stands; no thread of it moves when this returns.
    pub fn stop(&self, number: usize) {
        let pid = self.nodes[number].pid();
        tools::signal(pid, Signal::SIGSTOP);
        eventually("all of it stands still", || {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let stands = |thread: std::fs::DirEntry| {
                std::fs::read_to_string(thread.path().join("stat")).is_ok_and(|stat| stat.contains(") T "))
            };
            threads.flatten().all(stands).then_some(())
        });
    }

    pub fn go_on(&self, number: usize) {
        tools::signal(self.nodes[number].pid(), Signal::SIGCONT);
    }
}

fn node(url: &str, number: usize, config: &str) -> Lockgate {
    let config = format!("{config}\n[nodes]\nid = \"n{number}\"\n");
    Lockgate::serve(&["--upstream", url], Some(&config))
}
