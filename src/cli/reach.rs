//! Connections of commands to a server, with or without TLS, and the sentences for those that fail.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::Client;

/// Until a connection stands, and until the first question to a server is answered.
const CONNECT: Duration = Duration::from_secs(10);

/// Protocol of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tls,
    Plain,
}

impl Transport {
    fn scheme(self) -> &'static str {
        match self {
            Transport::Tls => "https",
            Transport::Plain => "http",
        }
    }
}

/// A server as a user wrote it: `HOST:PORT`, perhaps with a scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrittenServer<'a> {
    /// The name in docker's configuration.
    pub host: &'a str,
    /// The protocol of the scheme.
    pub transport: Option<Transport>,
}

impl<'a> WrittenServer<'a> {
    pub fn parse(server: &'a str) -> anyhow::Result<WrittenServer<'a>> {
        let (transport, host) = match server.split_once("://") {
            Some(("https", host)) => (Some(Transport::Tls), host),
            Some(("http", host)) => (Some(Transport::Plain), host),
            Some(_) => bail!("{server} is not a server: write HOST:PORT, http://HOST:PORT or https://HOST:PORT"),
            None => (None, server),
        };
        let host = host.trim_end_matches('/');
        if host.is_empty() || host.contains(['/', '@', '?', '#']) {
            bail!("{server} is not a server: write HOST:PORT, http://HOST:PORT or https://HOST:PORT");
        }
        Ok(WrittenServer { host, transport })
    }

    /// The URL of the server by this protocol.
    pub fn url(&self, transport: Transport) -> String {
        format!("{}://{}", transport.scheme(), self.host)
    }

    /// Whether credentials may be sent: by TLS, to this machine, or where the user has written `http://`.
    pub fn may_be_told_secrets(&self, transport: Transport) -> bool {
        transport == Transport::Tls || self.transport == Some(Transport::Plain) || is_loopback(self.host)
    }

    /// Finds out what the server speaks, with requests that show no credentials. TLS comes first: only what does not
    /// begin a handshake is taken to be plain.
    pub async fn find_out(&self, client: &Client) -> anyhow::Result<Transport> {
        let host = self.host;
        let by_tls = self.question(client, Transport::Tls).await;
        let speaks_tls = matches!(by_tls, Ok(()) | Err(Unreached::Handshake(_)));
        match (self.transport, by_tls) {
            (Some(Transport::Plain), _) if speaks_tls => {
                bail!("{host} speaks TLS: write https://{host} (--ca FILE trusts a CA of your own)")
            }
            (_, Ok(())) => Ok(Transport::Tls),
            (written, Err(Unreached::Protocol(_))) => match self.question(client, Transport::Plain).await {
                Ok(()) if written == Some(Transport::Tls) => bail!("{host} speaks plain HTTP: write http://{host}"),
                Ok(()) => Ok(Transport::Plain),
                Err(why) => bail!("{why}"),
            },
            (_, Err(why)) => bail!("{why}"),
        }
    }

    /// Asks anything. Whatever is answered, it was understood.
    async fn question(&self, client: &Client, transport: Transport) -> Result<(), Unreached> {
        let request = client.get(format!("{}/healthz", self.url(transport))).timeout(CONNECT);
        request.send().await.map(drop).map_err(|error| Unreached::of(self.host, &error))
    }
}

/// Whether a host, perhaps with a port, is this machine: by its address, or as `localhost`.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The reason why a request had no answer, in a sentence.
#[derive(Debug)]
pub enum Unreached {
    /// There is no connection.
    Connection(String),
    /// The server speaks TLS, and one of the two refuses the other.
    Handshake(String),
    /// The two do not speak the same protocol, or the connection was closed early.
    Protocol(String),
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Unreached::Connection(why) | Unreached::Handshake(why) | Unreached::Protocol(why)) = self;
        f.write_str(why)
    }
}

impl Unreached {
    /// The meaning of an error of the client for a request to `host`.
    pub fn of(host: &str, error: &reqwest::Error) -> Unreached {
        let mut innermost = String::new();
        let mut next: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(cause) = next {
            innermost = cause.to_string();
            if innermost.contains("dns error") {
                return Unreached::Connection(format!("the name of {host} cannot be resolved"));
            }
            if let Some(why) = cause.downcast_ref::<io::Error>().and_then(|error| by_kind(host, error)) {
                return why;
            }
            if let Some(error) = cause.downcast_ref::<rustls::Error>() {
                return by_tls(host, error);
            }
            next = cause.source();
        }
        if error.is_timeout() {
            return Unreached::Connection(format!("{host} does not answer in time"));
        }
        Unreached::Protocol(format!("{host} does not answer as a larder does: {innermost}"))
    }
}

fn by_kind(host: &str, error: &io::Error) -> Option<Unreached> {
    use io::ErrorKind as Kind;
    // What an I/O error wraps is not among its sources.
    if let Some(inner) = error.get_ref() {
        if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
            return Some(by_tls(host, tls));
        }
        if let Some(why) = inner.downcast_ref::<io::Error>().and_then(|error| by_kind(host, error)) {
            return Some(why);
        }
    }
    Some(match error.kind() {
        Kind::ConnectionRefused => Unreached::Connection(format!("nothing listens at {host}")),
        Kind::HostUnreachable | Kind::NetworkUnreachable => {
            Unreached::Connection(format!("{host} cannot be reached from here"))
        }
        Kind::TimedOut => Unreached::Connection(format!("{host} does not answer in time")),
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof => {
            Unreached::Protocol(format!("{host} closed the connection without an answer"))
        }
        _ => return None,
    })
}

fn by_tls(host: &str, error: &rustls::Error) -> Unreached {
    match error {
        // The first bytes that came are no record of TLS.
        rustls::Error::InvalidMessage(_) => Unreached::Protocol(format!("{host} does not speak TLS")),
        rustls::Error::InvalidCertificate(_) => Unreached::Handshake(format!(
            "the certificate of {host} is not trusted here (--ca FILE trusts a CA of your own): {error}"
        )),
        error => Unreached::Handshake(format!("the TLS handshake with {host} failed: {error}")),
    }
}

/// A client that trusts some certificates beside those of the system.
pub fn client(ca: Option<&Path>) -> anyhow::Result<Client> {
    let mut builder = Client::builder().connect_timeout(CONNECT);
    if let Some(path) = ca {
        let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let found = reqwest::Certificate::from_pem_bundle(&pem).unwrap_or_default();
        if found.is_empty() {
            bail!("{} has no certificate (PEM)", path.display());
        }
        for certificate in found {
            builder = builder.add_root_certificate(certificate);
        }
    }
    Ok(builder.build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_written_with_or_without_a_scheme() {
        for (server, host, transport) in [
            ("cache.example.com", "cache.example.com", None),
            ("127.0.0.1:5000", "127.0.0.1:5000", None),
            ("https://127.0.0.1:5000/", "127.0.0.1:5000", Some(Transport::Tls)),
            ("http://cache:5000", "cache:5000", Some(Transport::Plain)),
        ] {
            assert_eq!(WrittenServer::parse(server).unwrap(), WrittenServer { host, transport });
        }
        for bad in ["", "ftp://a", "https://", "a/b", "http://me:secret@a", "a?b"] {
            assert!(WrittenServer::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_are_for_tls_this_machine_and_those_who_write_http() {
        for (server, told) in [
            ("cache:5000", false),
            ("localhost.example.com", false),
            ("127.0.0.1.example.com", false),
            ("10.0.0.1", false),
            ("[fe80::1]:5000", false),
            ("http://cache:5000", true),
            ("127.0.0.1:5000", true),
            ("127.8.8.8", true),
            ("LOCALHOST:1", true),
            ("[::1]:5000", true),
        ] {
            let server = WrittenServer::parse(server).unwrap();
            assert_eq!(server.may_be_told_secrets(Transport::Plain), told, "{server:?}");
            assert!(server.may_be_told_secrets(Transport::Tls));
        }
    }
}
