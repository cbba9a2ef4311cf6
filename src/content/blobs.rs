//! Blobs: is it here, receive it, delete it. `read` reads them.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::content::condemned::Snapshot;
use crate::content::receive::{PORTION_BYTES, Watch, pump};
use crate::deadline;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::hot::{Form, Pushing, Slot};
use crate::metrics::tenant::{Asked, Saved};
use crate::objects::Key;
use crate::store::Repo;
use crate::stream::{BodyError, Incoming, Portion, Portions};

impl Repo {
    /// Whether the store has the blob: its size. That its bytes are in memory proves nothing here, for the caller is going to
    /// rely on the store.
    pub async fn stat_blob(&self, digest: &Digest) -> Result<Option<u64>> {
        self.look_for(digest, Saved::Present).await
    }

    async fn look_for(&self, digest: &Digest, saved: Saved) -> Result<Option<u64>> {
        let look = |pin: Arc<Snapshot>| async move { self.store.found_in(&pin, self.blob_keys(digest)).await };
        let size = match self.store.is_deleted(&self.blob_key(digest)).await? {
            true => None,
            false => self.store.condemned.resting(look).await?.map(|meta| meta.size),
        };
        self.counted.asked(Asked::Upload, size.is_some());
        self.counted.saved(saved, size.unwrap_or(0));
        Ok(size)
    }

    /// Receives a whole blob, straight to its final key. Nothing shows there unless the bytes hash to `digest`.
    pub async fn put_blob(&self, digest: &Digest, size: Option<u64>, body: Incoming) -> Result<()> {
        let limit = self.store.config.limits.blob.as_u64();
        if size.is_some_and(|size| size > limit) {
            return Err(Error::Body(BodyError::TooLarge { limit }));
        }
        let key = self.blob_key(digest);
        let mut place = self.place(size).await?;
        let mut body = Portions::new(body);
        let (first, _turn) = self.first_portion(&mut body).await?;
        if let Some(error) = first.failed {
            return Err(Error::Body(error));
        }
        if first.last {
            let bytes = first.join();
            fits(digest, crate::digest::hash(digest.algorithm(), bytes.clone()).await?)?;
            place.write(bytes.len() as u64)?;
            let meta = self.noticing(self.store.appear(&key, self.store.put_content(&key, bytes.clone())).await)?;
            place.stored(meta.size);
            if meta.size <= self.hot_blob_max() {
                self.store.hot.keep_pushed(Slot::Whole(key), &bytes);
            }
        } else {
            let ticket = self.store.presence.ticket(&key);
            let mut draft = self.store.objects.begin(&key, size).await?;
            let watch = Watch { hashers: vec![Hasher::new(digest.algorithm())], keep: self.keep(&key, size) };
            let received = pump(first, &mut body, &mut *draft, watch, (limit, &mut place)).await;
            let received = self.noticing(received)?;
            deadline::anew();
            if let Some(error) = received.failed {
                return Err(Error::Body(error));
            }
            for hasher in received.watch.hashers {
                fits(digest, hasher.finish())?;
            }
            let meta = self.noticing(self.store.appear(&key, async { Ok(draft.commit().await?) }).await)?;
            place.stored(meta.size);
            self.store.heal(&key).await;
            self.store.presence.insert(ticket, &meta);
            if let Some(keep) = received.watch.keep {
                keep.commit(&meta.version);
            }
        }
        self.store.metrics.blobs_stored.inc();
        Ok(())
    }

    /// Keeps a blob of a store that is far for whoever reads it next: a small one whole, a large one in chunks. What was
    /// just written to a store that is near, the system has in memory.
    fn keep(&self, key: &Key, size: Option<u64>) -> Option<Pushing<Error>> {
        let form = if size? <= self.hot_blob_max() { Form::Whole } else { Form::Chunks };
        let is_kept = !self.store.objects.traits().page_cached;
        is_kept.then(|| self.store.hot.pushing(key, size?, form))?
    }

    /// Begins to read a body, with a place among the uploads: each takes memory. A builder opens a request long before it
    /// has the bytes, so the place is taken only when the first ones have come.
    pub(crate) async fn first_portion(&self, body: &mut Portions) -> Result<(Portion, OwnedSemaphorePermit)> {
        let mut first = body.next(1).await;
        let turn = self.store.uploads.clone().acquire_owned().await.map_err(|_| Error::Busy)?;
        body.fill(&mut first, PORTION_BYTES).await;
        deadline::anew();
        Ok((first, turn))
    }

    /// Whether the blob can be used in this repository without sending it. Blobs belong to the tenant or its parents, so
    /// this moves nothing; `from` was checked when its permit was issued.
    pub async fn mount_blob(&self, digest: &Digest) -> Result<bool> {
        let found = self.look_for(digest, Saved::Mounted).await?.is_some();
        if found {
            self.store.metrics.blobs_mounted.inc();
        }
        Ok(found)
    }
}

pub(crate) fn fits(claimed: &Digest, actual: Digest) -> Result<()> {
    if actual == *claimed {
        Ok(())
    } else {
        Err(Error::DigestMismatch { claimed: Box::new(*claimed), actual: Box::new(actual) })
    }
}
