//! A bucket: of a server in this process, or of a real one.
//!
//! The server in process (s3s-fs) lacks much of what S3 does for two clients at once. It checks whether an object
//! exists and then writes, and it writes the bytes, their checksum and the metadata one after the other: of two that
//! write one key, each may win a part of it. So calls to one key are serialised here, as S3 seems to do. It knows
//! neither conditional reads nor a list of uploads, it takes a folder for an object, and writes into buckets that do
//! not exist. It keeps the metadata of an object in a file whose name is the whole key, in base64: a key of more than
//! 165 bytes fails, with bucket and prefix as short as here. Tests that need more run against the server of
//! `IT_S3_ENDPOINT` and `IT_S3_BUCKET`, with credentials from the environment.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use larder::config::{S3Config, Secret};
use larder::objects::s3::S3Objects;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::RwLock;
use tokio::task::JoinHandle;

const BUCKET: &str = "it0";

/// A server in this process with one bucket. It ends when dropped.
pub struct Bucket {
    pub config: S3Config,
    seen: Arc<Mutex<Seen>>,
    _folder: TempDir,
    running: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    calls: BTreeMap<&'static str, usize>,
    /// Calls that asked for a key to encrypt with.
    encrypted: Vec<(&'static str, String)>,
    /// Faults of the next calls, by the name of the call.
    faults: Vec<(&'static str, Fault)>,
    /// One for each path that was asked for.
    locks: HashMap<String, Arc<RwLock<()>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 503 SlowDown; nothing is done.
    SlowDown,
    /// It is done, and the answer is a 500.
    AnswerLost,
    /// 200, as if it were done; nothing is done.
    ToldDone,
    /// The answer ends after half of its body.
    Cut,
    /// One bit of the answer's body is another.
    Flip,
    /// 404 NoSuchBucket, in words where there is a body and in a header where there is none; nothing is done.
    NoBucket,
    /// 403 AccessDenied; nothing is done.
    Denied,
    /// A list has its keys in the order of letters, whatever their case.
    Unordered,
}

impl Bucket {
    pub async fn in_process() -> Bucket {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single("key", "secret"));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let config = config(listener.local_addr().unwrap());
        let seen = Arc::<Mutex<Seen>>::default();
        let running = tokio::spawn(serve(listener, builder.build(), seen.clone()));
        Bucket { config, seen, _folder: folder, running }
    }

    pub async fn open(&self) -> S3Objects {
        S3Objects::open(&self.config).await.unwrap()
    }

    /// The calls since the last time, with their numbers.
    pub fn calls(&self) -> BTreeMap<&'static str, usize> {
        std::mem::take(&mut self.seen.lock().unwrap().calls)
    }

    /// The calls that asked for a KMS key, with that key.
    pub fn encrypted(&self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut self.seen.lock().unwrap().encrypted)
    }

    /// Makes the next call of a name go wrong, `times` times.
    pub fn fail(&self, call: &'static str, fault: Fault, times: usize) {
        self.seen.lock().unwrap().faults.extend((0..times).map(|_| (call, fault)));
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn config(at: SocketAddr) -> S3Config {
    S3Config {
        bucket: BUCKET.into(),
        prefix: "a/store".into(),
        endpoint: Some(format!("http://{at}")),
        access_key_id: Some("key".into()),
        secret_access_key: Some(Secret::new("secret")),
        ..S3Config::default()
    }
}

/// A corner of the bucket of a real server, when there is one.
pub fn real() -> Option<S3Config> {
    let endpoint = std::env::var("IT_S3_ENDPOINT").ok()?;
    let bucket = std::env::var("IT_S3_BUCKET").ok()?;
    let prefix = format!("it/{:016x}", rand::random::<u64>());
    Some(S3Config { bucket, prefix, endpoint: Some(endpoint), ..S3Config::default() })
}

async fn serve(listener: TcpListener, service: S3Service, seen: Arc<Mutex<Seen>>) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (service, seen) = (service.clone(), seen.clone());
        let watched = service_fn(move |request: Request<Incoming>| {
            let (fault, lock) = {
                let mut seen = seen.lock().unwrap();
                (seen.note(&request), seen.locks.entry(request.uri().path().to_string()).or_default().clone())
            };
            let service = service.clone();
            async move { answer(&service, request, fault, &lock).await }
        });
        tokio::spawn(async move {
            // Some tests let a client disconnect in the middle.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), watched).await;
        });
    }
}

impl Seen {
    fn note(&mut self, request: &Request<Incoming>) -> Option<Fault> {
        let name = name(request);
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        if header("x-amz-server-side-encryption") == Some("aws:kms") {
            let key = header("x-amz-server-side-encryption-aws-kms-key-id").unwrap_or_default();
            self.encrypted.push((name, key.to_string()));
        }
        *self.calls.entry(name).or_default() += 1;
        let at = self.faults.iter().position(|(call, _)| *call == name)?;
        Some(self.faults.remove(at).1)
    }
}

async fn answer(
    service: &S3Service,
    request: Request<Incoming>,
    fault: Option<Fault>,
    lock: &RwLock<()>,
) -> io::Result<Response<Body>> {
    if fault == Some(Fault::SlowDown) {
        return Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"));
    }
    if fault == Some(Fault::NoBucket) {
        return Ok(refusal(StatusCode::NOT_FOUND, "NoSuchBucket"));
    }
    if fault == Some(Fault::Denied) {
        return Ok(refusal(StatusCode::FORBIDDEN, "AccessDenied"));
    }
    if fault == Some(Fault::ToldDone) {
        let told = "<CompleteMultipartUploadResult><ETag>\"told\"</ETag></CompleteMultipartUploadResult>";
        return Ok(Response::new(Body::from(Bytes::from(told))));
    }
    let answer = in_turn(service, request, lock).await?;
    Ok(match fault {
        Some(Fault::AnswerLost) => refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        Some(Fault::Flip) => {
            let (head, body) = answer.into_parts();
            let mut bytes = BodyExt::collect(body).await.unwrap().to_bytes().to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            Response::from_parts(head, Body::from(Bytes::from(bytes)))
        }
        Some(Fault::Unordered) => {
            let (head, body) = answer.into_parts();
            let text = String::from_utf8(BodyExt::collect(body).await.unwrap().to_bytes().to_vec()).unwrap();
            let text = text.replace("-B<", "-?<").replace("-a<", "-B<").replace("-?<", "-a<");
            Response::from_parts(head, Body::from(Bytes::from(text)))
        }
        Some(Fault::Cut) => {
            let (head, body) = answer.into_parts();
            let bytes = BodyExt::collect(body).await.unwrap().to_bytes();
            let half = Ok(Frame::data(bytes.slice(..bytes.len() / 2)));
            // Delayed, so that the first half is in flight: an answer of which no byte has arrived is requested again.
            let cut = stream::once(async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(io::Error::other("cut"))
            });
            let body = StreamBody::new(stream::iter([half]).chain(cut));
            Response::from_parts(head, Body::http_body_unsync(body))
        }
        _ => answer,
    })
}

/// An answer is begun before the next call to its key is let in: by then the file that is read is open.
async fn in_turn(service: &S3Service, request: Request<Incoming>, lock: &RwLock<()>) -> io::Result<Response<Body>> {
    let name = name(&request);
    let mut request = request.map(Body::from);
    if name == "put" {
        // The whole request first: a slow sender delays no other.
        let (head, body) = request.into_parts();
        let bytes = BodyExt::collect(body).await.map_err(io::Error::other)?.to_bytes();
        request = Request::from_parts(head, Body::from(bytes));
    }
    let answer = match name {
        "put" | "copy" | "complete upload" | "delete" | "late delete" => {
            let _turn = lock.write().await;
            service.call(request).await
        }
        "get" | "head" => {
            let _turn = lock.read().await;
            service.call(request).await
        }
        _ => service.call(request).await,
    };
    answer.map_err(|error| io::Error::other(format!("{error:?}")))
}

fn refusal(status: StatusCode, code: &str) -> Response<Body> {
    let body = Bytes::from(format!("<Error><Code>{code}</Code><Message>on purpose</Message></Error>"));
    // As MinIO answers a request that gets no body.
    Response::builder().status(status).header("x-minio-error-code", code).body(Body::from(body)).unwrap()
}

/// A request that was signed long ago.
fn is_late(request: &Request<Incoming>) -> bool {
    let date = request.headers().get("x-amz-date").and_then(|date| date.to_str().ok()).unwrap_or_default();
    let oldest = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(10);
    !date.is_empty() && *date < *oldest.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// The name of a call, as S3's price list has it.
pub fn name(request: &Request<Incoming>) -> &'static str {
    let query = request.uri().query().unwrap_or_default();
    let has = |name: &str| form_urlencoded::parse(query.as_bytes()).any(|(key, _)| key == name);
    let copied = request.headers().contains_key("x-amz-copy-source");
    match *request.method() {
        Method::GET if has("list-type") => "list",
        Method::GET => "get",
        Method::HEAD => "head",
        Method::PUT if has("partNumber") && copied => "copy part",
        Method::PUT if has("partNumber") => "put part",
        Method::PUT if copied => "copy",
        Method::PUT => "put",
        Method::POST if has("uploads") => "begin upload",
        Method::POST if has("uploadId") => "complete upload",
        Method::DELETE if has("uploadId") => "abort upload",
        Method::DELETE if is_late(request) => "late delete",
        Method::DELETE => "delete",
        _ => "other",
    }
}
