//! Blobs: whether one is stored, and receiving one whole.

use bytes::Bytes;
use futures::StreamExt;

use super::handles::{Reader, Writer};
use super::lookup::Vouched;
use super::receive::{Intake, Watch, pump};
use super::write::Written;
use crate::capacity::Reservation;
use crate::digest::{Digest, Hasher, hash};
use crate::error::{Error, Result};
use crate::hot::{KeptForm, Pushing, Slot};
use crate::metrics::tenant::{Asked, Saved};
use crate::objects::Key;
use crate::stream::{BodyError, Incoming, Portion};

impl Reader {
    /// Returns the blob if the store has it. Its bytes in memory prove nothing here, because the caller is going to
    /// rely on the store.
    pub async fn stat_blob(&self, digest: &Digest) -> Result<Option<Vouched>> {
        self.look_for(digest, Saved::Present).await
    }

    /// Size of a blob of the chain in bytes. A remembered size suffices.
    pub async fn size_of(&self, digest: &Digest) -> Result<Option<u64>> {
        for key in self.blob_keys(digest) {
            if let Some(meta) = self.content().meta(&key, self.deadline()).await? {
                return Ok(Some(meta.size));
            }
        }
        Ok(None)
    }

    async fn look_for(&self, digest: &Digest, saved: Saved) -> Result<Option<Vouched>> {
        let (content, deadline) = (self.content(), self.deadline());
        let found = match content.tombstones().denies(&self.blob_key(digest), deadline).await? {
            true => None,
            false => content.pinned(deadline, |pin| async move { pin.vouch_any(self.blob_keys(digest)).await }).await?,
        };
        self.counted().asked(Asked::Upload, found.is_some());
        self.counted().saved(saved, found.as_ref().map_or(0, Vouched::size));
        Ok(found)
    }
}

impl Writer {
    /// Returns the blob if this repository can use it without an upload. Blobs belong to the tenant or its parents, so
    /// nothing is copied; whether the caller may read the source repository was checked before.
    pub async fn mount_blob(&self, digest: &Digest) -> Result<Option<Vouched>> {
        let found = self.reader().look_for(digest, Saved::Mounted).await?;
        if found.is_some() {
            self.reader().content().metrics().blobs_mounted.inc();
        }
        Ok(found)
    }

    /// Receives a whole blob, straight to its final key. Nothing is visible there unless the bytes hash to `digest`.
    /// `size` is the length of the body in bytes, if announced.
    pub async fn put_blob(&self, digest: &Digest, size: Option<u64>, body: Incoming) -> Result<Written> {
        let (reader, content) = (self.reader(), self.reader().content());
        let limit = content.config().limits.blob.as_u64();
        if size.is_some_and(|size| size > limit) {
            return Err(Error::Body(BodyError::TooLarge { limit }));
        }
        let key = reader.blob_key(digest);
        let place = self.reserve(size).await?;
        let (first, body) = self.take_in(size, body).await?;
        if let Some(error) = first.failed {
            return Err(Error::Body(error));
        }
        let written = match first.last {
            true => self.put_small(key, digest, first, place).await?,
            false => self.put_large(key, digest, size, (first, body), place).await?,
        };
        content.metrics().blobs_stored.inc();
        Ok(written)
    }

    /// Writes a blob that is in memory.
    pub async fn put_bytes(&self, digest: &Digest, bytes: Bytes) -> Result<Written> {
        let size = bytes.len() as u64;
        let body = futures::stream::once(async { Ok(bytes) }).boxed();
        self.put_blob(digest, Some(size), body).await
    }

    async fn put_small(&self, key: Key, digest: &Digest, only: Portion, mut place: Reservation) -> Result<Written> {
        let content = self.reader().content();
        let deadline = self.reader().deadline().restarted();
        let bytes = only.join();
        fits(digest, hash(digest.algorithm(), bytes.clone()).await?)?;
        place.write(bytes.len() as u64).await?;
        let put = async { content.calls(deadline).put(&key, bytes.clone()).await };
        let written = content.write(&key, deadline, put).await?;
        let size = written.meta().size;
        self.reader().counted().stored_new_bytes.inc_by(size);
        drop(place);
        if size <= content.hot_blob_max() {
            content.hot().keep_pushed(Slot::Whole(key), &bytes);
        }
        Ok(written)
    }

    async fn put_large(
        &self,
        key: Key,
        digest: &Digest,
        size: Option<u64>,
        (first, mut body): (Portion, Intake<'_>),
        mut place: Reservation,
    ) -> Result<Written> {
        let content = self.reader().content();
        let limit = content.config().limits.blob.as_u64();
        let mut draft = content.objects().begin(&key, size).await?;
        let watch = Watch { hashers: vec![Hasher::new(digest.algorithm())], keep: self.keep(&key, size) };
        let received = pump(first, &mut body, &mut *draft, watch, (limit, &mut place)).await;
        let received = content.room().noticing(&key, received)?;
        if let Some(error) = received.failed {
            return Err(Error::Body(error));
        }
        for hasher in received.watch.hashers {
            fits(digest, hasher.finish())?;
        }
        // The time that the body took does not count.
        let deadline = self.reader().deadline().restarted();
        let written = content.write(&key, deadline, async { Ok(draft.commit().await?) }).await?;
        self.reader().counted().stored_new_bytes.inc_by(written.meta().size);
        drop(place);
        if let Some(keep) = received.watch.keep {
            keep.commit(&written.meta().version);
        }
        Ok(written)
    }

    /// Keeps a blob of a remote store for the next reader: a small one whole, a large one in chunks. A local store
    /// needs no copy: the page cache has the bytes.
    fn keep(&self, key: &Key, size: Option<u64>) -> Option<Pushing<Error>> {
        let content = self.reader().content();
        let form = if size? <= content.hot_blob_max() { KeptForm::Whole } else { KeptForm::Chunks };
        let is_kept = !content.objects().traits().page_cached;
        is_kept.then(|| content.hot().pushing(key, size?, form))?
    }

    /// Refuses an upload that could not be stored, before its body is sent.
    pub async fn expect_room(&self) -> Result<()> {
        self.reserve(None).await.map(drop)
    }

    /// Reserves `size` bytes, and waits while space is being freed.
    pub(super) async fn reserve(&self, size: Option<u64>) -> Result<Reservation> {
        self.reserve_with(size, 0).await
    }

    /// As [`Writer::reserve`], with `beside` bytes for another object that is written with it.
    pub(super) async fn reserve_with(&self, size: Option<u64>, beside: u64) -> Result<Reservation> {
        self.reader().content().room().wait(self.reader().tenant(), size, beside).await
    }
}

pub(super) fn fits(claimed: &Digest, actual: Digest) -> Result<()> {
    if actual == *claimed {
        Ok(())
    } else {
        Err(Error::DigestMismatch { claimed: Box::new(*claimed), actual: Box::new(actual) })
    }
}
