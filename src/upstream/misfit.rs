//! Why an upstream that answers is of no use to Lockgate all the same: found on its own link, and by `lockgate ping`.

use std::time::Duration;

use super::dial::{Connector, DialError, DialTerms, Greet, Identity, LinkKey, dial, service_credentials};
use super::url::Endpoint;
use crate::domain::Resp;
use crate::protocol::args::encode_command;

/// A digest that no script has: the upstream answers `-NOSCRIPT` to a user who may run scripts.
const NO_SCRIPT: &[u8] = b"0000000000000000000000000000000000000000";

/// What is wrong with the upstream, or with what its URL says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// It refuses the URL's user or password, with this line.
    #[error("the upstream refuses the user or password of its URL ({0}); correct them in 'upstream'")]
    Credentials(String),
    /// It is a node of a cluster.
    #[error(
        "the upstream is a node of a cluster, and a redis:// URL names a single server; set 'upstream' to one that is no cluster"
    )]
    Cluster,
    /// It is a replica.
    #[error(
        "the upstream is a replica and takes no writes; set 'upstream' to its master, or promote it (REPLICAOF NO ONE)"
    )]
    Replica,
    /// No Sentinel names a master, for these reasons.
    #[error("{0}; correct 'upstream', or start the Sentinels")]
    Nobody(String),
    /// The URL's user may not run scripts, with the upstream's line.
    #[error(
        "the upstream does not let the URL's user run scripts ({0}); give the user what docs/operations.md, 'What nodes share', lists"
    )]
    Scripts(String),
}

impl Misfit {
    /// What a refused handshake of Lockgate's own link to `endpoint` says; `None` where it says nothing of this kind.
    pub fn of_refusal(endpoint: &Endpoint, line: &[u8]) -> Option<Misfit> {
        const OF_AUTH: [&[u8]; 4] = [b"-WRONGPASS ", b"-NOAUTH ", b"-ERR AUTH ", b"-ERR invalid password"];
        if service_credentials(endpoint).is_some() && OF_AUTH.iter().any(|code| line.starts_with(code)) {
            return Some(Misfit::Credentials(shown(line)));
        }
        line.starts_with(b"-ERR SELECT is not allowed in cluster mode").then_some(Misfit::Cluster)
    }

    /// What `INFO replication` says.
    pub fn of_role(info: &[u8]) -> Option<Misfit> {
        has_line(info, b"role:slave").then_some(Misfit::Replica)
    }

    /// What a script that does not exist is answered.
    pub fn of_trial(reply: &[u8]) -> Option<Misfit> {
        reply.strip_prefix(b"-").unwrap_or(reply).starts_with(b"NOPERM").then(|| Misfit::Scripts(shown(reply)))
    }

    /// It may be over without anybody's doing, as after a failover: those who wait already go on waiting.
    pub fn may_pass(&self) -> bool {
        *self == Misfit::Replica
    }
}

/// Whether `INFO server` tells of a cluster: `redis_mode` with Redis, `server_mode` with Valkey.
pub fn is_cluster(info: &[u8]) -> bool {
    has_line(info, b"redis_mode:cluster") || has_line(info, b"server_mode:cluster")
}

fn has_line(info: &[u8], wanted: &[u8]) -> bool {
    info.split(|byte| *byte == b'\n').any(|line| line.trim_ascii() == wanted)
}

fn shown(line: &[u8]) -> String {
    line.strip_prefix(b"-").unwrap_or(line).trim_ascii().escape_ascii().to_string()
}

/// Asks the upstream over a connection of its own. `None` where nothing is wrong, and where it cannot be reached or answers
/// something that says neither.
pub async fn examine(endpoint: &Endpoint, connector: &Connector, limit: Duration) -> Option<Misfit> {
    tokio::time::timeout(limit, look(endpoint, connector, limit)).await.unwrap_or_default()
}

async fn look(endpoint: &Endpoint, connector: &Connector, limit: Duration) -> Option<Misfit> {
    let identity = if service_credentials(endpoint).is_some() { Identity::Service } else { Identity::Anonymous };
    let key = LinkKey { identity, db: endpoint.db, resp: Resp::V2 };
    let limits = DialTerms { connect: limit, answer: limit, masters_only: false };
    let mut dialled = match dial(endpoint, &key, Greet::Fully, connector, limits, Duration::ZERO).await {
        Ok(dialled) => dialled,
        Err(DialError::Refused(line)) => return Misfit::of_refusal(endpoint, &line),
        Err(DialError::Unreachable(_)) => return None,
    };
    if dialled.is_cluster {
        return Some(Misfit::Cluster);
    }
    let mut asked = Vec::new();
    encode_command(&[&b"INFO"[..], b"replication"], &mut asked);
    encode_command(&trial(), &mut asked);
    let told = dialled.ask(&asked, 2).await.ok()?;
    Misfit::of_role(&told[0]).or_else(|| Misfit::of_trial(&told[1]))
}

/// A script that does not exist, on a key of Lockgate's own: what it is answered shows whether scripts may be run.
pub fn trial() -> [&'static [u8]; 4] {
    [b"EVALSHA", NO_SCRIPT, b"1", b"lockgate:fence"]
}
