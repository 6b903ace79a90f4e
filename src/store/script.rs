//! Lua on the upstream: by its digest, and once more in full where the upstream does not know it (yet, or any more).

use std::sync::LazyLock;

use crate::upstream::call::{CallError, Caller};

/// One transition of a lock.
pub struct Script {
    text: String,
    digest: String,
}

/// What scripts share, by the line in their text that asks for it. What is included may ask for what stands below it.
const INCLUDES: [(&str, &str, &str); 6] = [
    ("-- include ask.lua\n", "ask.lua", include_str!("../../lua/ask.lua")),
    ("-- include turn.lua\n", "turn.lua", include_str!("../../lua/turn.lua")),
    ("-- include queue.lua\n", "queue.lua", include_str!("../../lua/queue.lua")),
    ("-- include fence.lua\n", "fence.lua", include_str!("../../lua/fence.lua")),
    ("-- include holds.lua\n", "holds.lua", include_str!("../../lua/holds.lua")),
    ("-- include look.lua\n", "look.lua", include_str!("../../lua/look.lua")),
];

/// The text of a file of `lua/`, as it was built in.
#[cfg(not(test))]
fn text_of(_name: &str, built_in: &str) -> String {
    built_in.to_owned()
}

/// The same; tests take it from the folder that `LOCKGATE_LUA` names, so that many changed scripts are tried by one build.
#[cfg(test)]
fn text_of(name: &str, built_in: &str) -> String {
    let Some(folder) = std::env::var_os("LOCKGATE_LUA") else { return built_in.to_owned() };
    std::fs::read_to_string(std::path::Path::new(&folder).join(name)).expect("LOCKGATE_LUA has every script")
}

impl Script {
    fn new(name: &str, built_in: &str) -> Self {
        let include = |text: String, (line, name, built_in): &(&str, &str, &str)| match text.contains(line) {
            true => text.replace(line, &text_of(name, built_in)),
            false => text,
        };
        let text = INCLUDES.iter().fold(text_of(name, built_in), include);
        let digest = sha1_smol::Sha1::from(&text).digest().to_string();
        Script { text, digest }
    }

    /// Runs the script and returns its raw reply. Any upstream may have lost its scripts at any time (SCRIPT FLUSH, a failover),
    /// hence NOSCRIPT is not an error but the way to learn that.
    pub async fn run<C: Caller>(
        &'static self,
        caller: &C,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) -> Result<Vec<u8>, CallError> {
        let in_full = || request(b"EVAL", self.text.as_bytes(), keys, args);
        if !caller.has_script(&self.digest) {
            let reply = caller.call(in_full()).await?;
            caller.notes_script(&self.digest, !reply.starts_with(b"-"));
            // A user may be allowed the one and not the other.
            if !reply.starts_with(b"-NOPERM") {
                return Ok(reply);
            }
        }
        let reply = caller.call(request(b"EVALSHA", self.digest.as_bytes(), keys, args)).await?;
        if !reply.starts_with(b"-NOSCRIPT") {
            return Ok(reply);
        }
        caller.notes_script(&self.digest, false);
        caller.call(in_full()).await
    }
}

/// Encodes `EVAL…` as one RESP command.
fn request(command: &[u8], script: &[u8], keys: &[&[u8]], args: &[&[u8]]) -> Vec<u8> {
    let count = keys.len().to_string();
    let parts = [command, script, count.as_bytes()];
    let all = || parts.iter().chain(keys).chain(args);
    let mut out = Vec::with_capacity(16 + all().map(|part| part.len() + 16).sum::<usize>());
    push_length(&mut out, b'*', all().count());
    for part in all() {
        push_length(&mut out, b'$', part.len());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn push_length(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.push(kind);
    out.extend_from_slice(length.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
}

macro_rules! script {
    ($doc:literal, $name:ident, $file:literal) => {
        #[doc = $doc]
        pub static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new($file, include_str!(concat!("../../lua/", $file))));
    };
}

script!("Asks for a lock.", ACQUIRE, "acquire.lua");
script!("SET NX on a lock key.", SET_NX, "set_nx.lua");
script!("A node's own turn at a lock.", HAND_OVER, "hand_over.lua");
script!("Ends a hold and hands over in the same step.", RELEASE, "release.lua");
script!("Sets the lease of the owner who holds the lock.", EXTEND, "extend.lua");
script!("Renews the lease of one grant.", RENEW, "renew.lua");
script!("Gives a lock to another owner.", TRANSFER, "transfer.lua");
script!("Takes several locks, all or none.", ACQUIRE_ALL, "acquire_all.lua");
script!("Takes back what a SET NX has just written.", UNDO, "undo.lua");
script!("Who holds a lock, and for how long.", LOOK, "look.lua");
script!("The same, for somebody who may change who waits.", MAY_CHANGE, "may_change.lua");
script!("Takes, keeps or lays down the lead among nodes.", LEAD, "lead.lua");
script!("Writes a lock as it stood elsewhere.", IMPORT, "import.lua");
script!("Removes registrations that nobody is behind.", CLEAN, "clean.lua");

/// Whose hold a RELEASE that was sent with these words is to end, and under which fence; `None` for the owner where it takes the lock from
/// whoever holds it, `None` at all where it is no RELEASE.
#[cfg(test)]
pub fn released_by<'a>(words: &[&'a [u8]]) -> Option<(Option<&'a [u8]>, Option<u64>)> {
    let [_, script, _, _, _, _, _, _, owner, terms, ..] = words else { return None };
    let is_release = *script == RELEASE.digest.as_bytes() || *script == RELEASE.text.as_bytes();
    let mut terms = std::str::from_utf8(terms).ok().filter(|_| is_release)?.split('\x1f');
    let (fence, is_forced) = (terms.next()?.parse().ok(), terms.nth(1)? == "1");
    Some(((!is_forced).then_some(*owner), fence))
}

/// Whether these words ask for a renewal.
#[cfg(test)]
pub fn is_renewal(words: &[&[u8]]) -> bool {
    words.get(1).is_some_and(|script| *script == RENEW.digest.as_bytes() || *script == RENEW.text.as_bytes())
}

/// Whether they give a lock to another owner.
#[cfg(test)]
pub fn is_transfer(words: &[&[u8]]) -> bool {
    words.get(1).is_some_and(|script| *script == TRANSFER.digest.as_bytes() || *script == TRANSFER.text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_include_is_found() {
        for script in [
            &ACQUIRE,
            &SET_NX,
            &HAND_OVER,
            &RELEASE,
            &EXTEND,
            &RENEW,
            &UNDO,
            &LOOK,
            &MAY_CHANGE,
            &TRANSFER,
            &ACQUIRE_ALL,
            &LEAD,
            &CLEAN,
        ] {
            assert!(!script.text.contains("-- include"), "{}", script.text);
        }
    }
}
