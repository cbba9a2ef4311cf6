//! Proof of an operator: how a command on this host finds the server of a store of files, and authenticates to it.
//!
//! The server writes its addresses and a token to a file of the store that only its owner can read: a process that can
//! read the store's files may give orders to the server.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;

use crate::config::Secret;

/// The server of a store of files.
#[derive(Clone, Debug, Deserialize)]
pub struct Operator {
    pub addresses: Vec<SocketAddr>,
    /// Whether the addresses speak TLS.
    #[serde(default)]
    pub secure: bool,
    pub token: Secret,
}

impl Operator {
    /// Path of the file, in the folder `store`.
    fn path(store: &Path) -> PathBuf {
        store.join(".larder").join("server")
    }

    /// A random token.
    pub fn new_token() -> Secret {
        Secret::new(format!("{:032x}", rand::random::<u128>()))
    }

    /// Writes the file to the store, and replaces that of an earlier server.
    pub fn announce(&self, store: &Path) -> io::Result<()> {
        let (path, new) = (Operator::path(store), store.join(".larder").join("server.new"));
        let body =
            json!({ "addresses": self.addresses, "secure": self.secure, "token": self.token.expose() }).to_string();
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(body.as_bytes())?;
        std::fs::rename(new, path)
    }

    /// Reads the file of the last server; nothing if there has been none.
    pub fn find(store: &Path) -> io::Result<Option<Operator>> {
        match std::fs::read(Operator::path(store)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The URLs of the server for this host.
    pub fn urls(&self) -> impl Iterator<Item = String> + '_ {
        self.addresses.iter().map(|address| {
            let host = match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
                ip => ip,
            };
            let scheme = if self.secure { "https" } else { "http" };
            format!("{scheme}://{}", SocketAddr::new(host, address.port()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_a_server_leaves_is_found_and_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Operator::find(folder.path()).unwrap().is_none());
        std::fs::create_dir(folder.path().join(".larder")).unwrap();
        for port in [5000, 5001] {
            let addresses = vec![SocketAddr::from(([0, 0, 0, 0], port)), SocketAddr::from(([10, 0, 0, 1], port))];
            let left = Operator { addresses, secure: false, token: Operator::new_token() };
            left.announce(folder.path()).unwrap();
            let found = Operator::find(folder.path()).unwrap().unwrap();
            assert_eq!(found.token.expose(), left.token.expose());
            let urls: Vec<String> = found.urls().collect();
            assert_eq!(urls, [format!("http://127.0.0.1:{port}"), format!("http://10.0.0.1:{port}")]);
        }
        let mode = std::fs::metadata(Operator::path(folder.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
