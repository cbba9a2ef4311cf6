//! Whether the bytes of an object fit its digest.
//!
//! Content is verified when this process reads the whole of it for the first time, on its way out. Readers of one object at
//! the same time share the work: each byte is hashed once, by whoever comes to it first, and the last chunk is held back
//! from all of them until the digest fits. What has been verified is remembered by version.
//!
//! Invariant: a chunk that differs from what was verified, or is being verified, leaves the hot layer. Which of the two is
//! wrong, nobody knows yet: whoever comes next finds neither.
//!
//! A disk that gives wrong bytes is believed at once. Between us and a bucket lies a line that may flip bits: an object
//! there is wrong when two reads of it agree on wrong bytes, and chunks that are fetched again later must have the sums of
//! those that were verified.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::quarantine::notes;
use super::service::{Content, chunk as slot};
use super::verdicts::{Checked, Hashed, Passing};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, Result};
use crate::hot::{self, Piece};
use crate::objects::{Key, Meta, Version};

/// What a read of a whole object came to.
struct Reading {
    version: Version,
    digest: Digest,
    /// Of its chunks.
    sums: Vec<u64>,
}

/// One reader's part in the verification of an object.
pub struct Progress {
    content: Content,
    meta: Meta,
    digest: Digest,
    chunks: u64,
    hashed: Arc<Passing>,
}

impl Progress {
    /// Lets a chunk pass to the reader: all readers come in order. The last one passes when the digest fits.
    pub async fn pass(&self, index: u64, piece: &Piece) -> Result<()> {
        let mut hashed = self.hashed.clone().lock_owned().await;
        let last = index + 1 == self.chunks;
        if hashed.sums.len() as u64 == index {
            // The lock goes along: a reader that goes away loses nothing for the others.
            let piece = piece.clone();
            let hashing = tokio::task::spawn_blocking(move || {
                if let Some(hasher) = &mut hashed.hasher {
                    hasher.update(&piece.bytes);
                    hashed.sums.push(piece.sum);
                }
                if last {
                    hashed.actual = hashed.hasher.take().map(Hasher::finish);
                }
                hashed
            });
            hashed = hashing.await?;
            if last {
                self.conclude(&hashed).await?;
            }
        }
        // A chunk that came twice may have come wrong once: this time, or when it was hashed, and then the verification fits
        // no right bytes for as long as any of its readers takes part.
        let is_hashed = hashed.sums.get(index as usize) == Some(&piece.sum);
        if !is_hashed {
            self.content.hot().forget(&slot(&self.meta, index));
            self.content.verdicts().abandon(&self.meta, &self.hashed);
        }
        let fits = !last || hashed.actual == Some(self.digest);
        if is_hashed && fits { Ok(()) } else { Err(Error::BlobUnknown(self.digest)) }
    }

    async fn conclude(&self, hashed: &Hashed) -> Result<()> {
        let content = &self.content;
        let Some(actual) = hashed.actual else { return Ok(()) };
        if actual == self.digest {
            content.verdicts().note_sums(&self.meta, hashed.sums.as_slice().into());
            content.record(&self.meta, true).await;
            return Ok(());
        }
        content.forget_chunks(&self.meta);
        content.verdicts().abandon(&self.meta, &self.hashed);
        content.confirm(&self.meta, &self.digest, actual).await
    }
}

impl Content {
    /// Remembers what a check came to. Bytes that are wrong are said so once, loudly: somebody has to look at the disk. They
    /// go into quarantine.
    pub(crate) async fn record(&self, meta: &Meta, right: bool) {
        if !right {
            self.metrics().corrupt_objects.inc();
            tracing::error!(key = %meta.key, bytes = meta.size, "object does not fit its digest");
            self.presence().forget(&meta.key);
            self.forget_chunks(meta);
        }
        let verdict = if right { Checked::Right } else { Checked::Wrong };
        self.verdicts().note(meta, verdict);
        if !right {
            self.verdicts().quarantine().add(&**self.objects(), meta).await;
        }
    }

    fn forget_chunks(&self, meta: &Meta) {
        (0..meta.size.div_ceil(self.hot().chunk_bytes())).for_each(|index| self.hot().forget(&slot(meta, index)));
    }

    /// The verification of an object of so many chunks, in which a reader of all of them takes part.
    pub(super) fn verification(&self, meta: &Meta, digest: &Digest, chunks: u64) -> Progress {
        let hashed = self.verdicts().passing(meta, || Hasher::new(digest.algorithm()));
        Progress { content: self.clone(), meta: meta.clone(), digest: *digest, chunks, hashed }
    }

    /// Reads an object of a store that is far once more, past the hot layer, after a read that came to a wrong digest.
    /// Two reads that differ prove nothing but a bad line.
    async fn confirm(&self, meta: &Meta, digest: &Digest, first: Digest) -> Result<()> {
        let second = self.read_past(&meta.key, digest.algorithm()).await?;
        if second.digest == *digest || second.digest == first {
            self.conclude(meta, digest, second).await;
        }
        Ok(())
    }

    /// Reads an object past the hot layer, and records whether it fits its digest.
    async fn recheck(&self, meta: &Meta, digest: &Digest) -> Result<()> {
        let reading = self.read_past(&meta.key, digest.algorithm()).await?;
        if reading.digest != *digest && self.objects().traits().may_flip_bits {
            return self.confirm(meta, digest, reading.digest).await;
        }
        self.conclude(meta, digest, reading).await;
        Ok(())
    }

    async fn conclude(&self, meta: &Meta, digest: &Digest, reading: Reading) {
        if reading.version != meta.version {
            return;
        }
        let right = reading.digest == *digest;
        // For what is in memory, and comes again: it was not what has been read here.
        if right && self.objects().traits().may_flip_bits {
            self.verdicts().note_sums(meta, reading.sums.into());
        }
        self.record(meta, right).await;
    }

    /// What an object comes to, read in chunks that are not kept.
    async fn read_past(&self, key: &Key, algorithm: Algorithm) -> Result<Reading> {
        let chunk_bytes = self.hot().chunk_bytes() as usize;
        let (meta, bytes) = self.objects().get(key, 0..u64::MAX).await?;
        let (mut bytes, mut piece) = (bytes.fuse(), Bytes::new());
        let (mut hasher, mut sums, mut chunk) = (Hasher::new(algorithm), Vec::new(), Vec::with_capacity(chunk_bytes));
        loop {
            while chunk.len() < chunk_bytes {
                if piece.is_empty() {
                    let Some(next) = bytes.try_next().await? else { break };
                    piece = next;
                }
                chunk.extend_from_slice(&piece.split_to(piece.len().min(chunk_bytes - chunk.len())));
            }
            if chunk.is_empty() {
                return Ok(Reading { version: meta.version, digest: hasher.finish(), sums });
            }
            let hashing = tokio::task::spawn_blocking(move || {
                hasher.update(&chunk);
                sums.push(hot::sum(&chunk));
                chunk.clear();
                (hasher, sums, chunk)
            });
            (hasher, sums, chunk) = hashing.await?;
        }
    }

    /// Checks an object of which parts are being read, unless that has been done or is under way. Two at a time: further
    /// ones are checked when they are read again.
    pub(super) fn check_in_background(&self, meta: &Meta, digest: &Digest) {
        let Some(background) = self.verdicts().begin_background(&meta.key) else { return };
        let (content, meta, digest) = (self.clone(), meta.clone(), *digest);
        tokio::spawn(async move {
            if let Err(error) = content.recheck(&meta, &digest).await {
                tracing::info!(key = %meta.key, %error, "cannot verify an object now");
            }
            drop(background);
        });
    }

    /// Learns what other servers have found wrong, and this one before its start.
    pub async fn load_quarantine(&self) -> Result<()> {
        for (key, note) in notes(&**self.objects()).await? {
            if self.verdicts().quarantine().learn(&key, &Version(note.version.into())) {
                self.forget(&key);
            }
        }
        Ok(())
    }
}
