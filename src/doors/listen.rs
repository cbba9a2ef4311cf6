//! Connections: bounded in number, lenient with slow builders, and closed in good order.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::Front;
use super::connection::{self, Closing, Life, PROBE_AFTER};
use crate::auth::Gate;
use crate::config::LimitsConfig;
use crate::metrics::Metrics;

/// Pause after an error that is not of one connection, most often a lack of file descriptors: others may close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Maximum number of connections in the kernel's queue while all places are taken.
const BACKLOG: u32 = 1024;

/// A listening socket.
pub struct Listener {
    pub socket: TcpListener,
    /// Without TLS, whatever the configuration says.
    pub plain: bool,
    /// Whether the socket closes with this server, which then accepts connections while it drains. Otherwise the socket
    /// stays open elsewhere, and new connections wait in it for the next server.
    pub serves_on: bool,
}

impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Listener {
        Listener { socket, plain: false, serves_on: false }
    }
}

/// Phase of a server's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// The server was told to stop. It accepts connections where [`Listener::serves_on`].
    Draining,
    /// No connection is accepted. Each open one closes after its next answer, which says so, or after a short idle
    /// time.
    Closing,
    /// As [`Phase::Closing`], but idle connections close at once.
    Ending,
}

/// Opens a listener on an address.
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let open = || {
        let socket = if address.is_ipv6() { tokio::net::TcpSocket::new_v6() } else { tokio::net::TcpSocket::new_v4() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "{address} is taken: stop what listens there, or choose another address with --listen, LARDER_SERVER_LISTEN or [server] listen"
        ),
        io::ErrorKind::AddrNotAvailable => anyhow::anyhow!("{address} is not an address of this machine"),
        _ => anyhow::anyhow!("cannot listen on {address}: {error}"),
    })
}

/// Serves connections until the phase forbids to accept more, then waits until all open ones have their answers.
pub async fn serve(
    listeners: Vec<Listener>,
    front: Front,
    gate: Arc<Gate>,
    limits: &LimitsConfig,
    metrics: Arc<Metrics>,
    phase: watch::Receiver<Phase>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let (keep_alive, stalled) = (limits.keep_alive.get(), limits.body_idle.get());
    let closing = Arc::new(Closing::new(phase.clone()));
    let server = Server { front, gate, keep_alive, stalled, metrics, places, closing };
    let accepting = listeners.into_iter().map(|listener| accept(listener, &server, phase.clone()));
    futures::future::join_all(accepting).await;
    server.closing.begin();
    // Each connection has a place until its end.
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    let _ = server.places.acquire_many(all).await;
}

struct Server {
    front: Front,
    gate: Arc<Gate>,
    keep_alive: Duration,
    stalled: Duration,
    metrics: Arc<Metrics>,
    places: Arc<Semaphore>,
    closing: Arc<Closing>,
}

async fn accept(listener: Listener, server: &Server, mut phase: watch::Receiver<Phase>) {
    let last = if listener.serves_on { Phase::Draining } else { Phase::Serving };
    loop {
        // The place comes first: excess connections stay in the kernel's queue, not in our memory.
        let next = async {
            let place = server.places.clone().acquire_owned().await.ok()?;
            Some((listener.socket.accept().await, place))
        };
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase > last) => return,
            accepted = next => accepted,
        };
        match accepted {
            None => return,
            Some((Ok((stream, from)), place)) => {
                if let Err(error) = server.prepare(&stream) {
                    tracing::debug!(%error, "cannot set options of a connection");
                }
                // Read for each connection, so that a new certificate counts from the next one on.
                let tls = server.gate.tls().filter(|_| !listener.plain);
                tokio::spawn(server.connection(stream, from.ip(), tls, place));
            }
            Some((Err(error), _)) if is_of_one_connection(&error) => {}
            Some((Err(error), _)) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionRefused | Kind::ConnectionAborted | Kind::ConnectionReset)
}

impl Server {
    /// Sets the options that end the connection of a peer that is gone, or that has stopped reading.
    fn prepare(&self, stream: &TcpStream) -> io::Result<()> {
        use rustix::net::sockopt;
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, PROBE_AFTER)?;
        let stalled = u32::try_from(self.stalled.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(stream, stalled)?;
        Ok(())
    }

    /// Serves a connection from its first byte to its last, and holds its place until then.
    fn connection(
        &self,
        stream: TcpStream,
        from: IpAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
        place: OwnedSemaphorePermit,
    ) -> impl Future<Output = ()> + use<> {
        let (front, metrics) = (self.front.clone(), self.metrics.clone());
        let life = Life { keep_alive: self.keep_alive, closing: self.closing.clone() };
        metrics.connections.inc();
        async move {
            let ended = match tls {
                None => connection::plain(stream, from, front, life).await,
                Some(tls) => connection::secure(stream, from, tls, front, life).await,
            };
            if let Err(error) = ended {
                tracing::debug!(error = %error, "connection ended");
            }
            metrics.connections.dec();
            drop(place);
        }
    }
}
