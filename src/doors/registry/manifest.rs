//! Manifests: `GET`, `HEAD`, `PUT`, `DELETE`.

use axum::response::Response;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, IF_NONE_MATCH, LOCATION};

use crate::cache::{Caches, ManifestPush};
use crate::doors::kit::answer::{header, respond};
use crate::doors::kit::body::Collecting;
use crate::doors::kit::etag::EntityTag;
use crate::doors::registry::error::OciError;
use crate::doors::registry::{Call, DOCKER_CONTENT_DIGEST};
use crate::events::BuildCaller;
use crate::lifetime::delete::Deletion;
use crate::names::{Reference, Tag};
use crate::refs::{Repo, RepoEraser, RepoWriter};

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");

/// Answers `GET` and `HEAD`: the front removes the body from an answer to the latter.
pub async fn read(
    caches: &Caches,
    repo: &Repo,
    reference: &Reference,
    headers: &HeaderMap,
) -> Result<Response, OciError> {
    let manifest = match reference {
        Reference::Tag(tag) => caches.serve(repo, tag).await?,
        Reference::Digest(digest) => caches.serve_by_digest(repo, digest).await?,
    };
    let etag = EntityTag::of(&manifest.digest);
    let unchanged = etag.is(header(headers, IF_NONE_MATCH));
    let status = if unchanged { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let answer = respond(status).content(&etag);
    if unchanged {
        return Ok(answer.done());
    }
    let answer = answer.set(CONTENT_TYPE, manifest.media_type).set(CONTENT_LENGTH, manifest.bytes.len());
    Ok(answer.body(manifest.bytes))
}

pub async fn put(
    (collecting, caches): (&Collecting, &Caches),
    (to, by): (&RepoWriter, BuildCaller),
    reference: Reference,
    mut tags: Vec<Tag>,
    call: Call,
    limit: usize,
) -> Result<Response, OciError> {
    let digest = match reference {
        Reference::Digest(digest) => Some(digest),
        Reference::Tag(tag) => {
            tags.push(tag);
            None
        }
    };
    let content_type = header(&call.headers, CONTENT_TYPE).map(|text| essence(text).to_string());
    let (size, deadline) = (call.size(), to.repo().deadline());
    let body = collecting.collect(to.repo().tenant(), size, call.body, limit, deadline).await?;
    // The deadline starts again: the body has arrived, however slowly.
    let to = to.until(to.repo().deadline().restarted());
    let push =
        ManifestPush { digest, tags: &tags, content_type: content_type.as_deref(), bytes: body.bytes.clone(), by };
    let pushed = caches.push(&to, push).await?;
    let mut answer = respond(StatusCode::CREATED)
        .set(LOCATION, format!("/v2/{}/manifests/{}", to.repo().name(), pushed.digest))
        .set(DOCKER_CONTENT_DIGEST, pushed.digest.to_string())
        .set_const(CONTENT_LENGTH, "0");
    if let Some(subject) = pushed.subject {
        answer = answer.set(OCI_SUBJECT, subject.to_string());
    }
    if digest.is_some() {
        for tag in &tags {
            answer = answer.set(OCI_TAG, tag.to_string());
        }
    }
    Ok(answer.done())
}

pub async fn delete(deletion: &Deletion, from: &RepoEraser, reference: &Reference) -> Result<Response, OciError> {
    match reference {
        Reference::Tag(tag) => from.delete_tag(tag).await?,
        Reference::Digest(digest) => deletion.delete_manifest(from, digest).await?,
    }
    Ok(respond(StatusCode::ACCEPTED).done())
}

/// A media type without its parameters.
fn essence(text: &str) -> &str {
    text.split(';').next().unwrap_or_default().trim()
}
