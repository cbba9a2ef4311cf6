//! One connection: its handshake, its version of HTTP, and its limits.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::CONNECTION;
use http::{HeaderValue, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::Front;
use super::kit::origin::Peer;
use super::listen::Phase;
use crate::auth::Certificate;

/// Silence after which a peer is probed.
pub const PROBE_AFTER: Duration = Duration::from_secs(60);
/// Time limit of the answer to a probe, on HTTP/2.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit of a TLS handshake, which takes two round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// Idle time of a connection before it is closed while the server closes.
const CLOSING_IDLE: Duration = Duration::from_secs(1);
/// Bytes read of a plain HTTP request on a TLS port.
const PLAIN_HEAD_BYTES_MAX: usize = 8 << 10;
/// The answer to such a request.
const PLAIN_ON_TLS: &str = "this port speaks TLS: use https://; for BuildKit, set http = false and ca = [\"FILE\"] for this \
    server in buildkitd.toml\n";
/// Maximum number of bytes read ahead on a connection.
const READ_BYTES_MAX: usize = 512 << 10;
/// Largest head of a request, in bytes: those of builders have a few kilobytes, most of it a token. It is kept in
/// memory.
const HEAD_BYTES_MAX: usize = 96 << 10;
/// Maximum number of simultaneous requests on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// Maximum number of bytes that wait to be sent on one HTTP/2 stream.
const SEND_BYTES_MAX: usize = 512 << 10;

pub type Ended = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Serves HTTP/1.1. HTTP/2 needs TLS, which negotiates the version: detecting it from the first bytes has no timer.
pub async fn plain(stream: TcpStream, from: IpAddr, front: Front, life: Life) -> Ended {
    let peer = Arc::new(Peer { address: Some(from), secure: false, certificate: None });
    http1(stream, Answering::new(front, peer, &life), life).await
}

/// Serves TLS with the negotiated version of HTTP (RFC 7301).
pub async fn secure(
    stream: TcpStream,
    from: IpAddr,
    tls: Arc<rustls::ServerConfig>,
    front: Front,
    life: Life,
) -> Ended {
    let shaking = async {
        if is_plain(&stream).await? {
            explain_tls(stream).await?;
            return Ok(None);
        }
        tokio_rustls::TlsAcceptor::from(tls).accept(stream).await.map(Some)
    };
    let Some(stream) = tokio::time::timeout(HANDSHAKE_TIMEOUT, shaking).await?? else { return Ok(()) };
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(|chain| Certificate::read(chain.first()?));
    let second = session.alpn_protocol() == Some(b"h2");
    let peer = Arc::new(Peer { address: Some(from), secure: true, certificate });
    let answering = Answering::new(front, peer, &life);
    if second { http2(stream, answering, life).await } else { http1(stream, answering, life).await }
}

/// Tells whether a client speaks HTTP on a TLS port: a method begins with a letter, a handshake with 0x16 (RFC 8446,
/// section 5.1).
async fn is_plain(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let read = stream.peek(&mut first).await?;
    Ok(read > 0 && first[0].is_ascii_alphabetic())
}

/// Tells a client of HTTP/1 that the port speaks TLS. A client that begins with HTTP/2 would not understand the answer:
/// its connection is closed.
async fn explain_tls(mut stream: TcpStream) -> io::Result<()> {
    let mut head = Vec::with_capacity(PLAIN_HEAD_BYTES_MAX);
    let mut first = (&mut stream).take(PLAIN_HEAD_BYTES_MAX as u64);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && first.read_buf(&mut head).await? > 0 {}
    if head.starts_with(b"PRI ") {
        return Ok(());
    }
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{PLAIN_ON_TLS}",
        PLAIN_ON_TLS.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // Closing a socket with unread bytes would discard the answer.
    let mut rest = [0; 4 << 10];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

async fn http1<I>(stream: I, answering: Answering, life: Life) -> Ended
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    // The timer runs from the end of the last answer: it bounds idle connections as well as slow heads.
    builder.timer(TokioTimer::new()).header_read_timeout(life.keep_alive);
    builder.max_buf_size(READ_BYTES_MAX).max_header_size(HEAD_BYTES_MAX);
    let touched = answering.touched.clone();
    let service = service_fn(move |request| answering.answer(request).map(Ok::<_, Infallible>));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // A server of HTTP/1.1 can announce the end of a connection only in an answer (RFC 9112, section 9.6). A request
    // that crosses the close of an idle connection is lost, and BuildKit does not repeat all of them.
    let idle = async {
        if life.closing.begun().await == Phase::Closing {
            while touched.swap(false, Relaxed) {
                tokio::time::sleep(CLOSING_IDLE).await;
            }
        }
    };
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = idle => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

async fn http2<I>(stream: I, answering: Answering, life: Life) -> Ended
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(READ_BYTES_MAX as u32)
        .initial_connection_window_size(2 * READ_BYTES_MAX as u32)
        .max_send_buf_size(SEND_BYTES_MAX)
        .keep_alive_interval(PROBE_AFTER)
        .keep_alive_timeout(PROBE_TIMEOUT);
    let activity = Arc::new(Activity { requests: watch::Sender::new(0) });
    let counted = Counted { answering, activity: activity.clone() };
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), counted));
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        // HTTP/2 has no timer for peers that are alive and silent. Nothing is in flight that could be cut.
        () = activity.idle(life.keep_alive) => return Ok(()),
        // Tells the peer which requests are answered yet (RFC 9113, section 6.8).
        _ = life.closing.begun() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

/// Lifetime of a connection after its last answer.
pub struct Life {
    pub keep_alive: Duration,
    pub closing: Arc<Closing>,
}

/// The close of all connections: whether it has begun, and by which phase.
pub struct Closing {
    has_begun: AtomicBool,
    phase: watch::Receiver<Phase>,
}

impl Closing {
    pub fn new(phase: watch::Receiver<Phase>) -> Closing {
        Closing { has_begun: AtomicBool::new(false), phase }
    }

    /// From now on answers of HTTP/1.1 announce that their connection closes.
    pub fn begin(&self) {
        self.has_begun.store(true, Relaxed);
    }

    /// Resolves when connections are closed, with the phase, which tells how.
    async fn begun(&self) -> Phase {
        let mut phase = self.phase.clone();
        let begun = phase.wait_for(|phase| *phase >= Phase::Closing).await.map(|phase| *phase);
        begun.unwrap_or(Phase::Ending)
    }
}

/// The front, with the connection on which its requests arrive.
#[derive(Clone)]
struct Answering {
    front: Front,
    peer: Arc<Peer>,
    closing: Arc<Closing>,
    /// Set when a request begins or is answered; the check of idleness clears it.
    touched: Arc<AtomicBool>,
}

impl Answering {
    fn new(front: Front, peer: Arc<Peer>, life: &Life) -> Answering {
        Answering { front, peer, closing: life.closing.clone(), touched: Arc::new(AtomicBool::new(true)) }
    }

    fn answer(&self, mut request: http::Request<Incoming>) -> impl Future<Output = Response> + Send + use<> {
        request.extensions_mut().insert(self.peer.clone());
        self.touched.store(true, Relaxed);
        let (touched, closing, version) = (self.touched.clone(), self.closing.clone(), request.version());
        self.front.answer(request.map(Body::new)).map(move |mut response| {
            touched.store(true, Relaxed);
            if version < Version::HTTP_2 && closing.has_begun.load(Relaxed) {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        })
    }
}

/// The same, as a service that counts its requests in flight.
struct Counted {
    answering: Answering,
    activity: Arc<Activity>,
}

impl Service<http::Request<Incoming>> for Counted {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let under_way = RequestUnderWay::begin(&self.activity);
        let answer = self.answering.answer(request);
        Box::pin(async move {
            let held = move |frame| {
                // Kept until the last byte is sent or the client leaves.
                let _ = &under_way;
                frame
            };
            Ok(answer.await.map(|body| Body::new(body.map_frame(held))))
        })
    }
}

/// Number of requests in flight on a connection.
struct Activity {
    requests: watch::Sender<usize>,
}

impl Activity {
    /// Resolves when no request has been in flight for `span`.
    async fn idle(&self, span: Duration) {
        let mut requests = self.requests.subscribe();
        while requests.wait_for(|requests| *requests == 0).await.is_ok() {
            if tokio::time::timeout(span, requests.changed()).await.is_err() {
                return;
            }
        }
    }
}

struct RequestUnderWay {
    activity: Arc<Activity>,
}

impl RequestUnderWay {
    fn begin(activity: &Arc<Activity>) -> RequestUnderWay {
        activity.requests.send_modify(|requests| *requests += 1);
        RequestUnderWay { activity: activity.clone() }
    }
}

impl Drop for RequestUnderWay {
    fn drop(&mut self) {
        self.activity.requests.send_modify(|requests| *requests = requests.saturating_sub(1));
    }
}
