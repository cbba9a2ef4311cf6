//! Verification: whether the bytes of an object fit its digest.
//!
//! Content is verified when this process reads the whole of it for the first time, on the way to clients. Readers of
//! one object at the same time share the work: each byte is hashed once, by the first reader that reaches it, and the
//! last chunk is held back from all of them until the digest fits. The result is remembered by version.
//!
//! Invariant: a chunk that differs from the verified one, or from the one being verified, leaves the hot layer. Which
//! of the two is wrong is not known yet, so the next reader finds neither.
//!
//! Wrong bytes from a disk are believed at once. The network to a bucket may flip bits: an object there is wrong when
//! two reads of it agree on a wrong digest, and chunks that are fetched again later must have the sums of the verified
//! ones.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::quarantine::notes;
use super::service::{Content, chunk as slot};
use super::verdicts::{Checked, Hashed, PassingHash};
use crate::calls::json;
use crate::deadline::Deadline;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::hot::{self, HotPiece};
use crate::layout;
use crate::objects::{Meta, Version};

/// The result of reading a whole object.
struct HashedRead {
    version: Version,
    digest: Digest,
    /// Sums of its chunks.
    sums: Vec<u64>,
}

/// An object, and the digest that its bytes should have.
#[derive(Clone)]
pub(super) struct Object {
    pub content: Content,
    pub meta: Meta,
    pub digest: Digest,
}

/// One reader's part in the verification of an object.
pub struct Progress {
    object: Object,
    chunks: u64,
    hashed: Arc<PassingHash>,
}

impl Progress {
    /// Hashes a chunk, or compares it with the hashed one, before the reader gets it. All readers come in order. The
    /// last chunk passes only if the digest fits.
    pub async fn pass(&self, index: u64, piece: &HotPiece) -> Result<()> {
        let mut hashed = self.hashed.clone().lock_owned().await;
        let last = index + 1 == self.chunks;
        if hashed.sums.len() as u64 == index {
            // The lock moves into the task: a reader that disconnects loses nothing for the others.
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
        // A chunk that came twice may have been wrong once. If it was wrong when it was hashed, the verification fits
        // no right bytes for as long as any of its readers takes part.
        let is_hashed = hashed.sums.get(index as usize) == Some(&piece.sum);
        if !is_hashed {
            let Object { content, meta, .. } = &self.object;
            content.hot().forget(&slot(meta, index));
            content.verdicts().abandon(meta, &self.hashed);
        }
        let digest = self.object.digest;
        let fits = !last || hashed.actual == Some(digest);
        if is_hashed && fits { Ok(()) } else { Err(Error::BlobUnknown(digest)) }
    }

    async fn conclude(&self, hashed: &Hashed) -> Result<()> {
        let Object { content, meta, digest } = &self.object;
        let Some(actual) = hashed.actual else { return Ok(()) };
        if actual == *digest {
            content.verdicts().note_sums(meta, hashed.sums.as_slice().into());
            content.record(meta, true).await;
            return Ok(());
        }
        forget_chunks(content, meta);
        content.verdicts().abandon(meta, &self.hashed);
        self.object.confirm(actual).await
    }
}

fn forget_chunks(content: &Content, meta: &Meta) {
    let chunks = meta.size.div_ceil(content.hot().chunk_bytes());
    (0..chunks).for_each(|index| content.hot().forget(&slot(meta, index)));
}

impl Content {
    /// Remembers the result of a check. Wrong bytes go into quarantine, and are logged once, as an error: an operator
    /// has to look at the disk.
    pub(crate) async fn record(&self, meta: &Meta, right: bool) {
        if !right {
            self.metrics().corrupt_objects.inc();
            tracing::error!(key = %meta.key, bytes = meta.size, "object does not fit its digest");
            self.presence().forget(&meta.key);
            forget_chunks(self, meta);
        }
        let verdict = if right { Checked::Right } else { Checked::Wrong };
        self.verdicts().note(meta, verdict);
        if !right && let Some(note) = self.verdicts().quarantine().add(meta) {
            let key = layout::quarantine(&meta.key);
            let written = async { self.put(&key, json(&note)?, Deadline::of_each_call()).await };
            // This server knows it even if the note cannot be written.
            if let Err(error) = written.await {
                tracing::warn!(%key, %error, "cannot write a quarantine note");
            }
        }
    }

    /// Learns the notes of other servers, and those that this one wrote before its start.
    pub async fn load_quarantine(&self) -> Result<()> {
        for (key, note) in notes(&**self.objects()).await? {
            if self.verdicts().quarantine().learn(&key, &Version(note.version.into())) {
                self.forget(&key);
            }
        }
        Ok(())
    }
}

impl Object {
    /// Returns the verification of an object with this number of chunks, joined by a reader of all of them.
    pub(super) fn verification(&self, chunks: u64) -> Progress {
        let hashed = self.content.verdicts().passing(&self.meta, || Hasher::new(self.digest.algorithm()));
        Progress { object: self.clone(), chunks, hashed }
    }

    /// Reads an object of a remote store once more, past the hot layer, after a read with a wrong digest. Two reads
    /// that differ prove nothing but a bad network.
    async fn confirm(&self, first: Digest) -> Result<()> {
        let second = self.read_past_memory().await?;
        if second.digest == self.digest || second.digest == first {
            self.conclude(second).await;
        }
        Ok(())
    }

    /// Reads an object past the hot layer, and records whether it fits its digest.
    async fn recheck(&self) -> Result<()> {
        let reading = self.read_past_memory().await?;
        if reading.digest != self.digest && self.content.objects().traits().may_flip_bits {
            return self.confirm(reading.digest).await;
        }
        self.conclude(reading).await;
        Ok(())
    }

    async fn conclude(&self, reading: HashedRead) {
        if reading.version != self.meta.version {
            return;
        }
        let right = reading.digest == self.digest;
        // For chunks in memory, and those fetched again: they were not read here.
        if right && self.content.objects().traits().may_flip_bits {
            self.content.verdicts().note_sums(&self.meta, reading.sums.into());
        }
        self.content.record(&self.meta, right).await;
    }

    /// Reads a whole object in chunks that are not kept.
    async fn read_past_memory(&self) -> Result<HashedRead> {
        let chunk_bytes = self.content.hot().chunk_bytes() as usize;
        let (meta, bytes) = self.content.objects().get(&self.meta.key, 0..u64::MAX).await?;
        let (mut bytes, mut piece) = (bytes.fuse(), Bytes::new());
        let mut hasher = Hasher::new(self.digest.algorithm());
        let (mut sums, mut chunk) = (Vec::new(), Vec::with_capacity(chunk_bytes));
        loop {
            while chunk.len() < chunk_bytes {
                if piece.is_empty() {
                    let Some(next) = bytes.try_next().await? else { break };
                    piece = next;
                }
                chunk.extend_from_slice(&piece.split_to(piece.len().min(chunk_bytes - chunk.len())));
            }
            if chunk.is_empty() {
                return Ok(HashedRead { version: meta.version, digest: hasher.finish(), sums });
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

    /// Checks an object in the background, unless that has been done or a check runs. At most two run at a time: other
    /// objects are checked when they are read again.
    pub(super) fn check_in_background(&self) {
        let Some(background) = self.content.verdicts().begin_background(&self.meta.key) else { return };
        let object = self.clone();
        tokio::spawn(async move {
            if let Err(error) = object.recheck().await {
                tracing::info!(key = %object.meta.key, %error, "cannot verify an object now");
            }
            drop(background);
        });
    }
}
