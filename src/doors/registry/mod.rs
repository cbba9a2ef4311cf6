//! The registry door: the OCI distribution protocol, as BuildKit and every other OCI client speak it.
//!
//! The path of a request: [`route`] parses it and tells the required right; the gate admits the caller; the store gives
//! access to the repository; one handler makes one call and answers.

mod blob;
pub mod error;
mod list;
mod manifest;
pub mod route;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderName, WWW_AUTHENTICATE};
use http::{HeaderValue, Method};

use crate::access::{Access, Delete, Permit, Pull, Push, Tags, Verb};
use crate::auth::{AuthError, Caller};
use crate::deadline::{self, Deadline};
use crate::doors::Doors;
use crate::doors::kit::answer::{Answer, header};
use crate::doors::kit::audit::Note;
use crate::doors::kit::body::incoming;
use crate::doors::kit::builds::Part;
use crate::doors::kit::etag::EntityTag;
use crate::doors::kit::origin::RequestOrigin;
use crate::doors::kit::refusal::{Refusal, RefusalKind};
use crate::doors::kit::{builds, range, task};
use crate::names::{Reference, Tenant};
use crate::oci::{CACHE_CONFIG, OCI_INDEX, OCI_MANIFEST};
use crate::refs::{Repo, RepoEraser, RepoWriter};
use crate::store::Store;
use crate::stream::Incoming;
use crate::trace;
use error::OciError;
use route::{Begin, Route};

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Header by which old clients recognise a registry: Docker's CLI up to 20.10 makes no manifest list without it.
const API_VERSION: (HeaderName, HeaderValue) =
    (HeaderName::from_static("docker-distribution-api-version"), HeaderValue::from_static("registry/2.0"));

/// Answers a request below `/v2`. Also returns the label of its route.
pub async fn serve(doors: Doors, request: Request) -> (&'static str, Response) {
    let uri = request.uri();
    let route = match Route::parse(request.method(), uri.path(), uri.query()) {
        Ok(route) => route,
        Err(error) => {
            // The audit log needs failed writes; for reads the log line of the request suffices.
            if !request.method().is_safe() {
                Note::of(&doors, &request).refused(None, "none", error.status(), error.message());
            }
            return ("none", error.into_response());
        }
    };
    let label = route.label();
    let caller = match doors.gate.identify(&RequestOrigin::new(&doors, &request).credentials()).await {
        Ok(caller) => caller,
        Err(error) => return (label, refuse(&doors, &route, &request, None, error)),
    };
    let admitted = match admit(&doors, &route, &caller) {
        Ok(admitted) => admitted,
        Err(error) => return (label, refuse(&doors, &route, &request, Some(&caller), error)),
    };
    let answer = match (admitted, route) {
        // Boxed: otherwise every future up to the connection would contain it, and be copied with it.
        (Admitted::Repo(granted), route) => Box::pin(handle(doors, caller, granted, route, request)).await,
        (Admitted::Catalog(tenants), Route::Catalog { page }) => {
            Box::pin(list::catalog(doors.store.refs(), &tenants, &page)).await
        }
        _ => Ok(list::base()),
    };
    (label, answer.unwrap_or_else(OciError::into_response))
}

/// Adds the version header of the protocol to an answer.
pub fn versioned(mut response: Response) -> Response {
    let (name, version) = API_VERSION;
    response.headers_mut().insert(name, version);
    response
}

/// The access that the gate granted.
enum Admitted {
    Repo(GrantedPermit),
    Catalog(Vec<Tenant>),
    Base,
}

/// The permit that the gate granted.
enum GrantedPermit {
    Pull(Permit<Pull>),
    Push(Permit<Push>),
    Delete(Permit<Delete>),
}

/// Access to a repository, with the granted right.
enum Handle {
    Pull(Repo),
    Push(RepoWriter),
    Delete(RepoEraser),
}

impl GrantedPermit {
    fn handle(self, store: &Store, deadline: Deadline) -> Result<Handle, OciError> {
        Ok(match self {
            GrantedPermit::Pull(permit) => Handle::Pull(store.repo(permit, deadline)),
            GrantedPermit::Push(permit) => Handle::Push(store.writer(permit, deadline)?),
            GrantedPermit::Delete(permit) => Handle::Delete(store.eraser(permit, deadline)?),
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

fn admit(doors: &Doors, route: &Route, caller: &Caller) -> Result<Admitted, AuthError> {
    let gate = &doors.gate;
    let Some(Access { repo, verb, tags }) = route.access() else {
        return match route {
            Route::Catalog { .. } => Ok(Admitted::Catalog(gate.visible_tenants(caller)?)),
            _ => gate.admit_identified(caller).map(|()| Admitted::Base),
        };
    };
    let granted = match verb {
        Verb::Pull => GrantedPermit::Pull(gate.admit(caller, repo, tags)?),
        Verb::Delete => GrantedPermit::Delete(gate.admit(caller, repo, tags)?),
        Verb::Push | Verb::Admin => GrantedPermit::Push(gate.admit(caller, repo, tags)?),
    };
    // Another token would allow the mount: the client should ask for one.
    if let Route::BeginUpload { begin: Begin::Mount { from: Some(from), .. }, .. } = route
        && let Err(error @ AuthError::Insufficient) = gate.admit::<Pull>(caller, from.clone(), Tags::None)
    {
        return Err(error);
    }
    Ok(Admitted::Repo(granted))
}

/// A refusal with a challenge for the client, and a note in the audit log for the operator.
fn refuse(doors: &Doors, route: &Route, request: &Request, caller: Option<&Caller>, error: AuthError) -> Response {
    let who = caller.map(|caller| caller.identity().to_string());
    Note::of(doors, request).turned_away(who.as_deref(), route.label(), Refusal::from(&error).status, &error);
    let origin = RequestOrigin::new(doors, request);
    let challenge = origin.challenge(doors.gate.challenge(), &error, route.scope().as_deref());
    let error = OciError::from(error);
    match challenge {
        Some(challenge) => error.with(WWW_AUTHENTICATE, challenge),
        None => error,
    }
    .into_response()
}

async fn handle(
    doors: Doors,
    caller: Caller,
    granted: GrantedPermit,
    route: Route,
    request: Request,
) -> Result<Response, OciError> {
    let deadline = Deadline::within(waiting_time(&route, request.headers()));
    let audited = route.writes().then(|| Audited {
        note: Note::of(&doors, &request),
        // If all callers may do everything, there is no name to log.
        who: (!doors.gate.is_open()).then(|| caller.identity().to_string()),
        label: route.label(),
    });
    let handle = match granted.handle(&doors.store, deadline) {
        Ok(handle) => handle,
        Err(error) => {
            let refused = Err(error);
            audited.into_iter().for_each(|audited| audited.tell(&refused));
            return refused;
        }
    };
    let repo = handle.repo();
    trace::place(repo.tenant(), repo.name());
    let import = classify(&route, request.method(), request.headers())
        .and_then(|part| builds::watch(&doors, repo, part, request.headers()));
    if let Some(audited) = audited {
        let writing = task::carried_through(async move {
            let call = Call::new(&doors, request);
            let answer = write(&doors, &caller, handle, route, call).await;
            audited.tell(&answer);
            answer
        });
        return writing.await.unwrap_or_else(|| Err(OciError::new(RefusalKind::Failed)));
    }
    let answer = read(&doors, &caller, handle, route, request).await;
    if let Some(import) = import {
        let status = answer.as_ref().map_or_else(OciError::status, Response::status);
        import.on_response(&doors, &caller, status);
    }
    answer
}

/// The audit line of a write. The task that writes emits it, even if the client has left.
struct Audited {
    note: Arc<Note>,
    who: Option<String>,
    label: &'static str,
}

impl Audited {
    fn tell(self, answer: &Result<Response, OciError>) {
        let who = self.who.as_deref();
        match answer {
            Ok(answer) => self.note.written(who, answer.status()),
            Err(error) => self.note.refused(who, self.label, error.status(), error.message()),
        }
    }
}

/// Classifies a request as a part of a build.
fn classify(route: &Route, method: &Method, headers: &HeaderMap) -> Option<Part> {
    match route {
        Route::ReadManifest { reference: Reference::Tag(tag), .. } if *method == Method::HEAD && resolves(headers) => {
            Some(Part::Lookup(tag.clone()))
        }
        Route::ReadManifest { .. } => Some(Part::Import),
        Route::ReadBlob { .. } if method == Method::HEAD => Some(Part::Export),
        Route::ReadBlob { digest, .. } => {
            let imports = header(headers, ACCEPT).is_some_and(|accept| accept.contains(CACHE_CONFIG));
            imports.then_some(Part::EndOfImport(*digest))
        }
        Route::BeginUpload { .. } | Route::SealUpload { .. } | Route::PutManifest { .. } => Some(Part::Export),
        _ => None,
    }
}

/// Tells whether a tag is looked up as containerd's resolver does, which BuildKit imports with: it accepts every type of
/// manifest, and anything else. BuildKit's exports accept the type alone that they are about to push; crane and its kin,
/// which look before they push as well, accept nothing else.
fn resolves(headers: &HeaderMap) -> bool {
    let parts = [OCI_MANIFEST, OCI_INDEX, "*/*"];
    header(headers, ACCEPT).is_some_and(|accept| parts.iter().all(|part| accept.contains(part)))
}

/// What the media type of a config has in it: of a cache, of an image of OCI, of one of Docker.
const CONFIGS: [&str; 3] = [CACHE_CONFIG, ".image.config.", ".container.image.v1"];

/// Time to wait for a busy store. Builders retry layers, and nothing else; their `Accept` header distinguishes configs
/// from layers.
fn waiting_time(route: &Route, headers: &HeaderMap) -> Duration {
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
    // A HEAD of a blob is the most frequent request, and needs least: it must not carry the large futures of the
    // others.
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
        _ => Err(OciError::new(RefusalKind::Failed)),
    }
}

// Large futures are boxed: a task is copied when it starts, and most writes begin an upload, which needs little.
async fn write(doors: &Doors, caller: &Caller, handle: Handle, route: Route, call: Call) -> Result<Response, OciError> {
    let writer = match handle {
        Handle::Push(writer) => writer,
        Handle::Delete(eraser) => {
            let deletion = doors.store.deletion();
            return match route {
                Route::DeleteBlob { digest, .. } => Box::pin(blob::delete(deletion, &eraser, &digest)).await,
                Route::DeleteManifest { reference, .. } => {
                    Box::pin(manifest::delete(deletion, &eraser, &reference)).await
                }
                _ => Err(OciError::new(RefusalKind::Failed)),
            };
        }
        Handle::Pull(_) => return Err(OciError::new(RefusalKind::Failed)),
    };
    match route {
        Route::BeginUpload { begin: Begin::Session(algorithm), .. } => upload::begin(&writer, algorithm).await,
        Route::BeginUpload { begin: Begin::Whole(digest), .. } => {
            let stored = Box::pin(upload::whole(&writer, digest, call)).await;
            stored.inspect(|_| builds::received(doors, &writer, &digest))
        }
        Route::BeginUpload { begin: Begin::Mount { digest, from }, .. } => {
            // A caller that names a source must be allowed to read it; without one, the right to the target suffices,
            // since blobs belong to the tenant. Without the right the answer is as for a missing blob, and the caller
            // uploads.
            let source = from.map(|from| doors.gate.admit::<Pull>(caller, from, Tags::None));
            match source {
                Some(Err(_)) => upload::begin(&writer, digest.algorithm()).await,
                _ => Box::pin(upload::mount(&writer, digest)).await,
            }
        }
        Route::AppendUpload { session, .. } => Box::pin(upload::append(&writer, session, call)).await,
        Route::SealUpload { session, digest, .. } => {
            let stored = Box::pin(upload::seal(&writer, session, digest, call)).await;
            stored.inspect(|_| builds::received(doors, &writer, &digest))
        }
        Route::CancelUpload { session, .. } => Box::pin(upload::cancel(&writer, session)).await,
        Route::PutManifest { reference, tags, .. } => {
            let limit = doors.config.limits.manifest.as_u64() as usize;
            let using = (&doors.collecting, doors.store.caches());
            let by = builds::caller(doors, caller, &call.headers);
            Box::pin(manifest::put(using, (&writer, by), reference, tags, call, limit)).await
        }
        _ => Err(OciError::new(RefusalKind::Failed)),
    }
}

/// The parts of a write request that handlers use.
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

    /// First byte of a chunk, if the client announces it. The announced range must have the length of the body.
    fn chunk_start(&self) -> Result<Option<u64>, OciError> {
        let Some(text) = self.headers.get(CONTENT_RANGE) else { return Ok(None) };
        let range = text.to_str().ok().and_then(range::chunk);
        let range = range
            .ok_or_else(|| OciError::new(RefusalKind::UploadInvalid).because("Content-Range must be <first>-<last>"))?;
        match self.size() {
            Some(size) if size != range.end - range.start => {
                Err(OciError::new(RefusalKind::SizeInvalid).because("Content-Range and Content-Length differ"))
            }
            _ => Ok(Some(range.start)),
        }
    }
}

impl Answer {
    /// Sets the digest of the content, which is also its entity tag.
    fn content(self, tag: &EntityTag) -> Answer {
        self.entity(tag, DOCKER_CONTENT_DIGEST)
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::digest::Digest;

    #[test]
    fn a_config_is_waited_for_and_a_layer_is_asked_for_again() {
        let path = format!("/v2/c/blobs/{}", Digest::sha256(b""));
        let Ok(route) = Route::parse(&Method::GET, &path, None) else { panic!("no route") };
        for (accept, span) in [
            ("application/vnd.buildkit.cacheconfig.v0, */*", deadline::LONG),
            ("application/vnd.oci.image.config.v1+json, */*", deadline::LONG),
            ("application/vnd.docker.container.image.v1+json, */*", deadline::LONG),
            ("application/vnd.oci.image.layer.v1.tar+gzip, */*", deadline::SHORT),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip, */*", deadline::SHORT),
            ("*/*", deadline::SHORT),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(waiting_time(&route, &headers), span, "{accept}");
        }
    }
}
