//! Multipart uploads: parts go up side by side, and the object appears when they are completed.

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

use super::{Error, Key, MARK, Meta, Result, S3Objects, client, error, mark};

/// Parts of one upload, by S3's rules.
pub(super) const PARTS_MAX: u64 = 10_000;
/// Parts of one upload that are on their way at the same time.
const PARTS_AT_ONCE: usize = 4;
/// S3 may take this long to put an object together: as if so many bytes were moved.
const COMPLETING_BYTES: u64 = 60 << 20;

/// An upload that has begun. Dropped before it is completed, it is aborted: S3 keeps and bills its parts otherwise.
pub(super) struct Upload {
    objects: S3Objects,
    key: Key,
    id: String,
    mark: String,
    going: JoinSet<Result<CompletedPart>>,
    done: Vec<CompletedPart>,
    parts: u64,
    bytes: u64,
    open: bool,
}

impl Upload {
    pub(super) async fn begin(objects: &S3Objects, key: &Key) -> Result<Upload> {
        let (inner, mark) = (&*objects.inner, mark());
        let request = inner.client.create_multipart_upload().bucket(&inner.bucket).key(inner.full(key));
        let request = request.metadata(MARK, &mark).set_ssekms_key_id(inner.sse_kms_key.clone());
        let request = request.set_server_side_encryption(inner.encryption());
        let sent = request.set_checksum_algorithm(inner.checksum.clone()).send().await;
        let begun = sent.map_err(|error| error::from_sdk("begin upload of", key, error))?;
        let id = begun.upload_id.ok_or_else(|| Error::Backend("endpoint names no upload".into()))?;
        let (going, done) = (JoinSet::new(), Vec::new());
        let objects = objects.clone();
        Ok(Upload { objects, key: key.clone(), id, mark, going, done, parts: 0, bytes: 0, open: true })
    }

    /// How many parts there are.
    pub(super) fn parts(&self) -> u64 {
        self.parts
    }

    /// How many bytes have been given to it.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sends a part behind those before, as soon as less than [`PARTS_AT_ONCE`] are on their way. `held` is given back
    /// when it has arrived.
    pub(super) async fn send(&mut self, body: Bytes, held: OwnedSemaphorePermit) -> Result<()> {
        let (number, bytes) = (self.next_number()?, body.len() as u64);
        self.make_room().await?;
        let inner = self.objects.inner.clone();
        let request = inner.client.upload_part().bucket(&inner.bucket).key(inner.full(&self.key)).upload_id(&self.id);
        let request = request.part_number(number).set_checksum_algorithm(inner.checksum.clone());
        let mut request = request.body(body.into()).customize().config_override(client::patience(bytes));
        if inner.unsigned_payload {
            request = request.disable_payload_signing();
        }
        let key = self.key.clone();
        self.going.spawn(async move {
            let sent = request.send().await.map_err(|error| error::from_sdk("send part of", &key, error));
            drop(held);
            let sent = sent?;
            let part = CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag);
            Ok(part.set_checksum_crc32_c(sent.checksum_crc32_c).build())
        });
        self.bytes += bytes;
        Ok(())
    }

    /// Copies bytes of another object as a part behind those before. `source` is what S3 calls a copy source.
    pub(super) async fn copy(&mut self, source: String, range: std::ops::Range<u64>) -> Result<()> {
        let (number, bytes) = (self.next_number()?, range.end - range.start);
        self.make_room().await?;
        let inner = self.objects.inner.clone();
        let request = inner.client.upload_part_copy().bucket(&inner.bucket).key(inner.full(&self.key));
        let request = request.upload_id(&self.id).part_number(number).copy_source(source);
        let request = request.copy_source_range(format!("bytes={}-{}", range.start, range.end - 1));
        let request = request.customize().config_override(client::patience(bytes));
        let key = self.key.clone();
        self.going.spawn(async move {
            let copied = request.send().await.map_err(|error| error::from_sdk("copy part of", &key, error))?;
            let copied = copied.copy_part_result.ok_or_else(|| Error::Backend("endpoint tells no ETag".into()))?;
            let part = CompletedPart::builder().part_number(number).set_e_tag(copied.e_tag);
            Ok(part.set_checksum_crc32_c(copied.checksum_crc32_c).build())
        });
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

    /// Waits for one part.
    async fn join(&mut self) -> Result<()> {
        match self.going.join_next().await {
            Some(Ok(part)) => self.done.push(part?),
            Some(Err(error)) => return Err(Error::Backend(error.to_string().into())),
            None => {}
        }
        Ok(())
    }

    /// Puts the object together out of its parts.
    pub(super) async fn complete(mut self) -> Result<Meta> {
        while !self.going.is_empty() {
            if let Err(error) = self.join().await {
                self.abort().await;
                return Err(error);
            }
        }
        if self.done.len() as u64 != self.parts {
            // S3 would leave out a part that failed before, and say nothing.
            self.abort().await;
            return Err(Error::Backend("parts of an upload are missing".into()));
        }
        self.done.sort_by_key(|part| part.part_number);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(std::mem::take(&mut self.done))).build();
        let objects = self.objects.clone();
        let inner = &*objects.inner;
        let request = inner.client.complete_multipart_upload().bucket(&inner.bucket).key(inner.full(&self.key));
        let request = request.upload_id(&self.id).multipart_upload(parts).customize();
        let sent = request.config_override(client::patience(COMPLETING_BYTES)).send().await;
        match sent.map_err(|error| error::from_sdk("complete upload of", &self.key, error)) {
            Ok(written) => {
                self.open = false;
                inner.written(&self.key, self.bytes, written.e_tag, &self.mark)
            }
            // The answer to an attempt may have been lost, and the next one finds no upload.
            Err(error) => match inner.settle(&self.key, &self.mark, error.clone()).await {
                Ok(meta) => {
                    self.open = false;
                    Ok(meta)
                }
                Err(_) => {
                    self.abort().await;
                    Err(error)
                }
            },
        }
    }

    /// Gives up what has been sent.
    pub(super) async fn abort(mut self) {
        self.open = false;
        let going = std::mem::take(&mut self.going);
        abort(self.objects.clone(), self.key.clone(), std::mem::take(&mut self.id), going).await;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Without a runtime the process is at its end; the bucket's lifecycle rule gets what stays.
        if let (true, Ok(runtime)) = (self.open, tokio::runtime::Handle::try_current()) {
            let going = std::mem::take(&mut self.going);
            runtime.spawn(abort(self.objects.clone(), self.key.clone(), std::mem::take(&mut self.id), going));
        }
    }
}

async fn abort(objects: S3Objects, key: Key, id: String, mut going: JoinSet<Result<CompletedPart>>) {
    // A part that arrives behind the abort would stay.
    going.shutdown().await;
    let inner = &*objects.inner;
    let request = inner.client.abort_multipart_upload().bucket(&inner.bucket).key(inner.full(&key)).upload_id(id);
    if let Err(error) = request.send().await {
        let error = error::from_sdk("abort upload of", &key, error);
        tracing::warn!(%error, "parts of an upload stay in the bucket until its lifecycle rule removes them");
    }
}
