//! Commands as text, in the way of redis-cli: words between blanks, bare, in double quotes with escapes, or in single
//! quotes; a bare `;` ends a command.

/// The commands of a line.
#[track_caller]
pub fn commands(text: &str) -> Vec<Vec<Vec<u8>>> {
    words_and_separators(text)
        .split(Option::is_none)
        .map(|command| command.iter().flatten().cloned().collect())
        .collect()
}

/// The words of a line that is one command.
#[track_caller]
pub fn words(text: &str) -> Vec<Vec<u8>> {
    words_and_separators(text).into_iter().map(|word| word.expect("one command only")).collect()
}

/// The words of a line; `None` is a bare `;` between two commands.
#[track_caller]
pub fn words_and_separators(text: &str) -> Vec<Option<Vec<u8>>> {
    let mut found = Vec::new();
    let mut bytes = text.bytes().peekable();
    while let Some(&first) = bytes.peek() {
        if first == b' ' {
            bytes.next();
            continue;
        }
        let mut word = Vec::new();
        let mut bare = true;
        while let Some(byte) = bytes.next_if(|byte| *byte != b' ') {
            match byte {
                b'"' => {
                    bare = false;
                    loop {
                        match bytes.next().unwrap_or_else(|| panic!("an open quote: {text}")) {
                            b'"' => break,
                            b'\\' => word.push(escape(&mut bytes)),
                            other => word.push(other),
                        }
                    }
                }
                b'\'' => {
                    bare = false;
                    word.extend(bytes.by_ref().take_while(|byte| *byte != b'\''));
                }
                other => word.push(other),
            }
        }
        found.push(if bare && word == b";" { None } else { Some(word) });
    }
    found
}

fn escape(bytes: &mut impl Iterator<Item = u8>) -> u8 {
    match bytes.next().expect("something after a backslash") {
        b'r' => b'\r',
        b'n' => b'\n',
        b't' => b'\t',
        b'0' => 0,
        b'x' => {
            let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
            u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
        }
        other => other,
    }
}

/// A word as this grammar reads it: bare where that is possible, else in double quotes.
pub fn quoted(word: &[u8]) -> String {
    let is_bare = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\');
    if !word.is_empty() && word != b";" && word.iter().all(is_bare) {
        return String::from_utf8_lossy(word).into_owned();
    }
    let mut out = String::from("\"");
    for &byte in word {
        match byte {
            b'\r' => out.push_str("\\r"),
            b'\n' => out.push_str("\\n"),
            b'"' | b'\\' => out.extend(['\\', byte as char]),
            b' '..=b'~' => out.push(byte as char),
            other => out.push_str(&format!("\\x{other:02x}")),
        }
    }
    out.push('"');
    out
}
