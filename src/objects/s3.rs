//! Objects in a bucket.
//!
//! A key is an S3 key behind the configured prefix. Small objects are written by one PUT, larger ones by a multipart
//! upload on their final key (`draft`): S3 shows an object whole or not at all, and acknowledges it when it is durable.
//!
//! S3 identifies a write by its ETag, and equal bytes have equal ETags. So each object is written with a random write
//! id in its metadata, a new one for each attempt of a PUT, and a [`Version`] has both: two writes never share one, and
//! after a lost answer the write id tells whether the write was done. An object that came into the bucket by other
//! means has no write id; its version is the ETag alone. Lists do not show metadata, so a listed version is the ETag
//! alone, too.
//!
//! The modification time is S3's. For a multipart upload that may be the time of its beginning.
//!
//! Invariant: types of the SDK stop here.

mod again;
mod client;
mod concat;
mod dated;
mod draft;
mod error;
mod list;
mod meter;
mod multipart;
mod pool;
mod probe;
mod stray;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::{ByteStream as SdkStream, DateTime};
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, ServerSideEncryption};
use bytes::Bytes;
use bytesize::ByteSize;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::{
    ByteStream, Change, Draft, Error, Fence, Held, Key, Meta, Objects, READ_BYTES_MAX, Read, Space, Traits, Unfinished,
    Version, Watcher, Watchers, When,
};
use crate::config::{Checksum, Redirect, S3Config};
use crate::digest::Digest;
use crate::metrics::Metrics;
use error::S3Error;
use pool::Pool;

pub use probe::OpenBucketError;

/// Result of a step of a call. The error is an [`S3Error`] where its code decides what is done next.
type Result<T, E = Error> = std::result::Result<T, E>;

/// Properties of a bucket.
pub const TRAITS: Traits = Traits { remote: true, shared: true, page_cached: false, may_flip_bits: true };
/// The log target of the SDK, which logs, in its own types, each place that has no credentials.
pub const SDK_LOG_TARGET: &str = "aws_config";
/// Larder's own prefix in the bucket, outside the key space: no key begins with a dot.
const PRIVATE: &str = ".larder/";
/// Delete requests in flight at the same time.
const DELETES_AT_ONCE: usize = 16;
/// Time for which a signed URL is valid: clients follow it at once.
const DIRECT_FOR: Duration = Duration::from_secs(300);
/// Name of the metadata that holds the write id, which tells two writes of the same bytes apart.
const MARK: &str = "larder-write";

/// The S3 backend. Cheap to clone.
#[derive(Clone)]
pub struct S3Objects {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    client: Client,
    bucket: String,
    /// Prefix of all keys: empty, or with a slash at its end.
    prefix: String,
    /// Smallest part of a multipart upload, in bytes.
    part_bytes: u64,
    /// Buffers of parts in flight.
    pool: Pool,
    checksum: Option<ChecksumAlgorithm>,
    sse_kms_key: Option<String>,
    /// Whether parts are sent without a hash in the signature: TLS and their checksum protect them.
    unsigned_payload: bool,
    /// Whether the endpoint refuses a conditional create when the object is there.
    conditional_create: bool,
    /// The kind of deletes that the endpoint refuses if they are dated long ago.
    refuses_late: Option<dated::RefusesLate>,
    /// Size in bytes from which clients may fetch an object directly.
    direct_min: Option<u64>,
    watchers: Arc<Watchers>,
}

impl S3Objects {
    /// Opens the store in a bucket, after it has proved that the bucket does all that Larder needs.
    pub async fn open(config: &S3Config) -> Result<S3Objects, OpenBucketError> {
        S3Objects::open_counted(config, config.upload_memory(ByteSize(u64::MAX)), Arc::default()).await
    }

    /// As [`S3Objects::open`], with counts of the requests to the bucket, and `upload_memory` bytes for parts in
    /// flight.
    pub async fn open_counted(
        config: &S3Config,
        upload_memory: u64,
        metrics: Arc<Metrics>,
    ) -> Result<S3Objects, OpenBucketError> {
        let client = client::connect(config, metrics).await?;
        let prefix = config.prefix.trim_end_matches('/');
        let mut inner = Inner {
            client,
            bucket: config.bucket.clone(),
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            part_bytes: config.part_size.as_u64(),
            pool: Pool::new(upload_memory, config.part_size.as_u64()),
            checksum: (config.checksum == Checksum::Crc32c).then_some(ChecksumAlgorithm::Crc32C),
            sse_kms_key: config.sse_kms_key.clone(),
            unsigned_payload: config.checksum == Checksum::Crc32c
                && config.endpoint.as_ref().is_none_or(|endpoint| endpoint.starts_with("https:")),
            conditional_create: true,
            refuses_late: None,
            direct_min: (config.redirect == Redirect::ColdLarge).then(|| config.redirect_min.as_u64()),
            watchers: Arc::default(),
        };
        let probing = S3Objects { inner: Arc::new(inner.clone()) };
        inner.conditional_create = probe::bucket(&probing, config).await?;
        if inner.conditional_create {
            inner.refuses_late = dated::refuses_late(&probing).await;
        }
        Ok(S3Objects { inner: Arc::new(inner) })
    }
}

/// Returns a new write id.
fn mark() -> String {
    format!("{:016x}", rand::random::<u64>())
}

fn version(etag: Option<String>, mark: Option<&str>) -> Result<Version> {
    let mut text = etag.ok_or_else(|| Error::Backend("endpoint sends no ETag".into()))?;
    if let Some(mark) = mark {
        text.push(' ');
        text.push_str(mark);
    }
    Ok(Version(text.into()))
}

fn etag(version: &Version) -> &str {
    version.0.split_once(' ').map_or(&version.0, |(etag, _)| etag)
}

fn time(at: Option<DateTime>) -> SystemTime {
    at.and_then(|at| SystemTime::try_from(at).ok()).unwrap_or(SystemTime::UNIX_EPOCH)
}

impl Inner {
    fn full(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    fn encryption(&self) -> Option<ServerSideEncryption> {
        self.sse_kms_key.as_ref().map(|_| ServerSideEncryption::AwsKms)
    }

    /// Metadata of an object that has just been written with the write id `mark`. The bucket does not return the time:
    /// its clock and this host's are taken for the same here, and only here.
    fn written(&self, key: &Key, size: u64, etag: Option<String>, mark: &str) -> Result<Meta> {
        let version = version(etag, Some(mark))?;
        Ok(Meta { key: key.clone(), size, modified: SystemTime::now(), version })
    }

    /// Finds out whether a write with the write id `mark` was done: returns its object if it exists, otherwise `error`.
    async fn settle(&self, key: &Key, mark: &str, error: Error) -> Result<Meta> {
        let found = self.head(key).await?;
        if found.version.0.contains(mark) { Ok(found) } else { Err(error) }
    }

    async fn head(&self, key: &Key) -> Result<Meta> {
        let sent = self.client.head_object().bucket(&self.bucket).key(self.full(key)).send().await;
        let found = sent.map_err(|error| error::from_sdk("HEAD", key, error))?;
        let mark = found.metadata.as_ref().and_then(|metadata| metadata.get(MARK));
        Ok(Meta {
            key: key.clone(),
            size: size(found.content_length)?,
            modified: time(found.last_modified),
            version: version(found.e_tag, mark.map(String::as_str))?,
        })
    }

    async fn put(&self, key: &Key, body: Bytes, when: When) -> Result<Meta, S3Error> {
        if when == When::Absent && !self.conditional_create {
            // The best that such an endpoint allows: two at once may both find nothing.
            match self.head(key).await {
                Ok(_) => return Err(Error::Exists.into()),
                Err(Error::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let (mark, bytes) = (mark(), body.len() as u64);
        let request = self.client.put_object().bucket(&self.bucket).key(self.full(key)).metadata(MARK, &mark);
        let request = request.set_checksum_algorithm(self.checksum.clone());
        let request = request.set_server_side_encryption(self.encryption());
        let request = request.set_ssekms_key_id(self.sse_kms_key.clone());
        let request = request.set_if_none_match((when == When::Absent).then(|| "*".to_string()));
        let patience = client::patience(bytes);
        let patience = if when == When::Once { client::once(patience) } else { patience };
        let mut request = request.body(body.into()).customize().config_override(patience);
        if self.unsigned_payload {
            request = request.disable_payload_signing();
        }
        match request.send().await.map_err(|error| error::from_sdk("PUT", key, error)) {
            Ok(written) => Ok(self.written(key, bytes, written.e_tag, &mark)?),
            // The object may be of an earlier attempt of this call, whose answer was lost.
            Err(S3Error { meaning: Error::Exists, .. }) => match self.settle(key, &mark, Error::Exists).await {
                // Refused because of a delete at the same moment.
                Err(Error::NotFound) => Err(Error::Busy("object was replaced repeatedly".into()).into()),
                settled => Ok(settled?),
            },
            Err(error) => Err(error),
        }
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let sent = self.client.delete_object().bucket(&self.bucket).key(self.full(key)).send().await;
        match sent.map_err(|error| error::from_sdk("DELETE", key, error).meaning) {
            // S3 does not report a missing key; other endpoints do.
            Ok(_) | Err(Error::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Metadata and length in bytes of an answered GET.
    fn opened(&self, key: &Key, range: &Range<u64>, found: &GetObjectOutput) -> Result<(Meta, u64)> {
        let length = size(found.content_length)?;
        let total = match &found.content_range {
            // `bytes 0-99/1234`
            Some(text) => text.rsplit('/').next().and_then(|total| total.parse().ok()),
            // The whole object: either no range was requested, or the endpoint does not support ranges.
            None => Some(length),
        };
        let total = total.ok_or_else(|| Error::Backend("endpoint's Content-Range cannot be read".into()))?;
        if length != range.end.min(total).saturating_sub(range.start) {
            return Err(Error::Backend(format!("GET {key}: {length} bytes are not the requested range").into()));
        }
        let mark = found.metadata.as_ref().and_then(|metadata| metadata.get(MARK));
        let version = version(found.e_tag.clone(), mark.map(String::as_str))?;
        let meta = Meta { key: key.clone(), size: total, modified: time(found.last_modified), version };
        Ok((meta, length))
    }
}

/// A length as the SDK returns it, in bytes.
fn size(length: Option<i64>) -> Result<u64> {
    let length = length.and_then(|length| u64::try_from(length).ok());
    length.ok_or_else(|| Error::Backend("endpoint sends no size".into()))
}

/// Status of a GET whose known version is still the newest.
const NOT_MODIFIED: u16 = 304;
const RANGE_NOT_SATISFIABLE: u16 = 416;

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// The first `length` bytes of a body, in the pieces in which they arrive.
fn pieces(body: SdkStream, length: u64) -> ByteStream {
    let cut = |reason: String| Error::Busy(format!("body was cut short: {reason}").into());
    let pieces = stream::try_unfold((body, length), move |(mut body, left)| async move {
        match body.try_next().await {
            Ok(Some(piece)) => match left.checked_sub(piece.len() as u64) {
                Some(left) => Ok(Some((piece, (body, left)))),
                None => Err(Error::Backend("body is longer than announced".into())),
            },
            Ok(None) if left == 0 => Ok(None),
            Ok(None) => Err(cut(format!("{left} bytes are missing"))),
            Err(error) => Err(cut(error::causes(&error))),
        }
    });
    pieces.boxed()
}

#[async_trait]
impl Objects for S3Objects {
    async fn head(&self, key: &Key) -> Result<Meta> {
        self.inner.head(key).await
    }

    async fn read(&self, key: &Key, known: Option<&Version>) -> Result<Read> {
        let inner = &*self.inner;
        let request = inner.client.get_object().bucket(&inner.bucket).key(inner.full(key));
        let request = request.set_if_none_match(known.map(|known| etag(known).to_string()));
        // Pointers have no digest that would reveal a flipped bit.
        let request = request.set_checksum_mode(inner.checksum.as_ref().map(|_| ChecksumMode::Enabled));
        let found = match request.send().await {
            Ok(found) => found,
            Err(error) if known.is_some() && status(&error) == Some(NOT_MODIFIED) => return Ok(Read::Same),
            Err(error) => return Err(error::from_sdk("GET", key, error).meaning),
        };
        let (meta, length) = inner.opened(key, &(0..u64::MAX), &found)?;
        // An endpoint without conditional GET sends the object again.
        if known == Some(&meta.version) {
            return Ok(Read::Same);
        }
        if length > READ_BYTES_MAX {
            return Err(Error::Backend(format!("{key} has {length} bytes, too many to read whole").into()));
        }
        let mut pieces = pieces(found.body, length);
        let mut bytes = Vec::with_capacity(length as usize);
        while let Some(piece) = pieces.try_next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(Read::Fresh(meta, bytes.into()))
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<(Meta, ByteStream)> {
        let inner = &*self.inner;
        if range.is_empty() {
            return Ok((inner.head(key).await?, stream::empty().boxed()));
        }
        let wanted = match (range.start, range.end) {
            (0, u64::MAX) => None,
            (start, u64::MAX) => Some(format!("bytes={start}-")),
            (start, end) => Some(format!("bytes={start}-{}", end - 1)),
        };
        let request = inner.client.get_object().bucket(&inner.bucket).key(inner.full(key)).set_range(wanted);
        match request.send().await {
            Ok(found) => {
                let (meta, length) = inner.opened(key, &range, &found)?;
                Ok((meta, pieces(found.body, length)))
            }
            // The range begins at or after the end, or the object is empty.
            Err(error) if status(&error) == Some(RANGE_NOT_SATISFIABLE) => {
                Ok((inner.head(key).await?, stream::empty().boxed()))
            }
            Err(error) => Err(error::from_sdk("GET", key, error).meaning),
        }
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> BoxStream<'static, Result<Meta>> {
        // Larder's own objects sort among the keys: they are left out wherever the list begins.
        let listed = list::list(self.clone(), prefix, after);
        listed.try_filter(|meta| std::future::ready(!meta.key.as_str().starts_with(PRIVATE))).boxed()
    }

    async fn put(&self, key: &Key, body: Bytes, when: When) -> Result<Meta> {
        let written = self.inner.put(key, body, when).await?;
        let before = if when == When::Absent { Held::Nothing } else { Held::Unknown };
        self.inner.watchers.tell(key, Change { before, after: Held::Bytes(written.size) });
        Ok(written)
    }

    async fn begin(&self, key: &Key, size: Option<u64>) -> Result<Box<dyn Draft>> {
        Ok(Box::new(draft::S3Draft::new(self.clone(), key.clone(), size)?))
    }

    async fn concat(&self, from: &[Key], to: &Key, digest: &Digest) -> Result<Meta> {
        concat::concat(self, from, to, digest).await
    }

    /// One call for each key: not every endpoint can delete several at once, and S3 does not charge for deletes.
    async fn delete(&self, keys: &[Key]) -> Result<()> {
        let Some((first, rest)) = keys.split_first() else { return Ok(()) };
        self.inner.delete(first).await?;
        let deletes = rest.iter().map(|key| self.inner.delete(key)).collect::<Vec<_>>();
        stream::iter(deletes).buffer_unordered(DELETES_AT_ONCE).try_collect().await
    }

    async fn delete_dated(&self, keys: &[Key], at: SystemTime) -> Result<()> {
        dated::delete(self, keys, at).await
    }

    fn fence(&self) -> Option<Fence> {
        self.inner.refuses_late.map(|_| Fence { age_max: dated::AGE_MAX, dies_with_process: false })
    }

    async fn probe(&self) -> Result<()> {
        self.inner.put(&probe::key(), "probe".into(), When::Always).await?;
        Ok(())
    }

    fn space(&self) -> Option<Space> {
        None
    }

    /// Watchers are told of writes only: a bucket does not say what a delete removed.
    fn watch(&self, watcher: Watcher) {
        self.inner.watchers.add(watcher);
    }

    async fn unfinished(&self) -> Result<Vec<Unfinished>> {
        stray::unfinished(self).await
    }

    fn traits(&self) -> Traits {
        TRAITS
    }

    async fn sweep_drafts(&self, before: SystemTime) -> Result<usize> {
        stray::sweep(self, before).await
    }

    async fn direct(&self, meta: &Meta) -> Result<Option<String>> {
        let inner = &*self.inner;
        if inner.direct_min.is_none_or(|min| meta.size < min) {
            return Ok(None);
        }
        let failed = |error: &dyn std::fmt::Display| Error::Backend(format!("cannot sign an address: {error}").into());
        let life = PresigningConfig::expires_in(DIRECT_FOR).map_err(|error| failed(&error))?;
        let request = inner.client.get_object().bucket(&inner.bucket).key(inner.full(&meta.key));
        let signed = request.presigned(life).await.map_err(|error| failed(&error))?;
        Ok(Some(signed.uri().to_string()))
    }
}
