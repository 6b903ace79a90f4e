//! How the values of keys are read and shown: one trait, and an implementation for each kind of value.

use std::path::PathBuf;
use std::time::Duration;

use super::tree::Value;
use super::units::{parse_duration, parse_size, show_duration, show_size};
use super::{
    ByteSize, ClientAuth, ClientUser, DeadlockMode, Digest, LogFormat, LogLevel, Mode, Networks, OnFailure, Percent,
    Saying, Secret, VictimPolicy, WhenAway,
};
use crate::commands::lock_scripts::{ScriptSays, digest_of};
use crate::domain::{Level, Replicas};
use crate::health::webhook::Webhook;
use crate::upstream::url::{Address, Upstream};

/// A kind of value that a key can have.
pub(super) trait Setting: Sized + PartialEq {
    /// Reads it; the error says what is wrong and what to write instead, as in "is a list; write …".
    fn read(value: &Value) -> Result<Self, String>;
    /// Writes it as TOML, secrets masked.
    fn show(&self) -> String;
}

fn not_a(value: &Value, write: &str) -> String {
    match value {
        Value::Text(text) if text.is_empty() => format!("is empty; write {write}"),
        Value::Text(text) => format!("'{text}' does not fit; write {write}"),
        Value::Integer(number) => format!("{number} does not fit; write {write}"),
        other => format!("is {}; write {write}", other.kind()),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// One of a few words, in any case.
macro_rules! words {
    ($kind:ty, $write:literal, $($word:literal => $variant:expr),+) => {
        impl Setting for $kind {
            fn read(value: &Value) -> Result<Self, String> {
                let Value::Text(text) = value else { return Err(not_a(value, $write)) };
                match text.to_ascii_lowercase().as_str() {
                    $($word => Ok($variant),)+
                    _ => Err(not_a(value, $write)),
                }
            }
            fn show(&self) -> String {
                $(if *self == $variant { return concat!('"', $word, '"').to_owned(); })+
                String::new()
            }
        }
    };
}

words!(Mode, "\"on\", \"shadow\" or \"off\"", "on" => Mode::On, "shadow" => Mode::Shadow, "off" => Mode::Off);
words!(DeadlockMode, "\"detect\", \"prevent\" or \"off\"",
    "detect" => DeadlockMode::Detect, "prevent" => DeadlockMode::Prevent, "off" => DeadlockMode::Off);
words!(VictimPolicy, "\"lowest_priority\", \"youngest\", \"fewest_locks\" or \"requester\"",
    "lowest_priority" => VictimPolicy::LowestPriority, "youngest" => VictimPolicy::Youngest,
    "fewest_locks" => VictimPolicy::FewestLocks, "requester" => VictimPolicy::Requester);
words!(WhenAway, "\"close\" or \"error\"", "close" => WhenAway::Close, "error" => WhenAway::Error);
words!(ClientAuth, "\"required\" or \"optional\"",
    "required" => ClientAuth::Required, "optional" => ClientAuth::Optional);
words!(ClientUser, "\"none\", \"cn\" or \"san\"",
    "none" => ClientUser::None, "cn" => ClientUser::Cn, "san" => ClientUser::San);
words!(OnFailure, "\"refuse\" or \"drop\"", "refuse" => OnFailure::Refuse, "drop" => OnFailure::Drop);
words!(LogFormat, "\"text\" or \"json\"", "text" => LogFormat::Text, "json" => LogFormat::Json);
words!(LogLevel, "\"error\", \"warn\", \"info\", \"debug\", \"trace\" or \"off\"",
    "off" => LogLevel::Off, "error" => LogLevel::Error, "warn" => LogLevel::Warn, "info" => LogLevel::Info,
    "debug" => LogLevel::Debug, "trace" => LogLevel::Trace);

impl Setting for Option<Level> {
    fn read(value: &Value) -> Result<Self, String> {
        let word = match value {
            Value::Text(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            _ => String::new(),
        };
        let level = Level::parse(word.as_bytes());
        level.map(Some).ok_or_else(|| not_a(value, "\"low\", \"normal\", \"high\" or \"critical\""))
    }
    fn show(&self) -> String {
        quoted(self.map_or("", Level::name))
    }
}

impl Setting for Option<Address> {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) if text.eq_ignore_ascii_case("off") => Ok(None),
            value => Address::read(value).map(Some),
        }
    }
    fn show(&self) -> String {
        self.as_ref().map_or_else(|| quoted("off"), Address::show)
    }
}

impl Setting for Digest {
    fn read(value: &Value) -> Result<Self, String> {
        let Value::Text(text) = value else { return Err(not_a(value, "the 40 hexadecimal digits of a SHA1")) };
        digest_of(text.as_bytes()).map(Digest).ok_or_else(|| not_a(value, "the 40 hexadecimal digits of a SHA1"))
    }
    fn show(&self) -> String {
        quoted(&self.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

impl Setting for Saying {
    fn read(value: &Value) -> Result<Self, String> {
        let says = match value {
            Value::Integer(number) => Some(ScriptSays::Integer(*number)),
            Value::Text(text) if text.eq_ignore_ascii_case("ok") => Some(ScriptSays::Ok),
            Value::Text(text) if text.eq_ignore_ascii_case("nil") => Some(ScriptSays::Nil),
            Value::Text(text) => text.parse().ok().map(ScriptSays::Integer),
            _ => None,
        };
        says.map(Saying).ok_or_else(|| not_a(value, "\"OK\", \"nil\" or a number"))
    }
    fn show(&self) -> String {
        match self.0 {
            ScriptSays::Ok => quoted("OK"),
            ScriptSays::Nil => quoted("nil"),
            ScriptSays::Integer(number) => number.to_string(),
        }
    }
}

/// A wrong one is not repeated in the error.
impl Setting for Option<Secret> {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Ok(Some(Secret(text.clone())).filter(|secret| !secret.0.is_empty())),
            other => Err(format!("is {}; write a text", other.kind())),
        }
    }
    fn show(&self) -> String {
        quoted(if self.is_some() { "***" } else { "" })
    }
}

impl Setting for bool {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bool(flag) => Ok(*flag),
            Value::Text(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Value::Text(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            _ => Err(not_a(value, "true or false")),
        }
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for Percent {
    fn read(value: &Value) -> Result<Self, String> {
        let number = match value {
            Value::Text(text) => text.trim().strip_suffix('%').and_then(|number| number.trim_end().parse().ok()),
            _ => None,
        };
        let percent = number.filter(|number| (1..=100).contains(number)).map(Percent);
        percent.ok_or_else(|| not_a(value, "a share from \"1%\" to \"100%\""))
    }
    fn show(&self) -> String {
        quoted(&format!("{}%", self.0))
    }
}

/// An empty text is none. The address is not shown: it may hold what lets people write there.
impl Setting for Option<Webhook> {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) if text.is_empty() => Ok(None),
            Value::Text(text) => {
                let read = Webhook::parse(text).map(Some);
                read.map_err(|write| format!("is no address that alerts can go to; write {write}"))
            }
            _ => Err(not_a(value, "an address such as \"http://127.0.0.1:9000/alerts\"")),
        }
    }
    fn show(&self) -> String {
        quoted(if self.is_some() { "***" } else { "" })
    }
}

/// Numbers may also be texts: that is how they come from the environment and out of `${VAR}`.
impl Setting for usize {
    fn read(value: &Value) -> Result<Self, String> {
        let number = match value {
            Value::Integer(number) => usize::try_from(*number).ok(),
            Value::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        number.ok_or_else(|| not_a(value, "a whole number from 0"))
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for u32 {
    fn read(value: &Value) -> Result<Self, String> {
        u32::try_from(usize::read(value)?).map_err(|_| not_a(value, "a smaller number"))
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for Replicas {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) if text.eq_ignore_ascii_case("majority") => Ok(Replicas::Majority),
            value => match u32::read(value).map_err(|_| not_a(value, "a number of replicas, or \"majority\""))? {
                0 => Ok(Replicas::NotAsked),
                count => Ok(Replicas::AtLeast(count)),
            },
        }
    }
    fn show(&self) -> String {
        match self {
            Replicas::NotAsked => "0".to_owned(),
            Replicas::AtLeast(count) => count.to_string(),
            Replicas::Majority => quoted("majority"),
        }
    }
}

impl Setting for Duration {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => parse_duration(text)
                .ok_or_else(|| not_a(value, "a duration such as \"250ms\", \"5s\", \"1h30m\" or \"0s\"")),
            Value::Integer(number) => Err(format!("{number} has no unit; write \"{number}s\" or \"{number}ms\"")),
            _ => Err(not_a(value, "a duration such as \"250ms\", \"5s\", \"1h30m\" or \"0s\"")),
        }
    }
    fn show(&self) -> String {
        quoted(&show_duration(*self))
    }
}

/// "0s" is none.
impl Setting for Option<Duration> {
    fn read(value: &Value) -> Result<Self, String> {
        Ok(Some(Duration::read(value)?).filter(|duration| !duration.is_zero()))
    }
    fn show(&self) -> String {
        self.unwrap_or_default().show()
    }
}

impl Setting for ByteSize {
    fn read(value: &Value) -> Result<Self, String> {
        let bytes = match value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::Text(text) => parse_size(text),
            _ => None,
        };
        bytes
            .and_then(|bytes| usize::try_from(bytes).ok())
            .map(ByteSize)
            .ok_or_else(|| not_a(value, "a size such as \"64kb\", \"256mb\" or \"1gb\""))
    }
    fn show(&self) -> String {
        quoted(&show_size(self.0 as u64))
    }
}

impl Setting for String {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) => Ok(text.clone()),
            _ => Err(not_a(value, "a text in double quotes")),
        }
    }
    fn show(&self) -> String {
        quoted(self)
    }
}

/// An empty text is none.
impl Setting for Option<String> {
    fn read(value: &Value) -> Result<Self, String> {
        Ok(Some(String::read(value)?).filter(|text| !text.is_empty()))
    }
    fn show(&self) -> String {
        quoted(self.as_deref().unwrap_or_default())
    }
}

impl Setting for Option<PathBuf> {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) if text.contains('\0') => Err("holds a zero byte, which no path can".to_owned()),
            Value::Text(text) => Ok(Some(PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty())),
            _ => Err(not_a(value, "a path in double quotes")),
        }
    }
    fn show(&self) -> String {
        quoted(&self.as_ref().map(|path| path.display().to_string()).unwrap_or_default())
    }
}

impl Setting for Vec<String> {
    fn read(value: &Value) -> Result<Self, String> {
        let write = "a list of texts such as [\"a\", \"b\"]";
        match value {
            Value::List(items) => items
                .iter()
                .map(|item| match &item.value {
                    Value::Text(text) => Ok(text.clone()),
                    other => Err(format!("holds {}; write {write}", other.kind())),
                })
                .collect(),
            _ => Err(not_a(value, write)),
        }
    }
    fn show(&self) -> String {
        let items: Vec<String> = self.iter().map(|item| quoted(item)).collect();
        format!("[{}]", items.join(", "))
    }
}

impl Setting for Networks {
    fn read(value: &Value) -> Result<Self, String> {
        Networks::parse(&Vec::<String>::read(value)?)
    }
    fn show(&self) -> String {
        self.words().show()
    }
}

impl Setting for Address {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) if text.is_empty() => Err(not_a(value, "host:port or unix:///path")),
            Value::Text(text) => Address::parse(text).map_err(|error| format!("'{text}' {error}")),
            _ => Err(not_a(value, "an address such as \"127.0.0.1:7379\"")),
        }
    }
    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Setting for Upstream {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            // The URL is not repeated: it may hold a password.
            Value::Text(url) => Upstream::parse(url).map_err(|error| format!("the URL {error}")),
            _ => Err(not_a(value, "a URL such as \"redis://10.0.0.5:6379\", or \"embedded\"")),
        }
    }
    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// A value that has to lie in a range; numbers and durations do.
pub(super) fn within<T: Setting + PartialOrd>(value: &Value, least: T, most: T) -> Result<T, String> {
    let read = T::read(value)?;
    if read < least || read > most {
        let (read, least, most) = (read.show(), least.show(), most.show());
        return Err(format!("{read} is out of range; write {least} to {most}"));
    }
    Ok(read)
}
