//! Blobs: `HEAD`, `GET` with ranges, `DELETE`.

use axum::response::Response;
use http::StatusCode;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_RANGE, HeaderMap, IF_NONE_MATCH, IF_RANGE, LOCATION, RANGE,
    X_CONTENT_TYPE_OPTIONS,
};

use crate::content::Reader;
use crate::digest::Digest;
use crate::doors::kit::answer::{Answer, header, respond};
use crate::doors::kit::body::outgoing;
use crate::doors::kit::etag::EntityTag;
use crate::doors::kit::range::{WantedRange, content_range, multipart, wanted};
use crate::doors::registry::error::OciError;
use crate::error;
use crate::lifetime::delete::Deletion;
use crate::refs::RepoEraser;

pub async fn head(blobs: &Reader, digest: &Digest) -> Result<Response, OciError> {
    match blobs.stat_blob(digest).await? {
        Some(vouched) => Ok(found(StatusCode::OK, &EntityTag::of(digest)).octets(vouched.size()).done()),
        None => Err(error::Error::BlobUnknown(*digest).into()),
    }
}

pub async fn get(blobs: &Reader, digest: &Digest, headers: &HeaderMap) -> Result<Response, OciError> {
    let etag = EntityTag::of(digest);
    if etag.is(header(headers, IF_NONE_MATCH)) {
        return Ok(found(StatusCode::NOT_MODIFIED, &etag).done());
    }
    let blob = blobs.open_blob(digest).await?;
    let ranged = header(headers, IF_RANGE).is_none_or(|known| etag.is(Some(known)));
    let wanted = wanted(header(headers, RANGE).filter(|_| ranged), blob.size);
    // S3 answers a request for several ranges with the whole object.
    let is_direct = !matches!(&wanted, WantedRange::Parts(parts) if parts.len() > 1);
    if is_direct && let Some(address) = blobs.direct_blob(&blob).await? {
        // The client repeats its range at that address, which is good for minutes, and for this client only.
        return Ok(found(StatusCode::TEMPORARY_REDIRECT, &etag)
            .set(LOCATION, address)
            .set_const(CACHE_CONTROL, "no-store")
            .done());
    }
    match wanted {
        WantedRange::Unsatisfiable => Err(OciError::range_not_satisfiable(blob.size)),
        WantedRange::Whole => {
            let content = blobs.read_blob(&blob, 0..blob.size).await?;
            Ok(found(StatusCode::OK, &etag).octets(blob.size).body(outgoing(content)))
        }
        WantedRange::Parts(parts) => match &parts[..] {
            [only] => {
                let content = blobs.read_blob(&blob, only.clone()).await?;
                let answer = found(StatusCode::PARTIAL_CONTENT, &etag)
                    .octets(only.end - only.start)
                    .set(CONTENT_RANGE, content_range(only, blob.size));
                Ok(answer.body(outgoing(content)))
            }
            _ => {
                let (blobs, size) = (blobs.clone(), blob.size);
                let read = move |part| {
                    let (blobs, blob) = (blobs.clone(), blob.clone());
                    async move { blobs.read_blob(&blob, part).await }
                };
                Ok(multipart(found(StatusCode::PARTIAL_CONTENT, &etag), size, parts, read))
            }
        },
    }
}

pub async fn delete(deletion: &Deletion, from: &RepoEraser, digest: &Digest) -> Result<Response, OciError> {
    deletion.delete_blob(from, digest).await?;
    Ok(respond(StatusCode::ACCEPTED).done())
}

fn found(status: StatusCode, etag: &EntityTag) -> Answer {
    // A blob may be a page with a script: a browser must not guess the type from its bytes.
    let answer = respond(status).set_const(ACCEPT_RANGES, "bytes").set_const(X_CONTENT_TYPE_OPTIONS, "nosniff");
    answer.content(etag)
}
