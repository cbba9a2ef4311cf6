//! A proxy in front of a bucket: it counts calls, can make the bucket unavailable, and flips bits.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use larder::config::S3Config;
use larder::objects::s3::S3Objects;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::bucket::{self, Bucket};

/// The calls so far.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    pub by_name: BTreeMap<&'static str, usize>,
    /// Number of bytes read from objects.
    pub read_bytes: u64,
}

impl Calls {
    pub fn sum(&self) -> usize {
        self.by_name.values().sum()
    }

    pub fn of(&self, name: &str) -> usize {
        self.by_name.get(name).copied().unwrap_or(0)
    }
}

/// The calls that are held back: those of a name whose path has a part.
#[derive(Clone, Copy)]
struct Held {
    name: &'static str,
    part: &'static str,
}

impl Held {
    fn is(&self, name: &str, path: &str) -> bool {
        self.name == name && path.contains(self.part)
    }
}

/// Calls that are held back: just now, and ever.
#[derive(Clone, Copy, Default)]
struct Waiting {
    now: usize,
    ever: usize,
}

/// A bucket behind a proxy.
pub struct Tap {
    pub config: S3Config,
    calls: Arc<Mutex<Calls>>,
    open: watch::Sender<bool>,
    held: watch::Sender<Option<Held>>,
    waiting: watch::Sender<Waiting>,
    flips: Arc<Mutex<Vec<u64>>>,
    lost: Arc<Mutex<Option<Held>>>,
    running: JoinHandle<()>,
    _bucket: Option<Bucket>,
}

impl Tap {
    /// A bucket in this process, and that of a real server if there is one.
    pub async fn all() -> Vec<Tap> {
        let mut taps = vec![Tap::in_process().await];
        if let Some(real) = bucket::real() {
            taps.push(Tap::on(real, None).await);
        }
        taps
    }

    pub async fn in_process() -> Tap {
        let mut bucket = Bucket::in_process().await;
        // For the longest keys: see `Bucket`.
        bucket.config.prefix.clear();
        Tap::on(bucket.config.clone(), Some(bucket)).await
    }

    /// Another proxy before the same bucket, through this one.
    pub async fn before(&self) -> Tap {
        Tap::on(self.config.clone(), None).await
    }

    async fn on(mut config: S3Config, bucket: Option<Bucket>) -> Tap {
        let target = config.endpoint.clone().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        config.endpoint = Some(format!("http://{address}"));
        let calls = Arc::<Mutex<Calls>>::default();
        let ((open, is_open), (held, holds)) = (watch::channel(true), watch::channel(None));
        let (waiting, flips) = (watch::Sender::new(Waiting::default()), Arc::<Mutex<Vec<u64>>>::default());
        let (waits, lost) = (waiting.clone(), Arc::<Mutex<Option<Held>>>::default());
        let (calls_of, flips_of, lost_of) = (calls.clone(), flips.clone(), lost.clone());
        let (holder, client) = (held.clone(), client());
        let line = Line { target, calls: calls_of, waits, flips: flips_of, lost: lost_of, holder, client };
        let running = tokio::spawn(serve(listener, line, is_open, holds));
        Tap { config, calls, open, held, waiting, flips, lost, running, _bucket: bucket }
    }

    pub async fn objects(&self) -> S3Objects {
        S3Objects::open(&self.config).await.unwrap()
    }

    /// The calls since the last time.
    pub fn calls(&self) -> Calls {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    /// Takes the bucket away, every connection to it included, or gives it back.
    pub fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }

    /// Holds back all calls of a name from now on, and lets go of those that were held before.
    pub fn hold(&self, name: Option<&'static str>) {
        self.held.send_replace(name.map(|name| Held { name, part: "" }));
    }

    /// Holds back the calls of a name whose path has a part.
    pub fn hold_at(&self, name: &'static str, part: &'static str) {
        self.held.send_replace(Some(Held { name, part }));
    }

    /// Answers the next call of a name whose path has a part with a 500 when it is done, and holds back later ones.
    pub fn lose_at(&self, name: &'static str, part: &'static str) {
        *self.lost.lock().unwrap() = Some(Held { name, part });
    }

    /// Waits until so many calls are held back.
    pub async fn is_holding(&self, calls: usize) {
        self.waiting.subscribe().wait_for(|waiting| waiting.now == calls).await.unwrap();
    }

    /// Waits until one call is held back, the last of `attempt`: those before it have been given up.
    pub async fn is_holding_attempt(&self, attempt: usize) {
        let is_it = |waiting: &Waiting| waiting.now == 1 && waiting.ever >= attempt;
        self.waiting.subscribe().wait_for(is_it).await.unwrap();
    }

    /// Flips a bit of the byte `at`, once: on the way of the next range of an object that has it.
    pub fn flip(&self, at: u64) {
        self.flips.lock().unwrap().push(at);
    }
}

/// Between the proxy and the bucket.
#[derive(Clone)]
struct Line {
    target: String,
    calls: Arc<Mutex<Calls>>,
    waits: watch::Sender<Waiting>,
    flips: Arc<Mutex<Vec<u64>>>,
    lost: Arc<Mutex<Option<Held>>>,
    holder: watch::Sender<Option<Held>>,
    client: reqwest::Client,
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn serve(
    listener: TcpListener,
    line: Line,
    is_open: watch::Receiver<bool>,
    holds: watch::Receiver<Option<Held>>,
) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (line, holds, mut is_open) = (line.clone(), holds.clone(), is_open.clone());
        let forward = service_fn(move |request: Request<Incoming>| {
            let (line, holds) = (line.clone(), holds.clone());
            async move {
                line.wait(&request, holds).await;
                line.answer(request).await
            }
        });
        tokio::spawn(async move {
            let serving = http1::Builder::new().serve_connection(TokioIo::new(socket), forward);
            tokio::select! {
                _ = is_open.wait_for(|open| !open) => {}
                _ = serving => {}
            }
        });
    }
}

/// A call that is held back.
struct Waits<'a>(&'a watch::Sender<Waiting>);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| waiting.now -= 1);
    }
}

impl Line {
    async fn wait(&self, request: &Request<Incoming>, mut holds: watch::Receiver<Option<Held>>) {
        let (name, path) = (bucket::name(request), request.uri().path());
        let passes = |held: &Option<Held>| !held.is_some_and(|held| held.is(name, path));
        if passes(&holds.borrow()) {
            return;
        }
        self.waits.send_modify(|waiting| {
            waiting.now += 1;
            waiting.ever += 1;
        });
        let _waits = Waits(&self.waits);
        let _ = holds.wait_for(passes).await;
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> io::Result<Response<http_body_util::combinators::UnsyncBoxBody<Bytes, io::Error>>> {
        let name = bucket::name(&request);
        *self.calls.lock().unwrap().by_name.entry(name).or_default() += 1;
        let flipped = if name == "get" { self.flipped(&request) } else { None };
        let lost = self.lost.lock().unwrap().take_if(|lost| lost.is(name, request.uri().path()));
        let (head, body) = request.into_parts();
        let sent = self.client.request(head.method, format!("{}{}", self.target, head.uri)).headers(head.headers);
        let sent = if body.is_end_stream() {
            sent
        } else {
            sent.body(reqwest::Body::wrap_stream(body.into_data_stream().map_err(io::Error::other)))
        };
        let answer = sent.send().await.map_err(io::Error::other)?;
        let mut response = Response::new(());
        if let Some(lost) = lost {
            assert!(answer.status().is_success(), "{}", answer.status());
            self.holder.send_replace(Some(lost));
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            return Ok(response.map(|()| http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()));
        }
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        if name == "get" && answer.status().is_success() {
            self.calls.lock().unwrap().read_bytes += answer.content_length().unwrap();
        }
        if let Some(at) = flipped {
            let mut bytes = answer.bytes().await.map_err(io::Error::other)?.to_vec();
            bytes[at] ^= 1;
            return Ok(
                response.map(|()| http_body_util::Full::from(bytes).map_err(|never| match never {}).boxed_unsync())
            );
        }
        let frames = answer.bytes_stream().map(|piece| piece.map(Frame::data).map_err(io::Error::other));
        Ok(response.map(|()| StreamBody::new(frames).boxed_unsync()))
    }

    /// Position of the byte of the answer that gets a flipped bit.
    fn flipped(&self, request: &Request<Incoming>) -> Option<usize> {
        let range = request.headers().get(http::header::RANGE)?.to_str().unwrap().strip_prefix("bytes=").unwrap();
        let (first, last) = range.split_once('-').unwrap();
        let (first, last) = (first.parse::<u64>().unwrap(), last.parse::<u64>().unwrap_or(u64::MAX));
        let mut flips = self.flips.lock().unwrap();
        let found = flips.iter().position(|at| (first..=last).contains(at))?;
        Some((flips.remove(found) - first) as usize)
    }
}
