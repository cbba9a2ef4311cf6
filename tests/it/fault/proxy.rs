//! Between Larder and its bucket: a network that breaks and a server that is overloaded, at random.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Longer than one attempt of a call may take, and longer than a body may pause.
const STALL: Duration = Duration::from_secs(6);
const BODY_STALL: Duration = Duration::from_secs(12);
/// Calls of one kind of weather.
const WEATHER_CALLS: usize = 100;
/// One in so many hundreds of calls lasts this bad.
const STORM_EVERY: usize = 5;
/// Faults in a hundred calls.
const FAULTS: u32 = 8;
const FAULTS_IN_STORM: u32 = 60;

/// The fault of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The answer is late, but in time.
    Delay,
    /// 503 SlowDown; nothing is done.
    SlowDown,
    /// 500; nothing is done.
    Refused,
    /// The connection is reset with the request half-read; nothing is done.
    Reset,
    /// It is done, and the answer is a 500.
    AnswerLost,
    /// It is done, and the connection is reset.
    AnswerReset,
    /// No answer for [`STALL`]; the call is not done if the client leaves meanwhile.
    Stall,
    /// The body pauses for [`BODY_STALL`] in its middle.
    BodyStall,
    /// The body ends too early.
    Truncated,
    /// A bit of the body is another one: where a digest or a checksum of the answer tells it.
    Corrupted,
    /// One bit of the written bytes is flipped.
    Damaged,
}

/// Ends when dropped.
pub struct FaultProxy {
    pub address: SocketAddr,
    state: Arc<State>,
    running: JoinHandle<()>,
}

struct State {
    target: String,
    client: reqwest::Client,
    random: Mutex<StdRng>,
    calls: AtomicUsize,
    calm: AtomicBool,
    stalls_left: AtomicUsize,
    /// Held while something is written, where the server needs that.
    writing: Option<tokio::sync::Mutex<()>>,
    done: Mutex<BTreeMap<Fault, usize>>,
}

type Answer = Response<BoxBody<Bytes, io::Error>>;

impl FaultProxy {
    /// Starts a proxy before `target`, an address like `http://127.0.0.1:9000`, without faults at first. With
    /// `one_write`, writes to it are serialised.
    pub async fn start(target: &str, seed: u64, stalls: usize, one_write: bool) -> FaultProxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            target: target.to_string(),
            client: reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            calls: AtomicUsize::new(0),
            calm: AtomicBool::new(true),
            stalls_left: AtomicUsize::new(stalls),
            writing: one_write.then(Default::default),
            done: Mutex::default(),
        });
        let running = tokio::spawn(serve(listener, state.clone()));
        FaultProxy { address, state, running }
    }

    /// Ends all faults, or begins them again.
    pub fn set_calm(&self, calm: bool) {
        self.state.calm.store(calm, Ordering::Relaxed);
    }

    pub fn calls(&self) -> usize {
        self.state.calls.load(Ordering::Relaxed)
    }

    /// The faults so far, with their numbers.
    pub fn faults(&self) -> BTreeMap<Fault, usize> {
        self.state.done.lock().unwrap().clone()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        // A second handle, to make the end of the connection a reset. Both are closed together.
        let handle = socket.as_fd().try_clone_to_owned().unwrap();
        let state = state.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| state.answer(request, &handle));
            // Ends with an error whenever a fault cuts it.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

impl State {
    /// The fault of this call, out of those that its request allows, or that its answer may allow.
    fn draw(&self, request: &Request<Incoming>) -> Option<Fault> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if self.calm.load(Ordering::Relaxed) {
            return None;
        }
        let storm = (call / WEATHER_CALLS) % STORM_EVERY == STORM_EVERY - 1;
        let mut random = self.random.lock().unwrap();
        if random.random_range(0..100) >= if storm { FAULTS_IN_STORM } else { FAULTS } {
            return None;
        }
        use Fault::*;
        let mut possible = vec![Delay, SlowDown, SlowDown, Refused, Reset, AnswerLost, AnswerReset];
        let reads = *request.method() == Method::GET && !request.uri().query().unwrap_or("").contains("list-type");
        if reads {
            possible.extend([Truncated, Truncated, Corrupted, Corrupted]);
        }
        if *request.method() == Method::PUT {
            possible.push(Damaged);
        }
        // Rare: each takes long.
        if random.random_range(0..10) == 0 {
            let take = |left: usize| left.checked_sub(1);
            if self.stalls_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                possible = vec![if reads { BodyStall } else { Stall }];
            }
        }
        Some(possible[random.random_range(0..possible.len())])
    }

    /// An error ends the connection.
    async fn answer(&self, request: Request<Incoming>, connection: &OwnedFd) -> io::Result<Answer> {
        let Some(fault) = self.draw(&request) else { return self.forward(request, None).await };
        *self.done.lock().unwrap().entry(fault).or_default() += 1;
        match fault {
            Fault::SlowDown => Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown")),
            Fault::Refused => Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")),
            Fault::Reset => Err(reset(connection)),
            Fault::AnswerLost => {
                self.forward(request, None).await?;
                Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"))
            }
            Fault::AnswerReset => {
                self.forward(request, None).await?;
                Err(reset(connection))
            }
            Fault::Stall => {
                tokio::time::sleep(STALL).await;
                self.forward(request, None).await
            }
            Fault::Delay => {
                let millis = self.random.lock().unwrap().random_range(1..200);
                tokio::time::sleep(Duration::from_millis(millis)).await;
                self.forward(request, None).await
            }
            Fault::BodyStall | Fault::Truncated | Fault::Corrupted | Fault::Damaged => {
                self.forward(request, Some(fault)).await
            }
        }
    }

    /// Forwards the call, with a fault in one of the bodies.
    async fn forward(&self, request: Request<Incoming>, fault: Option<Fault>) -> io::Result<Answer> {
        let (head, body) = request.into_parts();
        let mut body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        if fault == Some(Fault::Damaged) {
            body = self.flip(body);
        }
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let url = format!("{}{path}", self.target);
        let forwarded = self.client.request(head.method.clone(), url).headers(end_to_end(head.headers)).body(body);
        let _alone = match &self.writing {
            Some(writing) if head.method == Method::PUT => Some(writing.lock().await),
            _ => None,
        };
        let answer = forwarded.send().await.map_err(io::Error::other)?;
        let (status, headers) = (answer.status(), end_to_end(answer.headers().clone()));
        let bytes = answer.bytes().await.map_err(io::Error::other)?;
        let is_told = |path: &str| path.contains("/blobs/") || path.contains("/manifests/");
        let told = is_told(path) || headers.contains_key("x-amz-checksum-crc32c");
        let body = match fault {
            Some(Fault::Corrupted) if status.is_success() && told => whole(self.flip(bytes)),
            Some(Fault::Truncated) if status.is_success() && !bytes.is_empty() => {
                halves(&bytes, Err(io::Error::other("truncated")), Duration::ZERO)
            }
            Some(Fault::BodyStall) if status.is_success() && !bytes.is_empty() => {
                halves(&bytes, Ok(bytes.slice(bytes.len() / 2..)), BODY_STALL)
            }
            _ => whole(bytes),
        };
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }

    /// The bytes with another bit in one of them.
    fn flip(&self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        let mut random = self.random.lock().unwrap();
        let mut bytes = Vec::from(bytes);
        let at = random.random_range(0..bytes.len());
        bytes[at] ^= 1 << random.random_range(0..8);
        bytes.into()
    }
}

fn whole(bytes: Bytes) -> BoxBody<Bytes, io::Error> {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed()
}

/// The first half at once, and the rest after a pause.
fn halves(bytes: &Bytes, then: io::Result<Bytes>, pause: Duration) -> BoxBody<Bytes, io::Error> {
    let first = stream::iter([Ok(Frame::data(bytes.slice(..bytes.len() / 2)))]);
    // At least so long that the first half is on its way.
    let second = stream::once(async move {
        tokio::time::sleep(pause.max(Duration::from_millis(20))).await;
        then.map(Frame::data)
    });
    BodyExt::boxed(StreamBody::new(first.chain(second)))
}

/// The headers that are not about one connection.
fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    for name in [CONNECTION, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers
}

fn refusal(status: StatusCode, code: &str) -> Answer {
    let body = Bytes::from(format!("<Error><Code>{code}</Code><Message>on purpose</Message></Error>"));
    Response::builder().status(status).header(CONTENT_LENGTH, body.len()).body(whole(body)).unwrap()
}

/// Makes the end of the connection a reset.
fn reset(connection: &OwnedFd) -> io::Error {
    // Without effect on a connection that the client has closed by now.
    let _ = rustix::net::sockopt::set_socket_linger(connection, Some(Duration::ZERO));
    io::Error::other("reset")
}
