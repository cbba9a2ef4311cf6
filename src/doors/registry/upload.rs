//! Uploads: begin, append, status, seal, cancel, and the forms without a session.

use axum::response::Response;
use http::header::{CONTENT_LENGTH, HeaderName, LOCATION, RANGE};
use http::{HeaderValue, StatusCode};

use crate::content::staging::{Chunk, Session};
use crate::digest::{Algorithm, Digest};
use crate::doors::kit::answer::{Answer, respond};
use crate::doors::registry::error::OciError;
use crate::doors::registry::{Call, DOCKER_CONTENT_DIGEST};
use crate::error;
use crate::refs::RepoWriter;

const DOCKER_UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// Begins a session without any I/O. An upload that could not be stored is refused here: a builder that has sent
/// nothing yet receives the reason.
pub async fn begin(repo: &RepoWriter, algorithm: Algorithm) -> Result<Response, OciError> {
    repo.blobs().expect_room().await?;
    Ok(progress(StatusCode::ACCEPTED, repo, &Session::begin(algorithm), 0).set_const(CONTENT_LENGTH, "0").done())
}

/// Stores a whole blob from the request that would otherwise begin a session.
pub async fn whole(repo: &RepoWriter, digest: Digest, call: Call) -> Result<Response, OciError> {
    let size = call.size();
    repo.blobs().put_blob(&digest, size, call.body).await?;
    Ok(created(repo, &digest))
}

/// Completes at once if the blob exists; otherwise begins an ordinary session.
pub async fn mount(repo: &RepoWriter, digest: Digest) -> Result<Response, OciError> {
    if repo.blobs().mount_blob(&digest).await?.is_some() {
        Ok(created(repo, &digest))
    } else {
        begin(repo, digest.algorithm()).await
    }
}

pub async fn append(repo: &RepoWriter, mut session: Session, call: Call) -> Result<Response, OciError> {
    let chunk = Chunk { at: call.chunk_start()?, size: call.size(), body: call.body };
    match repo.blobs().append(&session, chunk).await {
        Ok(offset) => {
            session.staged = offset > 0 || session.staged;
            Ok(progress(StatusCode::ACCEPTED, repo, &session, offset).set_const(CONTENT_LENGTH, "0").done())
        }
        Err(error) => Err(refused(repo, session, error)),
    }
}

pub async fn status(repo: &RepoWriter, mut session: Session) -> Result<Response, OciError> {
    let offset = repo.blobs().upload_offset(&session).await?;
    session.staged |= offset > 0;
    Ok(progress(StatusCode::NO_CONTENT, repo, &session, offset).done())
}

pub async fn seal(repo: &RepoWriter, session: Session, digest: Digest, call: Call) -> Result<Response, OciError> {
    let closing = Chunk { at: call.chunk_start()?, size: call.size(), body: call.body };
    match repo.blobs().seal(&session, &digest, closing).await {
        Ok(()) => Ok(created(repo, &digest)),
        Err(error) => Err(refused(repo, session, error)),
    }
}

pub async fn cancel(repo: &RepoWriter, session: Session) -> Result<Response, OciError> {
    repo.blobs().cancel(&session).await?;
    Ok(respond(StatusCode::NO_CONTENT).done())
}

fn created(repo: &RepoWriter, digest: &Digest) -> Response {
    respond(StatusCode::CREATED)
        .set(LOCATION, format!("/v2/{}/blobs/{digest}", repo.repo().name()))
        .set(DOCKER_CONTENT_DIGEST, digest.to_string())
        .set_const(CONTENT_LENGTH, "0")
        .done()
}

/// An answer with the URL at which to resume, and the bytes received so far.
fn progress(status: StatusCode, repo: &RepoWriter, session: &Session, offset: u64) -> Answer {
    respond(status)
        .set(LOCATION, location(repo, session))
        .set(RANGE, received(offset))
        .set(DOCKER_UPLOAD_UUID, session.id.to_string())
}

/// The URL of a session. It contains the whole state of the session, so any server can resume it.
fn location(repo: &RepoWriter, session: &Session) -> String {
    let mut query = Vec::new();
    if session.algorithm != Algorithm::Sha256 {
        query.push(format!("digest-algorithm={}", session.algorithm.as_str()));
    }
    if session.staged {
        query.push("staged=1".to_string());
    }
    let mark = if query.is_empty() { "" } else { "?" };
    format!("/v2/{}/blobs/uploads/{}{mark}{}", repo.repo().name(), session.id, query.join("&"))
}

/// The range of received bytes; `0-0` also before the first, since the header cannot express "none".
fn received(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

/// A refusal that tells the client where to resume.
fn refused(repo: &RepoWriter, mut session: Session, error: error::Error) -> OciError {
    let error::Error::OffsetMismatch { offset } = error else { return error.into() };
    session.staged |= offset > 0;
    let refusal = OciError::from(error);
    match (HeaderValue::try_from(location(repo, &session)), HeaderValue::try_from(received(offset))) {
        (Ok(location), Ok(range)) => refusal.with(LOCATION, location).with(RANGE, range),
        _ => refusal,
    }
}
