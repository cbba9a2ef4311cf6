//! Handover of the listening sockets of a server that was told to stop, to its successor.
//!
//! While a server drains, it answers on a Unix socket in the private folder of its store. A successor that finds the
//! store in use connects there, receives the listening sockets, and waits until the lock on the store is free.
//! Connections that clients open in between wait in the backlog of these sockets: none is refused. A server that does
//! not drain has no such socket, so a second server on its store is refused as ever.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;

/// Listening sockets that are handed over at most. A configuration has one or two.
const SOCKETS_MAX: usize = 16;
/// Time that each side waits for the other, which is on the same host and has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(5);
/// The byte that the one side sends with the sockets, and the other side when it has them.
const HELLO: u8 = b'h';

/// The Unix socket at which a successor asks.
pub struct Handover {
    listener: UnixListener,
}

impl Handover {
    /// Opens the socket in the folder of a store.
    pub fn open(store: &Path) -> io::Result<Handover> {
        let listener = at_socket(store, |path| {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            std::os::unix::net::UnixListener::bind(path)
        })?;
        listener.set_nonblocking(true)?;
        Ok(Handover { listener: UnixListener::from_std(listener)? })
    }

    /// Resolves when a successor has these sockets.
    pub async fn done(&self, sockets: &[OwnedFd]) {
        loop {
            let Ok((mut successor, _)) = self.listener.accept().await else { return std::future::pending().await };
            let handing = async {
                successor.writable().await?;
                send(&successor, sockets)?;
                let mut answer = [0];
                successor.read_exact(&mut answer).await
            };
            match tokio::time::timeout(PATIENCE, handing).await {
                Ok(Ok(_)) => return,
                // It is gone, and with it what it was sent: this server goes on.
                Ok(Err(error)) => tracing::warn!(%error, "cannot hand the listening sockets over"),
                Err(_) => tracing::warn!("cannot hand the listening sockets over: the successor does not answer"),
            }
        }
    }
}

/// Takes the listening sockets of the server that drains and has this store open; `None` where there is no such server.
pub fn take(store: &Path) -> io::Result<Option<Vec<TcpListener>>> {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    let predecessor = match at_socket(store, |path| UnixStream::connect(path)) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error),
    };
    predecessor.set_read_timeout(Some(PATIENCE))?;
    let sockets = receive(&predecessor)?;
    // From here on they are ours to serve.
    rustix::io::write(&predecessor, &[HELLO])?;
    let listeners = sockets.into_iter().map(TcpListener::from).collect::<Vec<_>>();
    listeners.iter().try_for_each(|listener| listener.set_nonblocking(true))?;
    Ok(Some(listeners))
}

/// Does something at the path of the socket. The path of an address has 108 bytes at most (`unix(7)`), and that of a
/// store may have more: so it begins at the open folder.
fn at_socket<T>(store: &Path, what: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let folder = File::open(store.join(".larder"))?;
    what(Path::new(&format!("/proc/self/fd/{}/handover", folder.as_raw_fd())))
}

fn send(to: &impl AsFd, sockets: &[OwnedFd]) -> io::Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().take(SOCKETS_MAX).map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(to, &[IoSlice::new(&[HELLO])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(from: &impl AsFd) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut hello = [0];
    let received = recvmsg(from, &mut [IoSliceMut::new(&mut hello)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut sockets = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            sockets.extend(received);
        }
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_successor_gets_the_sockets_of_a_server_that_drains_and_of_no_other() {
        let folder = tempfile::tempdir().unwrap();
        // Longer than the address of a Unix socket may be.
        let store = folder.path().join("x".repeat(150));
        std::fs::create_dir_all(store.join(".larder")).unwrap();
        assert!(take(&store).unwrap().is_none());
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let handover = Handover::open(&store).unwrap();
        let taking = tokio::task::spawn_blocking({
            let store = store.clone();
            move || take(&store).unwrap().unwrap()
        });
        let sockets = [OwnedFd::from(socket)];
        handover.done(&sockets).await;
        drop((sockets, handover));
        let taken = taking.await.unwrap();
        assert_eq!(taken[0].local_addr().unwrap(), address);
        // The socket was never closed: who connects now waits for the successor.
        std::net::TcpStream::connect(address).unwrap();
        assert!(take(&store).unwrap().is_none(), "what a server left that has ended");
    }
}
