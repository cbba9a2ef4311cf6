//! One object made of several, inside the bucket if possible.

use aws_sdk_s3::types::MetadataDirective;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::again::again;
use super::multipart::{PARTS_MAX, PartsUpload};
use super::{Error, Key, MARK, Meta, Result, S3Objects, When, client, error, mark};
use crate::digest::{Digest, Hasher};
use crate::objects::{Change, Objects};

/// Smallest part of a multipart upload, except for the last, in bytes.
const COPIED_PART_MIN: u64 = 5 << 20;
/// Largest copy of one call, in bytes.
const COPY_MAX: u64 = 5 << 30;
/// Concurrent HEAD requests for sources.
const HEADS_AT_ONCE: usize = 8;
/// Factor by which the time-out of a copy is shorter than that of an upload: bytes move faster inside S3 than to it.
const COPY_SPEED: u64 = 64;
/// Characters that are not escaped in a copy source.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

pub(super) async fn concat(objects: &S3Objects, from: &[Key], to: &Key, digest: &Digest) -> Result<Meta> {
    let heads = from.iter().map(|key| again(move || objects.head(key))).collect::<Vec<_>>();
    let mut sources: Vec<Meta> = stream::iter(heads).buffered(HEADS_AT_ONCE).try_collect().await?;
    sources.retain(|source| source.size > 0);
    let parts: u64 = sources.iter().map(|source| source.size.div_ceil(COPY_MAX)).sum();
    match &sources[..] {
        [] => again(|| objects.put(to, Bytes::new(), When::Always)).await,
        [only] if only.size <= COPY_MAX => told(objects, again(|| copy(objects, only, to)).await),
        [most @ .., _] if most.iter().all(|source| source.size >= COPIED_PART_MIN) && parts <= PARTS_MAX => {
            told(objects, assemble(objects, &sources, to).await)
        }
        _ => again(|| through(objects, &sources, to, digest)).await,
    }
}

/// Reports an object that was made inside the bucket to the watchers.
fn told(objects: &S3Objects, made: Result<Meta>) -> Result<Meta> {
    made.inspect(|meta| objects.inner.watchers.tell(&meta.key, Change::written(meta.size)))
}

fn source(objects: &S3Objects, key: &Key) -> String {
    let full = format!("{}/{}", objects.inner.bucket, objects.inner.full(key));
    utf8_percent_encode(&full, PLAIN).to_string()
}

async fn copy(objects: &S3Objects, from: &Meta, to: &Key) -> Result<Meta> {
    let (inner, mark) = (&*objects.inner, mark());
    let request = inner.client.copy_object().bucket(&inner.bucket).key(inner.full(to));
    let request = request.copy_source(source(objects, &from.key));
    let request = request.metadata_directive(MetadataDirective::Replace).metadata(MARK, &mark);
    let request = request.set_server_side_encryption(inner.encryption()).set_ssekms_key_id(inner.sse_kms_key.clone());
    let sent = request.customize().config_override(client::patience(from.size / COPY_SPEED)).send().await;
    let copied = sent.map_err(|error| error::from_sdk("copy to", to, error))?;
    inner.written(to, from.size, copied.copy_object_result.and_then(|copied| copied.e_tag), &mark)
}

/// Makes each source a part, or several if it is too large for one.
async fn assemble(objects: &S3Objects, sources: &[Meta], to: &Key) -> Result<Meta> {
    let mut upload = PartsUpload::begin(objects, to).await?;
    for from in sources {
        // Parts of about the same size: none may be below the smallest.
        let step = from.size.div_ceil(from.size.div_ceil(COPY_MAX));
        let mut start = 0;
        while start < from.size {
            let end = from.size.min(start + step);
            if let Err(error) = upload.copy(source(objects, &from.key), start..end).await {
                upload.abort().await;
                return Err(error);
            }
            start = end;
        }
    }
    upload.complete().await
}

/// Concatenates sources that are too small to be parts: their bytes pass through this process. Nothing else hashes them
/// before the blob is acknowledged, and the bucket's checksums do not cover all of them, so they are hashed here.
async fn through(objects: &S3Objects, sources: &[Meta], to: &Key, digest: &Digest) -> Result<Meta> {
    let size = sources.iter().map(|source| source.size).sum();
    let mut draft = objects.begin(to, Some(size)).await?;
    let mut hasher = Hasher::new(digest.algorithm());
    for from in sources {
        let (meta, mut bytes) = again(|| objects.get(&from.key, 0..u64::MAX)).await?;
        if meta.version != from.version {
            return Err(Error::Busy("object changed while it was copied".into()));
        }
        while let Some(piece) = bytes.try_next().await? {
            let passing = piece.clone();
            let hash = tokio::task::spawn_blocking(move || {
                hasher.update(&passing);
                hasher
            });
            let (hashed, written) = tokio::join!(hash, draft.write(vec![piece]));
            hasher = hashed.map_err(|error| Error::Backend(error.to_string().into()))?;
            written?;
        }
    }
    if hasher.finish() != *digest {
        return Err(Error::Busy(format!("bytes of {to} were damaged in transit").into()));
    }
    draft.commit().await
}
