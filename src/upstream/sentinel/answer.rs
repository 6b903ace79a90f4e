//! What one Sentinel answers, read off its replies.

use super::verdict::Said;
use crate::protocol::frame::{Value, decode};
use crate::upstream::url::Address;

/// The replies to the three questions of a look.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The master that it names.
    pub said: Said,
    /// The other Sentinels that it knows for this master.
    pub others: Vec<Address>,
}

/// Reads the replies to `SENTINEL GET-MASTER-ADDR-BY-NAME`, `MASTER` and `SENTINELS`. The error tells what is wrong, for people.
pub fn read(address: &[u8], state: &[u8], others: &[u8], name: &str) -> Result<Answer, String> {
    let unknown = || format!("it knows no master named '{name}'");
    let master = match whole(address)? {
        Value::Null => return Err(unknown()),
        value => match value.as_array() {
            Some([host, port]) => place(host, port).ok_or("the master's address makes no sense")?,
            _ => return Err("the master's address makes no sense".to_owned()),
        },
    };
    let epoch = number(&whole(state)?, "config-epoch").ok_or("it tells no config-epoch")?;
    let others = match whole(others) {
        Ok(list) => list.as_array().unwrap_or_default().iter().filter_map(seat).collect(),
        Err(_) => Vec::new(),
    };
    Ok(Answer { said: Said { master, epoch }, others })
}

fn whole(reply: &[u8]) -> Result<Value<'_>, String> {
    match decode(reply) {
        Ok(Value::Error(line)) => Err(line.escape_ascii().to_string()),
        Ok(value) => Ok(value),
        Err(error) => Err(format!("its reply makes no sense: {error}")),
    }
}

fn place(host: &Value<'_>, port: &Value<'_>) -> Option<Address> {
    let host = std::str::from_utf8(host.as_bytes()?).ok().filter(|host| !host.is_empty())?;
    let port = std::str::from_utf8(port.as_bytes()?).ok()?.parse().ok().filter(|port| *port > 0)?;
    Some(Address::Tcp { host: host.to_owned(), port })
}

fn seat(fields: &Value<'_>) -> Option<Address> {
    place(fields.get("ip")?, fields.get("port")?)
}

fn number(fields: &Value<'_>, name: &str) -> Option<u64> {
    std::str::from_utf8(fields.get(name)?.as_bytes()?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &[u8] = b"*2\r\n$9\r\n127.0.0.1\r\n$4\r\n7001\r\n";

    #[test]
    fn an_answer_is_read_in_both_protocols() {
        let flat = b"*4\r\n$4\r\nname\r\n$1\r\nm\r\n$12\r\nconfig-epoch\r\n$1\r\n7\r\n";
        let map = b"%2\r\n$4\r\nname\r\n$1\r\nm\r\n$12\r\nconfig-epoch\r\n$1\r\n7\r\n";
        let others = b"*1\r\n%2\r\n$2\r\nip\r\n$2\r\n::\r\n$4\r\nport\r\n$5\r\n26379\r\n";
        for state in [&flat[..], map] {
            let answer = read(ADDRESS, state, others, "m").unwrap();
            assert_eq!(answer.said.master.to_string(), "127.0.0.1:7001");
            assert_eq!(answer.said.epoch, 7);
            assert_eq!(answer.others, [Address::Tcp { host: "::".into(), port: 26379 }]);
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let map = b"%1\r\n$12\r\nconfig-epoch\r\n$1\r\n7\r\n";
        for (address, state, says) in [
            (&b"*-1\r\n"[..], &map[..], "no master named 'm'"),
            (b"_\r\n", map, "no master named 'm'"),
            (b"-NOAUTH Authentication required.\r\n", map, "NOAUTH"),
            (b"*1\r\n$1\r\nx\r\n", map, "makes no sense"),
            (b"*2\r\n$1\r\nx\r\n$1\r\n0\r\n", map, "makes no sense"),
            (ADDRESS, b"-ERR No such master with that name\r\n", "No such master"),
            (ADDRESS, b"*0\r\n", "config-epoch"),
        ] {
            let said = read(address, state, b"*0\r\n", "m").unwrap_err();
            assert!(said.contains(says), "{said}");
        }
        assert_eq!(read(ADDRESS, map, b"-ERR no\r\n", "m").unwrap().others, []);
    }
}
