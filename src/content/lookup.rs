//! Looking for objects that never change under their key, and reading those that are small: through what memory has.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::content::condemned::Snapshot;
use crate::deadline;
use crate::deadline::{in_time, in_time_or, patiently};
use crate::digest::Digest;
use crate::digest::hash;
use crate::error::{Error, Result};
use crate::hot::Slot;
use crate::objects;
use crate::objects::{Key, Meta, Read};
use crate::store::Store;

/// Reads of one object of which no two agree and none is right, before the store counts as busy.
const READS_MAX: usize = 4;

impl Store {
    /// What is known of an object, unless its bytes were found wrong: then it is as good as gone, and whoever asks whether
    /// to upload it is told to. A store that is near is asked; one that is far when memory has nothing that is young.
    pub(crate) async fn head(&self, key: &Key) -> Result<Option<Meta>> {
        if let Some(known) = self.presence.get(key) {
            if known.renew {
                self.renew(key);
            }
            if known.valid {
                return Ok(Some(known.meta).filter(|meta| !self.checks.is_wrong(meta)));
            }
        }
        if !self.presence.is_kept() {
            return self.ask(key).await;
        }
        Box::pin(self.join_look(key)).await
    }

    /// Asks the store once for all who want to know at the same time.
    async fn join_look(&self, key: &Key) -> Result<Option<Meta>> {
        let mut mine = false;
        let asking = self.looks.join(
            &(key.clone(), self.condemned.looks()),
            || None,
            || {
                mine = true;
                let (store, key) = (self.clone(), key.clone());
                async move { store.ask(&key).await }
            },
            |_| {},
        );
        match in_time(asking).await {
            // Somebody had asked before us: what came in between must not be denied.
            Ok(None) if !mine => self.ask(key).await,
            found => found,
        }
    }

    /// As [`Store::head`], asking the store whatever memory says.
    pub(crate) async fn ask(&self, key: &Key) -> Result<Option<Meta>> {
        let ticket = self.presence.ticket(key);
        match patiently(|| self.objects.head(key)).await {
            Ok(meta) if self.checks.is_wrong(&meta) => Ok(None),
            Ok(meta) => {
                self.presence.insert(ticket, &meta);
                Ok(Some(meta))
            }
            Err(objects::Error::NotFound) => {
                self.presence.forget(key);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What the store has of an object, for somebody who is told that it is there by an answer that rests on `pin`.
    pub(crate) async fn found(&self, pin: &Snapshot, key: &Key) -> Result<Option<Meta>> {
        let early = if self.config.collect.ingredients.head_after_list() { None } else { Some(self.ask(key).await?) };
        if !self.condemned.rely(pin, key).await? {
            return self.head(key).await;
        }
        match early {
            Some(found) => Ok(found),
            None => self.ask(key).await,
        }
    }

    /// As [`Store::found`], for what views name. They do without what is to make room, unless it was `pushed` so late that
    /// whoever chose it, or who pushed it, may not have known of the other. Its builder is to find it again.
    pub(crate) async fn servable(&self, pin: &Snapshot, key: &Key, pushed: Option<SystemTime>) -> Result<bool> {
        let is_left_out = pin.evicted(key).is_some_and(|evicted| {
            // A push may be answered for as long after its record was written.
            let late = self.config.collect.in_use() + self.config.collect.snapshot_age();
            pushed.and_then(|pushed| pushed.checked_add(late)).is_none_or(|until| until <= evicted)
        });
        Ok(!is_left_out && self.found(pin, key).await?.is_some())
    }

    /// Runs `write`, which makes the object appear whose writer will be told that it is there.
    pub(crate) async fn appear<T>(&self, key: &Key, write: impl Future<Output = Result<T>>) -> Result<T> {
        let pin = self.condemned.pin().await?;
        self.condemned.rely(&pin, key).await?;
        let written = write.await?;
        // The parts of a large object may have been on their way for long.
        deadline::anew();
        if pin.is_young() {
            return Ok(written);
        }
        // It may have come and gone since: looked for like what somebody else wrote.
        let look = |pin: Arc<Snapshot>| async move {
            self.condemned.rely(&pin, key).await?;
            self.ask(key).await
        };
        self.condemned.resting(look).await?.map(|_| written).ok_or(Error::Busy)
    }

    /// Looks again in the background, so that what is in use stays known. When too many do, it is asked for when needed.
    fn renew(&self, key: &Key) {
        let Ok(turn) = self.renewals.clone().try_acquire_owned() else { return };
        let (store, key) = (self.clone(), key.clone());
        tokio::spawn(async move {
            // What is known holds until its time is up, whatever goes wrong here.
            let _ = store.ask(&key).await;
            drop(turn);
        });
    }

    /// An object to read from. What memory has may be old: the read will tell.
    pub(crate) async fn find(&self, key: &Key) -> Result<Option<Meta>> {
        let known = self.presence.get(key).map(|known| known.meta).filter(|meta| !self.checks.is_wrong(meta));
        if known.is_some() { Ok(known) } else { self.head(key).await }
    }

    /// Whether the store has an object that is about to be read: then it is read at once, where that saves a look.
    pub(crate) async fn has_small(&self, key: &Key, digest: &Digest) -> Result<bool> {
        let is_known = !self.presence.is_kept() || self.presence.get(key).is_some_and(|known| known.valid);
        if is_known || self.hot.has(&Slot::Whole(key.clone())) {
            return Ok(self.head(key).await?.is_some());
        }
        match self.small(key, *digest).await {
            Ok(_) => Ok(true),
            Err(Error::BlobUnknown(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A small object through the hot layer, checked against `digest`. Waits out a busy store: builders do not ask again for
    /// manifests and configs. Missing or damaged, it is [`Error::BlobUnknown`].
    pub(crate) async fn small(&self, key: &Key, digest: Digest) -> Result<Bytes> {
        self.small_of(key, digest, 0).await
    }

    /// As [`Store::small`], for one that is known to have so many bytes: memory for them is waited for.
    pub(crate) async fn small_of(&self, key: &Key, digest: Digest, size: u64) -> Result<Bytes> {
        let (store, owned) = (self.clone(), key.clone());
        let fetch = || async move { store.fetch_small(&owned, digest).await };
        let slot = Slot::Whole(key.clone());
        in_time_or(self.hot.get(&slot, size, fetch), || self.hot.keep_place(&slot)).await
    }

    /// Reads past the hot layer, and says of what is wrong that it is.
    pub(crate) async fn fetch_small(&self, key: &Key, digest: Digest) -> Result<Bytes> {
        let mut before = None;
        for _ in 0..READS_MAX {
            let ticket = self.presence.ticket(key);
            let (meta, bytes) = match patiently(|| self.objects.read(key, None)).await {
                Ok(Read::Fresh(meta, bytes)) => (meta, bytes),
                Ok(Read::Same) | Err(objects::Error::NotFound) => {
                    self.presence.forget(key);
                    return Err(Error::BlobUnknown(digest));
                }
                Err(error) => return Err(error.into()),
            };
            let actual = hash(digest.algorithm(), bytes.clone()).await?;
            if actual == digest {
                self.record(&meta, true).await;
                self.presence.insert(ticket, &meta);
                return Ok(bytes);
            }
            // What is wrong in the bucket is wrong in the same way again.
            if !self.objects.traits().may_flip_bits || before == Some(actual) {
                self.record(&meta, false).await;
                return Err(Error::BlobUnknown(digest));
            }
            before = Some(actual);
        }
        Err(Error::Busy)
    }

    /// Writes a small object that never changes under its key.
    pub(crate) async fn put_content(&self, key: &Key, body: Bytes) -> Result<Meta> {
        let ticket = self.presence.ticket(key);
        let meta = self.put(key, body).await?;
        self.presence.insert(ticket, &meta);
        Ok(meta)
    }

    /// Deletes the first key before the others.
    pub(crate) async fn delete(&self, keys: &[Key]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let forget = || keys.iter().for_each(|key| self.forget(key));
        // Before, so that nobody is told of it who asks from now on; behind, because somebody may have looked meanwhile.
        forget();
        let deleted = patiently(|| self.objects.delete(keys)).await;
        forget();
        Ok(deleted?)
    }

    /// Drops what memory has of an object.
    pub(crate) fn forget(&self, key: &Key) {
        self.presence.forget(key);
        self.hot.forget(&Slot::Whole(key.clone()));
    }
}

/// Looks under way, each with the number of looks at what is condemned before it: nobody joins a look that is older than
/// what his answer rests on.
pub(crate) type Looks = Arc<crate::hot::flights::Flights<(Key, u64), Option<Meta>, Error>>;
