//! Sockets from systemd, and notifications to it: `sd_listen_fds(3)`, `sd_notify(3)`.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use anyhow::Context;

/// Listening sockets from systemd; none unless it started this process with some. They replace the configured
/// addresses: connections that came before the server was ready wait in them.
pub fn listeners() -> anyhow::Result<Vec<TcpListener>> {
    let mut passed = listenfd::ListenFd::from_env();
    let mut listeners = Vec::new();
    for at in 0..passed.len() {
        let taken = passed.take_tcp_listener(at).context("a socket that systemd has handed over is not TCP")?;
        if let Some(listener) = taken {
            listener.set_nonblocking(true)?;
            listeners.push(listener);
        }
    }
    Ok(listeners)
}

/// State of the server, for systemd.
#[derive(Clone, Copy, Debug)]
pub enum SystemdState {
    /// The server answers connections.
    Ready,
    /// The server has begun to stop.
    Stopping,
}

/// Notifies systemd, if it asks for that. A failure is logged only: systemd will notice it by its own time-outs.
pub fn notify(state: SystemdState) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else { return };
    let message = match state {
        SystemdState::Ready => "READY=1",
        SystemdState::Stopping => "STOPPING=1",
    };
    if let Err(error) = send(&socket, message) {
        tracing::warn!(%error, ?state, "cannot notify systemd");
    }
}

fn send(socket: &OsString, message: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(drop)
}
