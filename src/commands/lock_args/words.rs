//! Single words of a command, and what is said where one does not fit.

use crate::domain::{Fence, Level, OwnerId};

/// Times and fences stay below 2^53, so that every client's numbers hold them.
pub(super) const NUMBER_MAX: u64 = (1 << 53) - 1;

/// Any bytes but 0x1F, and not none: an empty owner is a variable that was never set, and two of those would share their locks.
pub(super) fn owner(text: &[u8]) -> Result<OwnerId, String> {
    if text.is_empty() {
        return Err(
            "ERR the owner is empty, as an unset variable is; name who acts, a different name for each actor".into()
        );
    }
    OwnerId::new(text).ok_or_else(|| "ERR an owner may hold any bytes but 0x1F".into())
}

pub(super) fn ttl(text: &[u8]) -> Result<u64, String> {
    number(text, 1).ok_or_else(|| format!("ERR TTL must be an integer from 1 to {NUMBER_MAX}, in milliseconds"))
}

pub(super) fn wait(text: &[u8]) -> Result<u64, String> {
    number(text, 0).ok_or_else(|| format!("ERR WAIT must be an integer from 0 to {NUMBER_MAX}, in milliseconds"))
}

pub(super) fn fence(text: &[u8]) -> Result<Fence, String> {
    let fence = number(text, 1).map(Fence);
    fence.ok_or_else(|| format!("ERR FENCE must be an integer from 1 to {NUMBER_MAX}"))
}

pub(super) fn count(text: &[u8]) -> Result<u64, String> {
    number(text, 1).ok_or_else(|| format!("ERR COUNT must be an integer from 1 to {NUMBER_MAX}"))
}

pub(super) fn level(text: &[u8]) -> Result<Level, String> {
    Level::parse(text).ok_or_else(|| "ERR PRIORITY must be low, normal, high, critical or 0 to 3".into())
}

/// An option that stands twice is a mistake, whatever its values.
pub(super) fn once<T>(option: &mut Option<T>, value: Result<T, String>) -> Result<(), String> {
    if option.is_some() {
        return Err(syntax_error());
    }
    *option = Some(value?);
    Ok(())
}

/// The only option, `word` and a value; `None` where nothing is left.
pub(super) fn single_option<'a>(word: &str, options: &[&'a [u8]]) -> Result<Option<&'a [u8]>, String> {
    match options {
        [] => Ok(None),
        [found, value] if found.eq_ignore_ascii_case(word.as_bytes()) => Ok(Some(value)),
        _ => Err(syntax_error()),
    }
}

/// A decimal integer as Redis takes it: no sign, no spaces, no leading zeros.
pub(super) fn number(text: &[u8], least: u64) -> Option<u64> {
    unsigned(text).filter(|number| (least..=NUMBER_MAX).contains(number))
}

/// The same, of any size.
pub(super) fn unsigned(text: &[u8]) -> Option<u64> {
    let is_plain = text == b"0" || (text.first()? != &b'0' && text.iter().all(u8::is_ascii_digit));
    std::str::from_utf8(text).ok().filter(|_| is_plain)?.parse().ok()
}

pub(super) fn syntax_error() -> String {
    "ERR syntax error".into()
}

/// Redis' own words; `name` in lower case, with its subcommand as `name|subcommand`.
pub(super) fn wrong_number(name: &[u8]) -> String {
    format!("ERR wrong number of arguments for '{}' command", name.escape_ascii())
}

/// Redis' own words, but for where to read on.
pub(super) fn unknown_subcommand(word: &[u8]) -> String {
    const SHOWN_MAX: usize = 128;
    format!("ERR unknown subcommand '{}'. Try LOCK.HELP.", shown(word, SHOWN_MAX))
}

/// Redis' own words, its limits on length included.
pub(super) fn unknown_command(args: &[&[u8]]) -> String {
    const SHOWN_MAX: usize = 128;
    let name = shown(args.first().copied().unwrap_or_default(), SHOWN_MAX);
    let mut beginning = String::new();
    for arg in args.iter().skip(1) {
        if beginning.len() >= SHOWN_MAX {
            break;
        }
        beginning += &format!("'{}' ", shown(arg, SHOWN_MAX - beginning.len()));
    }
    format!("ERR unknown command '{name}', with args beginning with: {beginning}")
}

/// As C's %s does, a NUL ends what is shown; line ends would break the reply.
fn shown(bytes: &[u8], len: usize) -> String {
    let end = memchr::memchr(0, bytes).unwrap_or(bytes.len()).min(len);
    String::from_utf8_lossy(&bytes[..end]).replace(['\r', '\n'], " ")
}
