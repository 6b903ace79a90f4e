//! Which keys are lock keys by their name.

/// Globs over key names, as Redis' `KEYS` understands them.
#[derive(Debug, Clone)]
pub struct LockKeys(Vec<Vec<u8>>);

impl Default for LockKeys {
    fn default() -> Self {
        LockKeys::new(["lock:*", "locks:*", "redlock:*", "*:lock"])
    }
}

impl LockKeys {
    /// The keys that match one of `globs`.
    pub fn new<T: AsRef<[u8]>>(globs: impl IntoIterator<Item = T>) -> Self {
        LockKeys(globs.into_iter().map(|glob| glob.as_ref().to_vec()).collect())
    }

    /// `true` where a rule takes the key of that name for a lock.
    pub fn matches(&self, name: &[u8]) -> bool {
        self.0.iter().any(|glob| glob_matches(glob, name))
    }
}

/// Redis' glob: `*`, `?`, `[a-z]`, `[^a]` and `\` before a character that stands for itself. Linear in the name for each `*`,
/// whatever the pattern.
pub fn glob_matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut g, mut t) = (0, 0);
    // Where to go on when the text did not fit: after the last star, one byte further in the text.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if g < glob.len() && glob[g] == b'*' {
            g += 1;
            retry = Some((g, t));
            continue;
        }
        if t == text.len() && g == glob.len() {
            return true;
        }
        match (t < text.len()).then(|| one_fits(&glob[g..], text[t])).flatten() {
            Some(used) => {
                g += used;
                t += 1;
            }
            None => match retry {
                Some((star, from)) if from < text.len() => {
                    g = star;
                    t = from + 1;
                    retry = Some((star, t));
                }
                _ => return false,
            },
        }
    }
}

/// How many bytes of `glob` the one byte `byte` uses up; `None` where it does not fit.
fn one_fits(glob: &[u8], byte: u8) -> Option<usize> {
    match glob {
        [b'?', ..] => Some(1),
        [b'[', class @ ..] => {
            let (fits, used) = class_fits(class, byte);
            fits.then_some(1 + used)
        }
        [b'\\', literal, ..] => (*literal == byte).then_some(2),
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// Whether `byte` is in the class that begins after `[`, and how long the class is; one that is not closed ends with the glob.
fn class_fits(class: &[u8], byte: u8) -> (bool, usize) {
    let (negated, mut at) = if class.first() == Some(&b'^') { (true, 1) } else { (false, 0) };
    let mut found = false;
    loop {
        match &class[at.min(class.len())..] {
            [] => return (found != negated, at),
            [b']', ..] => return (found != negated, at + 1),
            [b'\\', literal, ..] => {
                found |= *literal == byte;
                at += 2;
            }
            [from, b'-', to, ..] => {
                found |= (*from.min(to)..=*from.max(to)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= *literal == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_mean_what_they_mean_to_redis() {
        for (glob, text, fits) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("lock:*", "lock:", true),
            ("lock:*", "locks:a", false),
            ("*:lock", "a:lock:lock", true),
            ("*:lock", ":lock", true),
            ("*:lock", "lock", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a[b-d]e", "ace", true),
            ("a[d-b]e", "ace", true),
            ("a[^b]e", "abe", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("[a", "a", true),
        ] {
            assert_eq!(glob_matches(glob.as_bytes(), text.as_bytes()), fits, "{glob:?} {text:?}");
        }
        assert!(LockKeys::default().matches(b"lock:\x00\xff"));
    }

    #[test]
    fn a_hostile_glob_costs_no_more_than_its_length_times_the_names() {
        assert!(!glob_matches(&b"*a".repeat(200), &b"a".repeat(199)));
        assert!(!glob_matches(&[b"*a".repeat(50), b"b".to_vec()].concat(), &b"a".repeat(20_000)));
    }
}
