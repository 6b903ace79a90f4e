//! What is known of the upstream: its commands, its version, its limits.

use super::call::CallError;
use super::caller::LinkCaller;
use super::links::ask;
use crate::commands::CommandTable;
use crate::protocol::frame::{Value, decode};

/// Redis' own default for `proto-max-bulk-len`, in bytes.
const BULK_MAX: u64 = 512 << 20;

/// Asked anew whenever the upstream comes back.
pub struct Facts {
    /// Names, flags and key positions of its commands.
    pub table: CommandTable,
    /// Longest argument it takes, in bytes.
    pub bulk_max: u64,
    /// Major and minor version of the Redis it is or says it is compatible with; 0.0 where unknown.
    pub version: (u32, u32),
}

impl Facts {
    /// What holds as long as the upstream has not been heard.
    pub fn before_contact() -> Facts {
        Facts { table: CommandTable::builtin(), bulk_max: BULK_MAX, version: (0, 0) }
    }

    /// Asks the upstream. What it refuses to tell keeps its default; `None` where a script keeps it busy.
    pub async fn ask(service: &LinkCaller) -> Result<Option<Facts>, CallError> {
        let server = ask(service, &[b"INFO", b"server"]).await?;
        let limit = ask(service, &[b"CONFIG", b"GET", b"proto-max-bulk-len"]).await?;
        let commands = ask(service, &[b"COMMAND"]).await?;
        if commands.starts_with(b"-BUSY") {
            return Ok(None);
        }
        let table = CommandTable::learn(&commands).unwrap_or_else(|error| {
            tracing::warn!(%error, "the upstream's COMMAND reply is of no use; the built-in table serves");
            CommandTable::builtin()
        });
        let (bulk_max, version) = (bulk_max(&limit).unwrap_or(BULK_MAX), version(&server).unwrap_or((0, 0)));
        Ok(Some(Facts { table, bulk_max, version }))
    }

    /// `CLIENT SETINFO` came with 7.2.
    pub fn knows_setinfo(&self) -> bool {
        self.version >= (7, 2)
    }
}

fn bulk_max(reply: &[u8]) -> Option<u64> {
    let Ok(Value::Array(pair)) = decode(reply) else { return None };
    match pair.get(1) {
        Some(Value::Bulk(number)) => std::str::from_utf8(number).ok()?.parse().ok(),
        _ => None,
    }
}

fn version(info: &[u8]) -> Option<(u32, u32)> {
    let text = String::from_utf8_lossy(info);
    let line = text.lines().find_map(|line| line.strip_prefix("redis_version:"))?;
    let mut parts = line.split('.').map_while(|part| part.parse().ok());
    Some((parts.next()?, parts.next()?))
}
