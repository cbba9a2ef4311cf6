//! Small objects that never change under their key: read through the hot layer, written and deleted.

use bytes::Bytes;

use super::service::Content;
use crate::deadline::Deadline;
use crate::digest::{Digest, hash};
use crate::error::{Error, Result};
use crate::hot::Slot;
use crate::objects::Key;

/// Reads of one object of which no two agree and none is right, after which the store counts as busy.
const READS_MAX: usize = 4;

impl Content {
    /// Reads a small object through the hot layer, and checks it against `digest`. Retries while the store is busy:
    /// builders do not ask again for manifests and configs.
    ///
    /// # Errors
    ///
    /// [`Error::BlobUnknown`] when it is missing or damaged.
    pub async fn small(&self, key: &Key, digest: Digest, deadline: Deadline) -> Result<Bytes> {
        self.small_of(key, digest, 0, deadline).await
    }

    /// As [`Content::small`], for an object that is known to have `size` bytes: it waits for memory for them.
    pub(super) async fn small_of(&self, key: &Key, digest: Digest, size: u64, deadline: Deadline) -> Result<Bytes> {
        let (content, owned) = (self.clone(), key.clone());
        // The fetch is shared with other callers, so it has a deadline of its own.
        let fetch = || async move { content.fetch_small(&owned, digest, Deadline::of_each_call()).await };
        let slot = Slot::Whole(key.clone());
        deadline.bound_or(self.hot().get(&slot, size, fetch), || self.hot().keep_place(&slot)).await
    }

    /// As [`Content::small`], for the first of the keys that has an object.
    pub async fn small_in(
        &self,
        keys: impl Iterator<Item = Key>,
        digest: Digest,
        deadline: Deadline,
    ) -> Result<Option<Bytes>> {
        for key in keys {
            match self.small(&key, digest, deadline).await {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(Error::BlobUnknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Reads past the hot layer, and records an object whose bytes are wrong.
    pub async fn fetch_small(&self, key: &Key, digest: Digest, deadline: Deadline) -> Result<Bytes> {
        let mut before = None;
        for _ in 0..READS_MAX {
            let ticket = self.presence().ticket(key);
            let Some((meta, bytes)) = self.calls(deadline).read(key).await? else {
                self.presence().forget(key);
                return Err(Error::BlobUnknown(digest));
            };
            let actual = hash(digest.algorithm(), bytes.clone()).await?;
            if actual == digest {
                self.record(&meta, true).await;
                self.presence().insert(ticket, &meta);
                return Ok(bytes);
            }
            // Bytes that are wrong in the bucket are wrong in the same way again.
            if !self.objects().traits().may_flip_bits || before == Some(actual) {
                self.record(&meta, false).await;
                return Err(Error::BlobUnknown(digest));
            }
            before = Some(actual);
        }
        Err(Error::Busy)
    }

    /// Deletes the first key before the others.
    pub async fn delete(&self, keys: &[Key], deadline: Deadline) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        self.format().may_change()?;
        let forget = || keys.iter().for_each(|key| self.forget(key));
        // Before, so that no later caller is told that the object exists; after, because another lookup may have
        // finished meanwhile.
        forget();
        let deleted = self.calls(deadline).delete(keys).await;
        forget();
        deleted
    }
}
