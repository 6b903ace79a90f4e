//! Whom the upstream lets run what, where a `LOCK.*` command is not about a key: as long as there are no users of Lockgate's own, the
//! upstream judges a command of its own that tells or does the like, under the client's identity.

use super::lock_args::{ConfigArgs, LockCommand, LockRequest, SlowLogArgs};

/// What a client must be allowed to run upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Needed {
    /// As an ACL names it.
    pub permission: &'static str,
    /// The command that is judged.
    pub question: &'static [&'static str],
    /// It has an effect, and is only to be queued in a transaction that is discarded.
    pub has_effect: bool,
}

const fn needed(permission: &'static str, question: &'static [&'static str]) -> Needed {
    Needed { permission, question, has_effect: false }
}

const INFO: Needed = needed("info", &["INFO", "lockgate"]);
const SLOWLOG_GET: Needed = needed("slowlog|get", &["SLOWLOG", "GET", "0"]);
const SLOWLOG_LEN: Needed = needed("slowlog|len", &["SLOWLOG", "LEN"]);
const SLOWLOG_RESET: Needed = Needed { has_effect: true, ..needed("slowlog|reset", &["SLOWLOG", "RESET"]) };
const CONFIG_GET: Needed = needed("config|get", &["CONFIG", "GET", "lockgate"]);
// No server has a parameter of that name.
const CONFIG_SET: Needed = needed("config|set", &["CONFIG", "SET", "lockgate", ""]);

/// What `request` needs; `None` where keys are touched, which the upstream judges by itself, or nothing is told.
pub fn needed_for(request: &LockRequest) -> Option<Needed> {
    let command = match request {
        LockRequest::Config(ConfigArgs::Get(_)) => return Some(CONFIG_GET),
        LockRequest::Config(ConfigArgs::Set(_)) => return Some(CONFIG_SET),
        LockRequest::Guard(_) | LockRequest::Help => return None,
        LockRequest::Engine(command) => command,
    };
    match command {
        LockCommand::Force { .. } | LockCommand::Cleanup => Some(CONFIG_SET),
        LockCommand::Stats | LockCommand::Health | LockCommand::Nodes => Some(INFO),
        LockCommand::Graph | LockCommand::Deadlocks { .. } => Some(SLOWLOG_GET),
        LockCommand::SlowLog(SlowLogArgs::Get(_)) => Some(SLOWLOG_GET),
        LockCommand::SlowLog(SlowLogArgs::Len) => Some(SLOWLOG_LEN),
        LockCommand::SlowLog(SlowLogArgs::Reset) => Some(SLOWLOG_RESET),
        LockCommand::Acquire(_)
        | LockCommand::Release { .. }
        | LockCommand::Extend { .. }
        | LockCommand::Transfer(_)
        | LockCommand::Info { .. }
        | LockCommand::Position { .. }
        | LockCommand::Cancel { .. }
        | LockCommand::Promote { .. }
        | LockCommand::Queue { .. }
        | LockCommand::List(_)
        | LockCommand::AcquireAll(_)
        | LockCommand::ReleaseAll { .. } => None,
    }
}

impl Needed {
    /// What the client is answered, a whole error line without its `-`, where `judged` is the upstream's reply to the question;
    /// `None` where it may.
    pub fn refusal(&self, name: &[u8], judged: &[u8]) -> Option<Vec<u8>> {
        let line = judged.strip_prefix(b"-")?;
        if line.starts_with(b"NOPERM") {
            let Needed { permission, .. } = self;
            let name = String::from_utf8_lossy(name).to_ascii_uppercase();
            let says = format!(
                "NOPERM {name} needs the permission to run '{permission}' on the upstream; grant it to this user there (ACL SETUSER \
                 user +{permission})"
            );
            return Some(says.into_bytes());
        }
        // It does not know the parameter, or has had the command taken away from everybody: there are no rights to go by.
        (!line.starts_with(b"ERR ")).then(|| line.trim_ascii_end().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_command_and_what_it_needs() {
        let says = CONFIG_SET.refusal(b"lock.force", b"-NOPERM no\r\n").expect("refused");
        let says = String::from_utf8(says).expect("text");
        assert!(
            says.starts_with("NOPERM LOCK.FORCE needs the permission to run 'config|set' on the upstream"),
            "{says}"
        );
        assert_eq!(CONFIG_SET.refusal(b"lock.force", b"-ERR Unknown option\r\n"), None);
        assert_eq!(INFO.refusal(b"lock.stats", b"$0\r\n\r\n"), None);
        assert_eq!(INFO.refusal(b"lock.stats", b"-BUSY a script\r\n"), Some(b"BUSY a script".to_vec()));
        assert_eq!(INFO.refusal(b"lock.stats", b"-NOAUTH no\r\n"), Some(b"NOAUTH no".to_vec()));
    }
}
