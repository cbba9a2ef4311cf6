//! The registry door: the OCI distribution protocol, as BuildKit and every other OCI client speak it.
//!
//! A request: [`route`] says what is asked and which right it needs; the gate admits; the store hands out the repository;
//! one handler makes one call and answers.

mod blob;
pub mod error;
mod list;
mod manifest;
pub mod route;
mod upload;

use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use http::Method;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderName, WWW_AUTHENTICATE};

use crate::access::{Access, Permit, Verb};
use crate::auth::{AuthError, Caller};
use crate::doors::Doors;
use crate::doors::kit::answer::{Answer, header};
use crate::doors::kit::body::incoming;
use crate::doors::kit::etag::EntityTag;
use crate::doors::kit::origin::RequestOrigin;
use crate::doors::kit::refusal::Kind;
use crate::doors::kit::{audit, builds, deadline, range, task};
use crate::metrics::recent::BuildAction;
use crate::names::Tenant;
use crate::refs::manifests::CACHE_CONFIG;
use crate::store::Repo;
use crate::stream::Incoming;
use crate::trace;
use error::OciError;
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
    let origin = RequestOrigin::new(&doors, &request);
    let admitted = match admit(&doors, &route, &origin).await {
        Ok(admitted) => admitted,
        Err(error) => return (label, refuse(&doors, &route, &origin, error)),
    };
    let answer = match (admitted, route) {
        // In a box: whoever holds this future copies it, from here up to the connection.
        (Admitted::Repo(caller, permit), route) => Box::pin(handle(doors, caller, permit, route, request)).await,
        (Admitted::Catalog(tenants), Route::Catalog { page }) => {
            Box::pin(list::catalog(&doors.store, &tenants, &page)).await
        }
        _ => Ok(list::base()),
    };
    (label, answer.unwrap_or_else(OciError::into_response))
}

/// What the caller was let in to.
enum Admitted {
    Repo(Caller, Permit),
    Catalog(Vec<Tenant>),
    Base,
}

async fn admit(doors: &Doors, route: &Route, origin: &RequestOrigin<'_>) -> Result<Admitted, AuthError> {
    let caller = doors.gate.identify(&origin.credentials()).await?;
    if let Some(access) = route.access() {
        let permit = doors.gate.admit(&caller, access)?;
        // Another token would let the caller mount: it is worth asking for one.
        if let Route::BeginUpload { begin: Begin::Mount { from: Some(from), .. }, .. } = route
            && let Err(error @ AuthError::Insufficient) =
                doors.gate.admit(&caller, Access::to(from.clone(), Verb::Pull))
        {
            return Err(error);
        }
        return Ok(Admitted::Repo(caller, permit));
    }
    match route {
        Route::Catalog { .. } => Ok(Admitted::Catalog(doors.gate.visible_tenants(&caller)?)),
        _ => doors.gate.admit_identified(&caller).map(|()| Admitted::Base),
    }
}

/// A refusal that tells clients what to ask for, and the operator who was turned away.
fn refuse(doors: &Doors, route: &Route, origin: &RequestOrigin<'_>, error: AuthError) -> Response {
    audit::refused(origin, route.label(), &error);
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
    permit: Permit,
    route: Route,
    request: Request,
) -> Result<Response, OciError> {
    let repo = doors.store.repo(permit);
    trace::place(repo.tenant(), repo.name());
    let span = waiting_time(&route, request.headers());
    let pending = classify(&route, request.method(), request.headers())
        .and_then(|action| builds::watch(&doors.metrics, &repo, action, request.headers()));
    let answer = if route.writes() {
        let note = audit::Note::new(&doors, &caller, &request);
        let writing = task::carried_through(async move {
            let call = Call::new(&doors, request);
            let answer = deadline::within(span, |_| write(&doors, &caller, repo, route, call)).await;
            note.write(answer.as_ref().map_or_else(OciError::status, Response::status));
            answer
        });
        writing.await.unwrap_or_else(|| Err(OciError::new(Kind::Failed)))
    } else {
        deadline::within(span, |_| read(&caller, repo, route, request)).await
    };
    pending.into_iter().for_each(|pending| pending.on_response(&answer));
    answer
}

/// The action of a build that a request is a part of, and whether it is the last part.
fn classify(route: &Route, method: &Method, headers: &HeaderMap) -> Option<(BuildAction, bool)> {
    match route {
        Route::ReadManifest { .. } => Some((BuildAction::Import, false)),
        Route::ReadBlob { .. } if method == Method::HEAD => Some((BuildAction::Export, false)),
        Route::ReadBlob { .. } => {
            let imports = header(headers, ACCEPT).is_some_and(|accept| accept.contains(CACHE_CONFIG));
            imports.then_some((BuildAction::Import, true))
        }
        Route::BeginUpload { .. } | Route::SealUpload { .. } => Some((BuildAction::Export, false)),
        Route::PutManifest { .. } => Some((BuildAction::Export, true)),
        _ => None,
    }
}

/// What the media type of a config has in it: of a cache, of an image of OCI, of one of Docker.
const CONFIGS: [&str; 3] = [CACHE_CONFIG, ".image.config.", ".container.image.v1"];

/// How long a busy store is waited for. Builders ask for layers again by themselves, and for nothing else; what they say
/// they accept tells a config from a layer.
fn waiting_time(route: &Route, headers: &HeaderMap) -> Duration {
    let is_config = |accept: &str| CONFIGS.iter().any(|config| accept.contains(config));
    match route {
        Route::ReadBlob { .. } if !header(headers, ACCEPT).is_some_and(is_config) => deadline::SHORT,
        _ => deadline::LONG,
    }
}

async fn read(caller: &Caller, repo: Repo, route: Route, request: Request) -> Result<Response, OciError> {
    let (method, headers) = (request.method(), request.headers());
    // A HEAD of a blob is what is asked most, and needs least: the futures of the others, which are large, are not its
    // burden.
    match route {
        Route::ReadBlob { digest, .. } if method == Method::HEAD => blob::head(&repo, &digest).await,
        Route::ReadBlob { digest, .. } => Box::pin(blob::get(&repo, &digest, headers)).await,
        Route::ReadManifest { reference, .. } => Box::pin(manifest::read(&repo, &reference, headers)).await,
        Route::Tags { page, .. } => Box::pin(list::tags(&repo, caller, page)).await,
        Route::Referrers { subject, kind, page, .. } => Box::pin(list::referrers(&repo, subject, kind, page)).await,
        Route::UploadStatus { session, .. } => Box::pin(upload::status(&repo, session)).await,
        _ => Err(OciError::new(Kind::Failed)),
    }
}

async fn write(doors: &Doors, caller: &Caller, repo: Repo, route: Route, call: Call) -> Result<Response, OciError> {
    match route {
        Route::DeleteBlob { digest, .. } => blob::delete(&repo, &digest).await,
        Route::BeginUpload { begin: Begin::Session(algorithm), .. } => upload::begin(&repo, algorithm).await,
        Route::BeginUpload { begin: Begin::Whole(digest), .. } => upload::whole(&repo, digest, call).await,
        Route::BeginUpload { begin: Begin::Mount { digest, from }, .. } => {
            // Whoever names a source must be allowed to read it; without one, the target's own right is enough, for
            // blobs belong to the tenant. Who may not is answered as if nothing was there, and uploads.
            let source = from.map(|from| doors.gate.admit(caller, Access::to(from, Verb::Pull)));
            match source {
                Some(Err(_)) => upload::begin(&repo, digest.algorithm()).await,
                _ => upload::mount(&repo, digest).await,
            }
        }
        Route::AppendUpload { session, .. } => upload::append(&repo, session, call).await,
        Route::SealUpload { session, digest, .. } => upload::seal(&repo, session, digest, call).await,
        Route::CancelUpload { session, .. } => upload::cancel(&repo, session).await,
        Route::PutManifest { reference, tags, .. } => {
            let limit = doors.config.limits.manifest.as_u64() as usize;
            manifest::put(&repo, reference, tags, call, limit).await
        }
        Route::DeleteManifest { reference, .. } => manifest::delete(&repo, &reference).await,
        _ => Err(OciError::new(Kind::Failed)),
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
        let Some(text) = self.headers.get(CONTENT_RANGE) else { return Ok(None) };
        let range = text.to_str().ok().and_then(range::chunk);
        let range =
            range.ok_or_else(|| OciError::new(Kind::UploadInvalid).because("Content-Range must be <first>-<last>"))?;
        match self.size() {
            Some(size) if size != range.end - range.start => {
                Err(OciError::new(Kind::SizeInvalid).because("Content-Range and Content-Length differ"))
            }
            _ => Ok(Some(range.start)),
        }
    }
}

impl Answer {
    /// The digest of the content, which is its entity tag as well.
    fn content(self, tag: &EntityTag) -> Answer {
        self.entity(tag, DOCKER_CONTENT_DIGEST)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

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
