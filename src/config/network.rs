//! Addresses, names and proxies.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

use super::forms::one_or_many;

/// Where to listen: `ADDRESS:PORT`, `NAME:PORT`, or `:PORT` for all IPv4 addresses of the host. A name may have several
/// addresses; at least one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ListenAddress(Vec<SocketAddr>);

/// Without what was written: the error may be of a line that was meant for another key.
const NO_LISTEN_ADDRESS: &str = "write ADDRESS:PORT, for example 0.0.0.0:5000";

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<ListenAddress, String> {
        if let Ok(address) = text.parse() {
            return Ok(ListenAddress(vec![address]));
        }
        let split = text.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse::<u16>().ok()?)));
        let Some((name, port)) = split.filter(|(name, _)| !name.contains([':', '/'])) else {
            return Err(NO_LISTEN_ADDRESS.to_string());
        };
        if name.is_empty() {
            return Ok(ListenAddress(vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))]));
        }
        let found: Vec<SocketAddr> = (name, port).to_socket_addrs().map_or(Vec::new(), Iterator::collect);
        if found.is_empty() {
            return Err(format!("the name before the port cannot be resolved: {NO_LISTEN_ADDRESS}"));
        }
        Ok(ListenAddress(found))
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = String;

    fn try_from(text: String) -> Result<ListenAddress, String> {
        text.parse()
    }
}

impl ListenAddress {
    /// All addresses of several, each once.
    pub fn all(written: Vec<ListenAddress>) -> Vec<SocketAddr> {
        let mut all = Vec::new();
        for address in written.into_iter().flat_map(|written| written.0) {
            if address.port() == 0 || !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }
}

/// Takes one address to listen on, or a list of them.
pub(super) fn listen<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SocketAddr>, D::Error> {
    one_or_many(from).map(ListenAddress::all)
}

/// A range of addresses: `10.0.0.0/8`, `::1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network(IpNet);

impl TryFrom<String> for Network {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Network, Self::Error> {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(Network).map_err(|_| "a network is written 10.0.0.0/8 or fd00::/8, or is one address")
    }
}

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

/// `http` or `https`, a host, perhaps a port, and nothing behind it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PublicUrl(String);

impl TryFrom<String> for PublicUrl {
    type Error = &'static str;

    fn try_from(text: String) -> Result<PublicUrl, Self::Error> {
        let text = text.trim_end_matches('/');
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
        if !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b)) {
            Ok(PublicUrl(text.to_string()))
        } else {
            Err("public_url must be like https://cache.example.com:5000, without a path")
        }
    }
}

impl PublicUrl {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Longest name of a host, in bytes (RFC 1035, section 2.3.4).
const HOST_NAME_BYTES_MAX: usize = 253;

/// A name by which browsers may reach the server, without a scheme and a port: `cache.internal`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HostName(String);

impl TryFrom<String> for HostName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<HostName, Self::Error> {
        let name = text.strip_suffix('.').unwrap_or(&text).to_ascii_lowercase();
        let fits = (1..=HOST_NAME_BYTES_MAX).contains(&name.len());
        if fits && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b)) {
            Ok(HostName(name))
        } else {
            Err("a host is a name like cache.example.com, without a scheme and a port")
        }
    }
}

impl HostName {
    /// The name in lower case, without a dot behind it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_to_listen_on_is_an_address_or_a_name_with_a_port() {
        for (text, first) in [
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("[::1]:5000", "[::1]:5000"),
            (":5000", "0.0.0.0:5000"),
            ("0.0.0.0:0", "0.0.0.0:0"),
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().0, [first.parse().unwrap()], "{text}");
        }
        let local = "localhost:7250".parse::<ListenAddress>().unwrap();
        assert!(local.0.iter().all(|address| address.ip().is_loopback() && address.port() == 7250), "{local:?}");
        for bad in ["127.0.0.1", "5000", "::1", "localhost", "localhost:70000", "http://a:5000", "", ":", "::1:5000"] {
            let error = bad.parse::<ListenAddress>().unwrap_err();
            assert_eq!(error, "write ADDRESS:PORT, for example 0.0.0.0:5000", "{bad}");
        }
        let twice = ["127.0.0.1:5000", "127.0.0.1:5000"].map(|text| text.parse().unwrap());
        assert_eq!(ListenAddress::all(twice.to_vec()).len(), 1);
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.168.1.7", "192.168.1.7", "192.168.1.6"),
            ("0.0.0.0/0", "1.2.3.4", "::1"),
            ("10.0.0.0/8", "::ffff:10.1.1.1", "::ffff:11.1.1.1"),
            ("fd00::/8", "fd12::1", "fe00::1"),
            ("::1", "::1", "::2"),
        ] {
            let parsed = Network::try_from(network.to_string()).unwrap();
            assert!(parsed.contains(inside.parse().unwrap()), "{network} {inside}");
            assert!(!parsed.contains(outside.parse().unwrap()), "{network} {outside}");
        }
        for bad in ["10.0.0.0/33", "10.0.0/8", "::/129", "x", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(Network::try_from(bad.to_string()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_public_url_is_a_scheme_and_a_host() {
        for good in ["https://a", "http://a:1", "https://[::1]:5000", "https://cache.example.com/"] {
            assert!(PublicUrl::try_from(good.to_string()).is_ok(), "{good}");
        }
        for bad in ["a", "ftp://a", "https://", "https://a/b", "https://a\"b", "https://u@a"] {
            assert!(PublicUrl::try_from(bad.to_string()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_is_a_name_and_nothing_else() {
        for (good, name) in [("larder", "larder"), ("Cache.Example.com.", "cache.example.com"), ("a_b-c", "a_b-c")] {
            assert_eq!(HostName::try_from(good.to_string()).map(|host| host.as_str().to_string()), Ok(name.into()));
        }
        for bad in ["", ".", "https://a", "a:5000", "a/b", "*.a", "[::1]", "a b", &"a".repeat(254)] {
            assert!(HostName::try_from(bad.to_string()).is_err(), "{bad}");
        }
    }
}
