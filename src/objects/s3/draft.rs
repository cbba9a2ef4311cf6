//! Drafts: bytes are gathered into parts, and each part is uploaded while the next one is gathered.
//!
//! An object that fits into one part is written by a single PUT. Otherwise the multipart upload is on the final key, so
//! nothing is copied, and nothing is visible before it is completed.

use async_trait::async_trait;
use bytes::Bytes;

use super::again::again;
use super::multipart::{PARTS_MAX, PartsUpload};
use super::pool::{PartBuffer, Pool, PooledPart};
use super::{Error, Key, Meta, Result, S3Objects, When};
use crate::objects::{Change, Draft};

/// Number of parts after which the part size of a draft of unknown size doubles.
const PARTS_OF_ONE_SIZE: u64 = 1_000;

pub(super) struct S3Draft {
    objects: S3Objects,
    key: Key,
    /// Size in bytes, if it was announced.
    size: Option<u64>,
    written: u64,
    part_bytes: u64,
    buffer: Option<PartBuffer>,
    upload: Option<PartsUpload>,
}

impl S3Draft {
    pub(super) fn new(objects: S3Objects, key: Key, size: Option<u64>) -> Result<S3Draft> {
        let part_bytes = part_bytes(objects.inner.part_bytes, size, &objects.inner.pool)?;
        Ok(S3Draft { objects, key, size, written: 0, part_bytes, buffer: None, upload: None })
    }

    async fn next_buffer(&self) -> Result<PartBuffer> {
        let pool = &self.objects.inner.pool;
        let parts = self.upload.as_ref().map_or(0, PartsUpload::parts);
        let bytes = match self.size.map(|size| size.saturating_sub(self.written)) {
            // More bytes than announced: the caller that announced the size will refuse them.
            None | Some(0) => self.part_bytes.saturating_mul(1 << (parts / PARTS_OF_ONE_SIZE)).min(pool.bytes()),
            Some(left) => self.part_bytes.min(left),
        };
        pool.take(self.key.owner(), bytes).await
    }

    async fn send(&mut self, buffer: PartBuffer) -> Result<()> {
        let part = buffer.freeze()?;
        let mut upload = match self.upload.take() {
            Some(upload) => upload,
            None => PartsUpload::begin(&self.objects, &self.key).await?,
        };
        let sent = upload.send(part).await;
        self.upload = Some(upload);
        sent
    }

    async fn append(&mut self, mut piece: Bytes) -> Result<()> {
        while !piece.is_empty() {
            let mut buffer = match self.buffer.take() {
                // Sent only now that more bytes have come: a full part may be the last one.
                Some(buffer) if buffer.is_full() => {
                    self.send(buffer).await?;
                    continue;
                }
                Some(buffer) => buffer,
                None => self.next_buffer().await?,
            };
            let before = piece.len();
            piece = buffer.fill(piece)?;
            self.written += (before - piece.len()) as u64;
            self.buffer = Some(buffer);
        }
        Ok(())
    }
}

impl S3Draft {
    /// Fails unless all `bytes` that were written can be sent. Those of a write that failed, or whose future was
    /// dropped, are missing: such a draft cannot be committed.
    fn expect(&self, bytes: u64) -> Result<()> {
        if bytes == self.written {
            return Ok(());
        }
        Err(Error::Backend(format!("{} has {} bytes, of which {bytes} could be sent", self.key, self.written).into()))
    }
}

/// The part size in bytes of an object of `size` bytes: at least `smallest`, and large enough that [`PARTS_MAX`]
/// suffice.
fn part_bytes(smallest: u64, size: Option<u64>, pool: &Pool) -> Result<u64> {
    let needed = size.unwrap_or(0).div_ceil(PARTS_MAX).next_multiple_of(1 << 20);
    let bytes = smallest.max(needed);
    if bytes > pool.bytes() {
        let text = format!("an object of this size is sent in parts of {bytes} bytes: raise [store.s3] upload_memory");
        return Err(Error::Backend(text.into()));
    }
    Ok(bytes)
}

#[async_trait]
impl Draft for S3Draft {
    async fn write(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        for piece in pieces {
            self.append(piece).await?;
        }
        Ok(())
    }

    fn gathers(&self) -> bool {
        true
    }

    async fn commit(mut self: Box<Self>) -> Result<Meta> {
        let last = self.buffer.take();
        if self.upload.is_none() {
            // The memory is given back when the answer has arrived.
            let part = last.map(PartBuffer::freeze).transpose()?;
            let bytes = part.as_ref().map(PooledPart::bytes).cloned().unwrap_or_default();
            self.expect(bytes.len() as u64)?;
            let written = again(|| self.objects.inner.put(&self.key, bytes.clone(), When::Always)).await?;
            self.objects.inner.watchers.tell(&self.key, Change::written(written.size));
            return Ok(written);
        }
        if let Some(last) = last {
            self.send(last).await?;
        }
        match self.upload.take() {
            Some(upload) => {
                self.expect(upload.bytes())?;
                let written = upload.complete().await?;
                self.objects.inner.watchers.tell(&self.key, Change::written(written.size));
                Ok(written)
            }
            None => Err(Error::Backend("upload does not exist any more".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_parts_suffice() {
        let pool = Pool::new(1 << 30, 8 << 20);
        let least = 8 << 20;
        for (size, expected) in [
            (None, least),
            (Some(0), least),
            (Some(10_000 * least), least),
            (Some(10_000 * least + 1), least + (1 << 20)),
            (Some(5 << 40), 525 << 20),
        ] {
            let bytes = part_bytes(least, size, &pool).unwrap();
            assert_eq!(bytes, expected, "{size:?}");
            assert!(size.unwrap_or(0).div_ceil(bytes) <= PARTS_MAX);
        }
        assert!(part_bytes(least, Some(5 << 40), &Pool::new(128 << 20, 8 << 20)).is_err());
    }
}
