//! What a lock's value says: `owner 0x1F fence 0x1F level 0x1F acquired_at 0x1F node:call 0x1F meta`, or, for a lock that was
//! taken around us, the owner as it stands.

use crate::domain::{CallId, FIELD_SEPARATOR, Fence, Level};

/// Fences stay below this, so that every client's numbers hold them.
pub const FENCE_MAX: u64 = (1 << 53) - 1;

/// The fields of a value of the long form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields<'a> {
    /// Who holds the lock.
    pub owner: &'a [u8],
    /// The fencing token of this hold.
    pub fence: Fence,
    /// The level it was asked for at.
    pub level: Level,
    /// When this hold began, Unix time in ms.
    pub acquired_at_ms: u64,
    /// The node that granted it.
    pub node: &'a [u8],
    /// The call of that node, as written.
    pub call: &'a [u8],
    /// The call only repeated: an older one of this owner had been granted this fence.
    pub is_repeat: bool,
    /// It is a claim: nobody holds the lock before it is confirmed.
    pub is_claim: bool,
    /// What the client noted, to the end.
    pub meta: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields of `value`; `None` where it is of another form, and thus an owner as it stands.
    pub fn read(value: &'a [u8]) -> Option<Self> {
        let mut parts = value.splitn(6, |byte| *byte == FIELD_SEPARATOR);
        let owner = parts.next()?;
        let fence = decimal(parts.next()?).filter(|fence| *fence <= FENCE_MAX)?;
        let level = match parts.next()? {
            [digit @ b'0'..=b'3'] => Level::parse(&[*digit])?,
            _ => return None,
        };
        let acquired_at_ms = decimal(parts.next()?)?;
        let grantor = parts.next()?;
        let meta = parts.next()?;
        // A claim that is not yet confirmed ends in `?`.
        let (named, is_claim) = grantor.strip_suffix(b"?").map_or((grantor, false), |named| (named, true));
        let (named, is_repeat) = named.strip_suffix(b"+").map_or((named, false), |named| (named, true));
        let (node, call) = match memchr::memrchr(b':', named) {
            Some(colon) => (&named[..colon], &named[colon + 1..]),
            None => (named, &[][..]),
        };
        Some(Fields { owner, fence: Fence(fence), level, acquired_at_ms, node, call, is_repeat, is_claim, meta })
    }

    /// The call of `node` that this value names; `None` where another node granted it.
    pub fn call_of(&self, node: &str) -> Option<CallId> {
        if self.node == node.as_bytes() { CallId::parse(self.call) } else { None }
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    if is_plain { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_long_form_with_a_meta_of_any_bytes() {
        let fields = Fields::read(b"ann\x1f17\x1f2\x1f1700000000000\x1fhost:a:1z\x1fbatch\x1f\x007").unwrap();
        assert_eq!((fields.owner, fields.fence, fields.level), (&b"ann"[..], Fence(17), Level::High));
        assert_eq!((fields.node, fields.meta), (&b"host:a"[..], &b"batch\x1f\x007"[..]));
        assert_eq!(fields.call_of("host:a"), CallId::parse(b"1z"));
        assert_eq!(fields.call_of("host:b"), None);
    }

    #[test]
    fn any_other_value_is_an_owner_as_it_stands() {
        for value in [
            "",
            "ann",
            "a\x1f1\x1f1\x1f1\x1fn:1",
            "a\x1fx\x1f1\x1f1\x1fn:1\x1f",
            "a\x1f1\x1f4\x1f1\x1fn:1\x1f",
            "a\x1f1\x1f\x1f1\x1fn:1\x1f",
        ] {
            assert_eq!(Fields::read(value.as_bytes()), None, "{value:?}");
        }
    }
}
