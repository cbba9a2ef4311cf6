//! Connections: bounded, with patience for slow builders, and closed in good order.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::Front;
use crate::config::LimitsConfig;
use crate::metrics::Metrics;

/// After an error that is not of one connection, most often no file descriptors left: time for others to close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes read ahead on a connection, and so of a request head.
const READ_BYTES_MAX: usize = 512 << 10;
/// Silence after which the kernel asks whether a peer is still there.
const PROBE_AFTER: Duration = Duration::from_secs(60);
/// Connections that the kernel keeps while all places are taken.
const BACKLOG: u32 = 1024;

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

/// Answers connections until `shutdown` says stop, then waits until those that are open have had their answers.
pub async fn serve(
    listeners: Vec<TcpListener>,
    front: Front,
    limits: &LimitsConfig,
    metrics: Arc<Metrics>,
    shutdown: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let (keep_alive, stalled) = (limits.keep_alive.get(), limits.body_idle.get());
    let server = Server { front, keep_alive, stalled, metrics, places };
    let accepting = listeners.into_iter().map(|listener| accept(listener, &server, &graceful, shutdown.clone()));
    futures::future::join_all(accepting).await;
    graceful.shutdown().await;
}

struct Server {
    front: Front,
    keep_alive: Duration,
    stalled: Duration,
    metrics: Arc<Metrics>,
    places: Arc<Semaphore>,
}

async fn accept(
    listener: TcpListener,
    server: &Server,
    graceful: &GracefulShutdown,
    mut shutdown: watch::Receiver<bool>,
) {
    loop {
        // The place comes first: what cannot be served stays in the kernel's queue, not in our memory.
        let next = async {
            let place = server.places.clone().acquire_owned().await.ok()?;
            Some((listener.accept().await, place))
        };
        let accepted = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => return,
            accepted = next => accepted,
        };
        match accepted {
            None => return,
            Some((Ok((stream, _)), place)) => {
                if let Err(error) = server.prepare(&stream) {
                    tracing::debug!(%error, "connection keeps the system's options");
                }
                tokio::spawn(server.connection(stream, place, graceful));
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
    /// A peer that is gone, or that has stopped reading, does not hold its place for ever.
    fn prepare(&self, stream: &TcpStream) -> io::Result<()> {
        use rustix::net::sockopt;
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, PROBE_AFTER)?;
        let stalled = u32::try_from(self.stalled.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(stream, stalled)?;
        Ok(())
    }

    fn connection(
        &self,
        stream: TcpStream,
        place: OwnedSemaphorePermit,
        graceful: &GracefulShutdown,
    ) -> impl Future<Output = ()> + use<> {
        let mut builder = http1::Builder::new();
        // The timer runs from the end of the last answer: it bounds idle connections as well as slow heads. HTTP/2 comes
        // with TLS, which tells the version beforehand; to find it out from the first bytes has no timer.
        builder.timer(TokioTimer::new()).header_read_timeout(self.keep_alive).max_buf_size(READ_BYTES_MAX);
        let front = self.front.clone();
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let answer = front.answer(request.map(Body::new));
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        let metrics = self.metrics.clone();
        metrics.connections.inc();
        async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "connection ended");
            }
            metrics.connections.dec();
            drop(place);
        }
    }
}
