//! The certificates of the server and of its clients.

use std::path::PathBuf;

use serde::Deserialize;

/// TLS on the addresses of `[server] listen`. All files are PEM and are read again when they change.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The server's certificate, followed by those that lead to its CA. Never empty once checked.
    #[serde(default)]
    pub cert: PathBuf,
    /// Its private key. Never empty once checked.
    #[serde(default)]
    pub key: PathBuf,
    /// The CA of clients' certificates.
    pub client_ca: Option<PathBuf>,
    /// Whether a client has to show one.
    #[serde(default)]
    pub client_auth: ClientAuth,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// A certificate is an identity for those who have one.
    #[default]
    Optional,
    /// A handshake without one fails.
    Required,
}
