//! Multipart uploads: parts are uploaded concurrently, and the object appears when the upload is completed.

use std::ops::Range;

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use tokio::task::JoinSet;

use super::again::{Again, again};
use super::error::{self, PassingError, S3Error};
use super::meter::SentCount;
use super::pool::PooledPart;
use super::{Error, Key, MARK, Meta, Result, S3Objects, client, mark};

/// Maximum number of parts of one upload, by S3's rules.
pub(super) const PARTS_MAX: u64 = 10_000;
/// Parts of one upload that are in flight at the same time.
const PARTS_AT_ONCE: usize = 4;
/// Bytes whose transfer would have the time-out of a completion: S3 may take that long to put an object together.
const COMPLETING_BYTES: u64 = 60 << 20;

/// An upload that has begun. Dropped before it is completed, it is aborted: S3 keeps and bills its parts otherwise.
pub(super) struct PartsUpload {
    objects: S3Objects,
    key: Key,
    id: String,
    mark: String,
    going: JoinSet<Result<CompletedPart, S3Error>>,
    done: Vec<CompletedPart>,
    parts: u64,
    bytes: u64,
    open: bool,
}

impl PartsUpload {
    pub(super) async fn begin(objects: &S3Objects, key: &Key) -> Result<PartsUpload> {
        let (inner, mark) = (&*objects.inner, mark());
        let begin = || async {
            let request = inner.client.create_multipart_upload().bucket(&inner.bucket).key(inner.full(key));
            let request = request.metadata(MARK, &mark).set_ssekms_key_id(inner.sse_kms_key.clone());
            let request = request.set_server_side_encryption(inner.encryption());
            let sent = request.set_checksum_algorithm(inner.checksum.clone()).send().await;
            sent.map_err(|error| error::from_sdk("begin upload of", key, error))
        };
        let begun = again(begin).await?;
        let id = begun.upload_id.ok_or_else(|| Error::Backend("endpoint sends no upload id".into()))?;
        let (going, done) = (JoinSet::new(), Vec::new());
        let objects = objects.clone();
        Ok(PartsUpload { objects, key: key.clone(), id, mark, going, done, parts: 0, bytes: 0, open: true })
    }

    /// Number of parts.
    pub(super) fn parts(&self) -> u64 {
        self.parts
    }

    /// Bytes that were given to the upload.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sends the next part, as soon as fewer than [`PARTS_AT_ONCE`] are in flight.
    pub(super) async fn send(&mut self, part: PooledPart) -> Result<()> {
        let (number, bytes) = (self.next_number()?, part.bytes().len() as u64);
        self.make_room().await?;
        let (objects, key, id) = (self.objects.clone(), self.key.clone(), self.id.clone());
        self.going.spawn(async move { again(|| send(&objects, (&key, &id, number), part.bytes().clone())).await });
        self.bytes += bytes;
        Ok(())
    }

    /// Copies bytes of another object as the next part. `source` is an S3 copy source.
    pub(super) async fn copy(&mut self, source: String, range: Range<u64>) -> Result<()> {
        let (number, bytes) = (self.next_number()?, range.end - range.start);
        self.make_room().await?;
        let (objects, key, id) = (self.objects.clone(), self.key.clone(), self.id.clone());
        self.going.spawn(async move { again(|| copy(&objects, (&key, &id, number), &source, &range)).await });
        self.bytes += bytes;
        Ok(())
    }

    fn next_number(&mut self) -> Result<i32> {
        self.parts += 1;
        let number = if self.parts > PARTS_MAX { None } else { i32::try_from(self.parts).ok() };
        number.ok_or_else(|| Error::Backend(format!("{} needs more than {PARTS_MAX} parts", self.key).into()))
    }

    async fn make_room(&mut self) -> Result<()> {
        while self.going.len() >= PARTS_AT_ONCE {
            self.join().await?;
        }
        Ok(())
    }

    async fn join(&mut self) -> Result<()> {
        match self.going.join_next().await {
            Some(Ok(part)) => self.done.push(part?),
            Some(Err(error)) => return Err(Error::Backend(error.to_string().into())),
            None => {}
        }
        Ok(())
    }

    /// Completes the upload: the object appears.
    pub(super) async fn complete(mut self) -> Result<Meta> {
        while !self.going.is_empty() {
            if let Err(error) = self.join().await {
                self.abort().await;
                return Err(error);
            }
        }
        if self.done.len() as u64 != self.parts {
            // S3 would leave out a part that failed before, and report no error.
            self.abort().await;
            return Err(Error::Backend("parts of an upload are missing".into()));
        }
        self.done.sort_by_key(|part| part.part_number);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(std::mem::take(&mut self.done))).build();
        let (mut again, sent) = (Again::begin(), SentCount::default());
        loop {
            let error = match self.complete_with(parts.clone(), &sent).await {
                Ok(meta) if sent.get() == 1 => {
                    self.open = false;
                    return Ok(meta);
                }
                Ok(_) => unconfirmed(&self.key).into(),
                Err(error) => error,
            };
            if let Ok(meta) = self.settle(&error).await {
                self.open = false;
                return Ok(meta);
            }
            if !error.passes() || !again.wait().await {
                self.abort().await;
                return Err(error.meaning);
            }
        }
    }

    async fn complete_with(&self, parts: CompletedMultipartUpload, count: &SentCount) -> Result<Meta, S3Error> {
        let inner = &*self.objects.inner;
        let request = inner.client.complete_multipart_upload().bucket(&inner.bucket).key(inner.full(&self.key));
        let request = request.upload_id(&self.id).multipart_upload(parts).customize();
        let request = request.config_override(client::patience(COMPLETING_BYTES)).interceptor(count.clone());
        let sent = request.send().await;
        let written = sent.map_err(|error| error::from_sdk("complete upload of", &self.key, error))?;
        Ok(inner.written(&self.key, self.bytes, written.e_tag, &self.mark)?)
    }

    /// Finds out whether the completion was done. The answer to an attempt may have been lost, and the next one finds
    /// no upload, or is told that all is done while the first attempt still runs (versitygw): then only the object
    /// itself tells.
    async fn settle(&self, error: &S3Error) -> Result<Meta> {
        let settle = || self.objects.inner.settle(&self.key, &self.mark, error.meaning.clone());
        if error.is_gone() { again(settle).await } else { settle().await }
    }

    /// As [`PartsUpload::abort`], with an error if it fails.
    pub(super) async fn undo(mut self) -> Result<()> {
        self.open = false;
        self.going.shutdown().await;
        abort(&self.objects, &self.key, &self.id).await
    }

    /// Aborts the upload and its parts.
    pub(super) async fn abort(mut self) {
        self.open = false;
        let going = std::mem::take(&mut self.going);
        give_up(self.objects.clone(), self.key.clone(), std::mem::take(&mut self.id), going).await;
    }
}

impl Drop for PartsUpload {
    fn drop(&mut self) {
        // Without a runtime the process is at its end; the bucket's lifecycle rule removes the parts.
        if let (true, Ok(runtime)) = (self.open, tokio::runtime::Handle::try_current()) {
            let going = std::mem::take(&mut self.going);
            runtime.spawn(give_up(self.objects.clone(), self.key.clone(), std::mem::take(&mut self.id), going));
        }
    }
}

/// The error when an endpoint says that an object is put together, and the object is missing.
fn unconfirmed(key: &Key) -> Error {
    Error::Busy(format!("{key} is said to be complete, and is not there yet").into())
}

/// The upload to which a call belongs: its key and id, and the number of the part.
type PartAddress<'a> = (&'a Key, &'a str, i32);

async fn send(objects: &S3Objects, (key, id, number): PartAddress<'_>, body: Bytes) -> Result<CompletedPart, S3Error> {
    let (inner, bytes) = (&*objects.inner, body.len() as u64);
    let request = inner.client.upload_part().bucket(&inner.bucket).key(inner.full(key)).upload_id(id);
    let request = request.part_number(number).set_checksum_algorithm(inner.checksum.clone());
    let mut request = request.body(body.into()).customize().config_override(client::patience(bytes));
    if inner.unsigned_payload {
        request = request.disable_payload_signing();
    }
    let sent = request.send().await.map_err(|error| error::from_sdk("send part of", key, error))?;
    let part = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag);
    Ok(part.set_checksum_crc32_c(sent.checksum_crc32_c).build())
}

async fn copy(
    objects: &S3Objects,
    (key, id, number): PartAddress<'_>,
    source: &str,
    range: &Range<u64>,
) -> Result<CompletedPart, S3Error> {
    let inner = &*objects.inner;
    let request = inner.client.upload_part_copy().bucket(&inner.bucket).key(inner.full(key));
    let request = request.upload_id(id).part_number(number).copy_source(source);
    let request = request.copy_source_range(format!("bytes={}-{}", range.start, range.end - 1));
    let request = request.customize().config_override(client::patience(range.end - range.start));
    let copied = request.send().await.map_err(|error| error::from_sdk("copy part of", key, error))?;
    let copied = copied.copy_part_result.ok_or_else(|| Error::Backend("endpoint sends no ETag".into()))?;
    let part = CompletedPart::builder().part_number(number).set_e_tag(copied.e_tag);
    Ok(part.set_checksum_crc32_c(copied.checksum_crc32_c).build())
}

async fn give_up(objects: S3Objects, key: Key, id: String, mut going: JoinSet<Result<CompletedPart, S3Error>>) {
    // A part that arrives after the abort would stay.
    going.shutdown().await;
    if let Err(error) = abort(&objects, &key, &id).await {
        tracing::warn!(%error, "parts of an upload stay in the bucket until its lifecycle rule removes them");
    }
}

async fn abort(objects: &S3Objects, key: &Key, id: &str) -> Result<()> {
    let inner = &*objects.inner;
    let call = || async {
        let request = inner.client.abort_multipart_upload().bucket(&inner.bucket).key(inner.full(key)).upload_id(id);
        request.send().await.map(drop).map_err(|error| error::from_sdk("abort upload of", key, error))
    };
    Ok(again(call).await?)
}
