//! Who may: users with differing rights on every server. What the upstream refuses somebody has no effect through Lockgate either, and
//! the refusal is the upstream's own.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Reply, ServerKind, Stage, Wire, eventually};

/// Every server, and Lockgate in front of it.
fn stages() -> impl Iterator<Item = Stage> {
    ServerKind::ALL.into_iter().map(Stage::on)
}

impl Wire {
    /// Becomes the user `name`, whose password is its name.
    #[track_caller]
    fn acting_as(mut self, name: &str) -> Self {
        assert_eq!(self.call(&["AUTH", name, name]), b"+OK\r\n");
        self
    }
}

impl Stage {
    /// Makes `name` a user with these rights alone, and its password its name.
    #[track_caller]
    fn user(&self, name: &str, rights: &str) {
        let rules = format!("ACL SETUSER {name} reset on >{name} {rights}");
        assert_eq!(self.bypass().run(&rules), Reply::Simple("OK".into()));
    }
}

#[test]
fn a_full_upstream_is_no_reason_to_close_a_users_connections() {
    for stage in stages() {
        stage.user("ann", "~* +@all");
        let (mut ann, mut admin) = (stage.client().acting_as("ann"), stage.bypass());
        assert_eq!(ann.run("SET k v"), Reply::Simple("OK".into()));
        let most = admin.run("CONFIG GET maxclients").items()[1].text();
        assert_eq!(admin.run("CONFIG SET maxclients 1"), Reply::Simple("OK".into()));
        assert!(admin.run("CLIENT KILL USER ann").int() >= 1);
        // Lockgate looks whether the user is still welcome, and is turned away because there are too many clients.
        let refused = || {
            let info = admin.run("INFO stats").text();
            (!info.contains("rejected_connections:0")).then_some(())
        };
        eventually("the upstream turns a connection away", refused);
        assert_eq!(admin.run(&format!("CONFIG SET maxclients {most}")), Reply::Simple("OK".into()));
        eventually("the user is served again on the same connection", || {
            ann.call(&["GET", "k"]).starts_with(b"$1").then_some(())
        });
    }
}
