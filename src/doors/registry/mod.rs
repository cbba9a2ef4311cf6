//! The registry door: the OCI distribution protocol, as BuildKit and every other OCI client speak it.
//!
//! A request: [`route`] says what is asked and which right it needs; the gate admits; the store hands out the repository;
//! one handler makes one call and answers.

mod audit;
mod blob;
mod builds;
pub mod error;
mod list;
mod manifest;
mod range;
pub mod route;
mod upload;

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body as HttpBody;

use crate::access::{Access, Delete, Permit, Pull, Push, Tags, Verb};
use crate::auth::{Caller, Refusal};
use crate::deadline::{self, Deadline};
use crate::digest::Digest;
use crate::doors::Doors;
use crate::doors::who::Sender;
use crate::names::Tenant;
use crate::refs::manifests::CACHE_CONFIG;
use crate::refs::{Repo, RepoEraser, RepoWriter};
use crate::store::Store;
use crate::stream::{BodyError, Incoming};
use crate::trace;
use error::{Code, OciError};
use route::{Begin, Route};

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Answers a request below `/v2`, and says what its route is called.
pub async fn serve(doors: Doors, request: Request) -> (&'static str, Response) {
    let uri = request.uri();
    let route = match Route::parse(request.method(), uri.path(), uri.query()) {
        Ok(route) => route,
        Err(error) => return ("none", error.into_response()),
    };
    let label = route.label();
    let sender = Sender::new(&doors, &request);
    let admitted = match admit(&doors, &route, &sender).await {
        Ok(admitted) => admitted,
        Err(refusal) => return (label, refuse(&doors, &route, &sender, refusal)),
    };
    let answer = match (admitted, route) {
        // In a box: whoever holds this future copies it, from here up to the connection.
        (Admitted::Repo(caller, granted), route) => Box::pin(handle(doors, caller, granted, route, request)).await,
        (Admitted::Catalog(tenants), Route::Catalog { page }) => {
            Box::pin(list::catalog(doors.store.refs(), &tenants, &page)).await
        }
        _ => Ok(list::base()),
    };
    (label, answer.unwrap_or_else(OciError::into_response))
}

/// What the caller was let in to.
enum Admitted {
    Repo(Caller, Granted),
    Catalog(Vec<Tenant>),
    Base,
}

/// The right that the caller was given.
enum Granted {
    Pull(Permit<Pull>),
    Push(Permit<Push>),
    Delete(Permit<Delete>),
}

/// A repository, with what the caller may do to it.
enum Handle {
    Pull(Repo),
    Push(RepoWriter),
    Delete(RepoEraser),
}

impl Granted {
    fn handle(self, store: &Store, deadline: Deadline) -> Result<Handle, OciError> {
        Ok(match self {
            Granted::Pull(permit) => Handle::Pull(store.repo(permit, deadline)),
            Granted::Push(permit) => Handle::Push(store.writer(permit, deadline)?),
            Granted::Delete(permit) => Handle::Delete(store.eraser(permit, deadline)?),
        })
    }
}

impl Handle {
    fn repo(&self) -> &Repo {
        match self {
            Handle::Pull(repo) => repo,
            Handle::Push(writer) => writer.repo(),
            Handle::Delete(eraser) => eraser.repo(),
        }
    }
}

async fn admit(doors: &Doors, route: &Route, sender: &Sender<'_>) -> Result<Admitted, Refusal> {
    let gate = &doors.gate;
    let caller = gate.identify(&sender.knock()).await?;
    let Some(Access { repo, verb, tags }) = route.access() else {
        return match route {
            Route::Catalog { .. } => Ok(Admitted::Catalog(gate.visible_tenants(&caller)?)),
            _ => gate.admit_identified(&caller).map(|()| Admitted::Base),
        };
    };
    let granted = match verb {
        Verb::Pull => Granted::Pull(gate.admit(&caller, repo, tags)?),
        Verb::Delete => Granted::Delete(gate.admit(&caller, repo, tags)?),
        Verb::Push | Verb::Admin => Granted::Push(gate.admit(&caller, repo, tags)?),
    };
    // Another token would let them mount: it is worth asking for one.
    if let Route::BeginUpload { begin: Begin::Mount { from: Some(from), .. }, .. } = route
        && let Err(refusal @ Refusal::Insufficient) = gate.admit::<Pull>(&caller, from.clone(), Tags::None)
    {
        return Err(refusal);
    }
    Ok(Admitted::Repo(caller, granted))
}

/// A refusal that tells clients what to ask for, and the operator who was turned away.
fn refuse(doors: &Doors, route: &Route, sender: &Sender<'_>, refusal: Refusal) -> Response {
    audit::refused(sender, route.label(), &refusal);
    let challenge = sender.challenge(doors.gate.challenge(), &refusal, route.scope().as_deref());
    let error = OciError::from(refusal);
    match challenge {
        Some(challenge) => error.with(WWW_AUTHENTICATE, challenge),
        None => error,
    }
    .into_response()
}

async fn handle(
    doors: Doors,
    caller: Caller,
    granted: Granted,
    route: Route,
    request: Request,
) -> Result<Response, OciError> {
    let handle = granted.handle(&doors.store, Deadline::within(patience_of(&route, request.headers())))?;
    let repo = handle.repo();
    trace::place(repo.tenant(), repo.name());
    let ending = builds::watch(&doors.metrics, repo, &route, request.method(), request.headers());
    if !route.writes() {
        let answer = read(&doors, &caller, handle, route, request).await;
        ending.into_iter().for_each(|ending| ending.see(&answer));
        return answer;
    }
    // A client that goes away takes its request's future with it. What it had begun to write is finished or undone all
    // the same, by a task of its own.
    let note = audit::Note::new(&doors, &caller, &request);
    let writing = tokio::spawn(trace::carried(async move {
        let call = Call::new(&doors, request);
        let answer = write(&doors, &caller, handle, route, call).await;
        note.write(&answer);
        answer
    }));
    match writing.await {
        Ok(answer) => {
            ending.into_iter().for_each(|ending| ending.see(&answer));
            answer
        }
        Err(error) => {
            tracing::error!(%error, "request failed");
            Err(OciError::new(Code::Unknown))
        }
    }
}

/// What the media type of a config has in it: of a cache, of an image of OCI, of one of Docker.
const CONFIGS: [&str; 3] = [CACHE_CONFIG, ".image.config.", ".container.image.v1"];

/// How long a busy store is waited for. Builders ask for layers again by themselves, and for nothing else; what they say
/// they accept tells a config from a layer.
fn patience_of(route: &Route, headers: &HeaderMap) -> Duration {
    let is_config = |accept: &str| CONFIGS.iter().any(|config| accept.contains(config));
    match route {
        Route::ReadBlob { .. } if !header(headers, ACCEPT).is_some_and(is_config) => deadline::SHORT,
        _ => deadline::LONG,
    }
}

async fn read(
    doors: &Doors,
    caller: &Caller,
    handle: Handle,
    route: Route,
    request: Request,
) -> Result<Response, OciError> {
    let (method, headers) = (request.method(), request.headers());
    // A HEAD of a blob is what is asked most, and needs least: the futures of the others, which are large, are not its
    // burden.
    match (handle, route) {
        (Handle::Pull(repo), Route::ReadBlob { digest, .. }) if method == Method::HEAD => {
            blob::head(repo.blobs(), &digest).await
        }
        (Handle::Pull(repo), Route::ReadBlob { digest, .. }) => {
            Box::pin(blob::get(repo.blobs(), &digest, headers)).await
        }
        (Handle::Pull(repo), Route::ReadManifest { reference, .. }) => {
            Box::pin(manifest::read(doors.store.caches(), &repo, &reference, headers)).await
        }
        (Handle::Pull(repo), Route::Tags { page, .. }) => Box::pin(list::tags(&repo, caller, page)).await,
        (Handle::Pull(repo), Route::Referrers { subject, kind, page, .. }) => {
            Box::pin(list::referrers(&repo, subject, kind, page)).await
        }
        (Handle::Push(writer), Route::UploadStatus { session, .. }) => Box::pin(upload::status(&writer, session)).await,
        _ => Err(OciError::new(Code::Unknown)),
    }
}

async fn write(doors: &Doors, caller: &Caller, handle: Handle, route: Route, call: Call) -> Result<Response, OciError> {
    let writer = match handle {
        Handle::Push(writer) => writer,
        Handle::Delete(eraser) => {
            let deletion = doors.store.deletion();
            return match route {
                Route::DeleteBlob { digest, .. } => blob::delete(deletion, &eraser, &digest).await,
                Route::DeleteManifest { reference, .. } => manifest::delete(deletion, &eraser, &reference).await,
                _ => Err(OciError::new(Code::Unknown)),
            };
        }
        Handle::Pull(_) => return Err(OciError::new(Code::Unknown)),
    };
    match route {
        Route::BeginUpload { begin: Begin::Session(algorithm), .. } => upload::begin(&writer, algorithm).await,
        Route::BeginUpload { begin: Begin::Whole(digest), .. } => upload::whole(&writer, digest, call).await,
        Route::BeginUpload { begin: Begin::Mount { digest, from }, .. } => {
            // Whoever names a source must be allowed to read it; without one, the target's own right is enough, for
            // blobs belong to the tenant. Who may not is answered as if nothing was there, and uploads.
            let source = from.map(|from| doors.gate.admit::<Pull>(caller, from, Tags::None));
            match source {
                Some(Err(_)) => upload::begin(&writer, digest.algorithm()).await,
                _ => upload::mount(&writer, digest).await,
            }
        }
        Route::AppendUpload { session, .. } => upload::append(&writer, session, call).await,
        Route::SealUpload { session, digest, .. } => upload::seal(&writer, session, digest, call).await,
        Route::CancelUpload { session, .. } => upload::cancel(&writer, session).await,
        Route::PutManifest { reference, tags, .. } => {
            let limit = doors.config.limits.manifest.as_u64() as usize;
            manifest::put(doors.store.caches(), &writer, reference, tags, call, limit).await
        }
        _ => Err(OciError::new(Code::Unknown)),
    }
}

/// The parts of a writing request that handlers look at.
struct Call {
    headers: HeaderMap,
    body: Incoming,
}

impl Call {
    fn new(doors: &Doors, request: Request) -> Call {
        let (parts, body) = request.into_parts();
        Call { headers: parts.headers, body: incoming(body, doors.config.limits.body_idle.get()) }
    }

    /// `Content-Length`, in bytes.
    fn size(&self) -> Option<u64> {
        header(&self.headers, CONTENT_LENGTH)?.parse().ok()
    }

    /// Where a chunk begins, when the client says so. It must say as many bytes as it sends.
    fn chunk_start(&self) -> Result<Option<u64>, OciError> {
        let Some(text) = self.headers.get(http::header::CONTENT_RANGE) else { return Ok(None) };
        let range = text.to_str().ok().and_then(range::chunk);
        let range = range
            .ok_or_else(|| OciError::new(Code::BlobUploadInvalid).because("Content-Range must be <first>-<last>"))?;
        match self.size() {
            Some(size) if size != range.end - range.start => {
                Err(OciError::new(Code::SizeInvalid).because("Content-Range and Content-Length differ"))
            }
            _ => Ok(Some(range.start)),
        }
    }
}

/// The body as the house takes it. A pause longer than `idle` ends it.
fn incoming(body: Body, idle: Duration) -> Incoming {
    stream::unfold(Unread(Some(body)), move |mut unread| async move {
        let body = unread.0.as_mut()?;
        let end = match tokio::time::timeout(idle, body.into_data_stream().next()).await {
            Ok(Some(Ok(piece))) => return Some((Ok(piece), unread)),
            Ok(Some(Err(_))) => Some(BodyError::Cut),
            Ok(None) => None,
            Err(_) => Some(BodyError::Idle),
        };
        unread.0 = None;
        Some((Err(end?), unread))
    })
    .boxed()
}

/// What nobody has read yet of a body. Dropped, it is read on for a little while: a connection that is closed with
/// unread bytes is reset, and a client that is still sending would see that instead of why it was refused. Clients stop
/// when they see it.
struct Unread(Option<Body>);

/// How much is read for nobody, and how long.
const LINGER_BYTES: usize = 16 << 20;
const LINGER: Duration = Duration::from_secs(5);

impl Drop for Unread {
    fn drop(&mut self) {
        let Some(mut body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        let linger = async move {
            let mut read = 0;
            while let Some(Ok(frame)) = body.frame().await
                && read < LINGER_BYTES
            {
                read += frame.data_ref().map_or(0, bytes::Bytes::len);
            }
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(LINGER, linger));
        }
    }
}

/// The entity tag of content: its digest in quotes.
struct EntityTag(Bytes);

impl EntityTag {
    fn of(digest: &Digest) -> EntityTag {
        EntityTag(["\"", digest.algorithm().as_str(), ":", &digest.hex(), "\""].concat().into())
    }

    /// Whether a client names this tag in `If-None-Match` or `If-Range`.
    fn is(&self, said: Option<&str>) -> bool {
        said.is_some_and(|said| said.as_bytes() == self.0)
    }
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn respond(status: StatusCode) -> Answer {
    Answer { response: Response::new(Body::empty()), status }
}

/// A response under construction. All values come from parsed names and numbers, so none of them can fail to be a header.
///
/// Digests are most of what is said: their text is made once, and constants are not copied.
struct Answer {
    response: Response,
    status: StatusCode,
}

impl Answer {
    fn set<V>(mut self, name: HeaderName, value: V) -> Answer
    where
        HeaderValue: TryFrom<V>,
    {
        match HeaderValue::try_from(value) {
            Ok(value) => drop(self.response.headers_mut().append(name, value)),
            Err(_) => tracing::error!(%name, "header was left out"),
        }
        self
    }

    fn set_const(mut self, name: HeaderName, value: &'static str) -> Answer {
        self.response.headers_mut().append(name, HeaderValue::from_static(value));
        self
    }

    /// The digest of the content, which is its entity tag as well.
    fn content(self, tag: &EntityTag) -> Answer {
        let digest = tag.0.slice(1..tag.0.len() - 1);
        match (HeaderValue::from_maybe_shared(tag.0.clone()), HeaderValue::from_maybe_shared(digest)) {
            (Ok(tag), Ok(digest)) => self.set(ETAG, tag).set(DOCKER_CONTENT_DIGEST, digest),
            _ => self,
        }
    }

    fn body(mut self, body: impl Into<Body>) -> Response {
        *self.response.body_mut() = body.into();
        self.done()
    }

    fn json(self, value: &serde_json::Value) -> Response {
        self.set_const(CONTENT_TYPE, "application/json").body(value.to_string())
    }

    fn done(mut self) -> Response {
        *self.response.status_mut() = self.status;
        self.response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_is_waited_for_and_a_layer_is_asked_for_again() {
        let path = format!("/v2/c/blobs/{}", Digest::sha256(b""));
        let Ok(route) = Route::parse(&Method::GET, &path, None) else { panic!("no route") };
        for (accept, patience) in [
            ("application/vnd.buildkit.cacheconfig.v0, */*", deadline::LONG),
            ("application/vnd.oci.image.config.v1+json, */*", deadline::LONG),
            ("application/vnd.docker.container.image.v1+json, */*", deadline::LONG),
            ("application/vnd.oci.image.layer.v1.tar+gzip, */*", deadline::SHORT),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip, */*", deadline::SHORT),
            ("*/*", deadline::SHORT),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(patience_of(&route, &headers), patience, "{accept}");
        }
    }
}
