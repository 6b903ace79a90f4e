//! Addresses and networks, as in `["10.0.0.0/8", "::1", "unix"]`.

use std::net::IpAddr;

/// Some of the addresses that there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    all: Vec<(IpAddr, u8)>,
    /// Whoever comes over a unix socket is meant, too.
    pub have_unix: bool,
}

impl Networks {
    /// Reads a list of them; the error says what to write.
    pub(super) fn parse(words: &[String]) -> Result<Networks, String> {
        let mut networks = Networks::default();
        for word in words {
            if word == "unix" {
                networks.have_unix = true;
                continue;
            }
            let (address, bits) =
                word.split_once('/').map_or((word.as_str(), None), |(address, bits)| (address, Some(bits)));
            let address: Option<IpAddr> = address.parse().ok();
            let most = if address.is_some_and(|address| address.is_ipv4()) { 32 } else { 128 };
            let bits = bits.map_or(Some(most), |bits| bits.parse().ok().filter(|bits| *bits <= most));
            let (Some(address), Some(bits)) = (address, bits) else {
                return Err(format!(
                    "'{word}' is no address; write \"10.0.0.7\", \"10.0.0.0/8\", \"fd00::/8\" or \"unix\""
                ));
            };
            networks.all.push((address, bits));
        }
        Ok(networks)
    }

    /// Nobody is meant.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && !self.have_unix
    }

    /// Whether `address` is one of them. An IPv4 address counts as such also where an IPv6 socket writes it its own way.
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.all.iter().any(|(network, bits)| match (network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differs = network.to_bits() ^ address.to_bits();
                differs.checked_shr(32 - u32::from(*bits)).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differs = network.to_bits() ^ address.to_bits();
                differs.checked_shr(128 - u32::from(*bits)).unwrap_or(0) == 0
            }
            _ => false,
        })
    }

    pub(super) fn words(&self) -> Vec<String> {
        let word = |(address, bits): &(IpAddr, u8)| match (address, bits) {
            (IpAddr::V4(_), 32) | (IpAddr::V6(_), 128) => address.to_string(),
            _ => format!("{address}/{bits}"),
        };
        self.all.iter().map(word).chain(self.have_unix.then(|| "unix".to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        let parse = |words: &[&str]| Networks::parse(&words.iter().map(ToString::to_string).collect::<Vec<_>>());
        let some = parse(&["10.0.0.0/8", "192.0.2.7", "fd00::/8", "unix"]).expect("good ones");
        let has = |address: &str| some.contain(address.parse().expect("an address"));
        for address in ["10.255.0.1", "192.0.2.7", "::ffff:10.1.1.1", "fdff::1"] {
            assert!(has(address), "{address}");
        }
        for address in ["11.0.0.1", "192.0.2.8", "fe00::1", "::1", "::a00:1"] {
            assert!(!has(address), "{address}");
        }
        assert_eq!(some.words(), ["10.0.0.0/8", "192.0.2.7", "fd00::/8", "unix"]);
        let all = parse(&["0.0.0.0/0"]).expect("a good one");
        assert!(all.contain("203.0.113.9".parse().expect("an address")) && !all.have_unix);
        for bad in ["10.0.0.0/33", "10.0.0", "", "::1/129", "host", "10.0.0.0/x"] {
            assert!(parse(&[bad]).is_err_and(|says| says.contains("10.0.0.0/8")), "{bad}");
        }
    }
}
