//! Blobs: `HEAD`, `GET` with ranges, `DELETE`.

use std::ops::Range;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::StatusCode;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, IF_NONE_MATCH, IF_RANGE,
    LOCATION, RANGE,
};

use crate::content::Reader;
use crate::content::read::{self, Blob};
use crate::digest::Digest;
use crate::doors::registry::error::OciError;
use crate::doors::registry::range::{Wanted, wanted};
use crate::doors::registry::{Answer, EntityTag, header, respond};
use crate::error;
use crate::lifetime::delete::Deletion;
use crate::refs::RepoEraser;

/// Blobs are served as bytes: a type that a browser would run must not be guessed from them.
const OCTETS: &str = "application/octet-stream";

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
    if let Some(address) = blobs.direct_blob(&blob).await? {
        // The client repeats its ranges there. The address is good for minutes, and not for anybody else to keep.
        return Ok(found(StatusCode::TEMPORARY_REDIRECT, &etag)
            .set(LOCATION, address)
            .set_const(CACHE_CONTROL, "no-store")
            .done());
    }
    let ranged = header(headers, IF_RANGE).is_none_or(|known| etag.is(Some(known)));
    match wanted(header(headers, RANGE).filter(|_| ranged), blob.size) {
        Wanted::Unsatisfiable => Err(OciError::range_not_satisfiable(blob.size)),
        Wanted::Whole => {
            let content = blobs.read_blob(&blob, 0..blob.size).await?;
            Ok(found(StatusCode::OK, &etag).octets(blob.size).body(body(content)))
        }
        Wanted::Parts(parts) => match &parts[..] {
            [only] => {
                let content = blobs.read_blob(&blob, only.clone()).await?;
                let answer = found(StatusCode::PARTIAL_CONTENT, &etag)
                    .octets(only.end - only.start)
                    .set(CONTENT_RANGE, content_range(only, blob.size));
                Ok(answer.body(body(content)))
            }
            _ => Ok(multipart(blobs.clone(), blob, &etag, parts)),
        },
    }
}

pub async fn delete(deletion: &Deletion, from: &RepoEraser, digest: &Digest) -> Result<Response, OciError> {
    deletion.delete_blob(from, digest).await?;
    Ok(respond(StatusCode::ACCEPTED).done())
}

fn found(status: StatusCode, etag: &EntityTag) -> Answer {
    respond(status).set_const(ACCEPT_RANGES, "bytes").content(etag)
}

impl Answer {
    fn octets(self, size: u64) -> Answer {
        self.set_const(CONTENT_TYPE, OCTETS).set(CONTENT_LENGTH, size)
    }
}

fn content_range(part: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", part.start, part.end - 1)
}

fn body(content: read::Body) -> Body {
    match content {
        read::Body::Whole(bytes) => Body::from(bytes),
        read::Body::Stream(bytes) => Body::from_stream(bytes),
    }
}

/// Several ranges in one answer (RFC 9110, section 14.6).
fn multipart(blobs: Reader, blob: Blob, etag: &EntityTag, parts: Vec<Range<u64>>) -> Response {
    let boundary = format!("larder{:032x}", rand::random::<u128>());
    let heads: Vec<(Bytes, Range<u64>)> = parts
        .into_iter()
        .map(|part| {
            let range = content_range(&part, blob.size);
            let head = format!("\r\n--{boundary}\r\nContent-Type: {OCTETS}\r\nContent-Range: {range}\r\n\r\n");
            (head.into(), part)
        })
        .collect();
    let tail: Bytes = format!("\r\n--{boundary}--\r\n").into();
    let length = heads.iter().map(|(head, part)| head.len() as u64 + part.end - part.start).sum::<u64>();
    let answer = found(StatusCode::PARTIAL_CONTENT, etag)
        .set(CONTENT_TYPE, format!("multipart/byteranges; boundary={boundary}"))
        .set(CONTENT_LENGTH, length + tail.len() as u64);
    let bytes = stream::iter(heads)
        .then(move |(head, part)| {
            let (blobs, blob) = (blobs.clone(), blob.clone());
            async move {
                let content = match blobs.read_blob(&blob, part).await {
                    Ok(read::Body::Whole(bytes)) => stream::once(async { Ok(bytes) }).boxed(),
                    Ok(read::Body::Stream(bytes)) => bytes,
                    Err(error) => return Err(std::io::Error::other(error)),
                };
                Ok(stream::once(async { Ok(head) }).chain(content.map_err(std::io::Error::other)))
            }
        })
        .try_flatten()
        .chain(stream::once(async { Ok(tail) }));
    answer.body(Body::from_stream(bytes))
}
