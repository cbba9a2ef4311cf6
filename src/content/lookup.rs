//! Existence checks, and the first of the two verbs: to vouch for an object.
//!
//! A caller that was told that content exists may rely on it for a whole grace period. So the answer uses a pinned
//! snapshot of the condemned objects; a condemned object is spared first, and then only the backend can say whether it
//! exists. [`Pin::vouch`] does all of this in order.

use std::sync::Arc;
use std::time::SystemTime;

use super::condemned::Snapshot;
use super::service::Content;
use crate::deadline::Deadline;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::hot::Slot;
use crate::objects::{Key, Meta};

/// Attempts at an answer whose snapshot became too old meanwhile.
const ANSWERS: usize = 3;

/// The snapshot that one answer uses, with the caller's deadline. All lookups and writes of the answer go through its
/// pin.
#[derive(Clone)]
pub struct Pin {
    content: Content,
    snapshot: Arc<Snapshot>,
    deadline: Deadline,
}

/// Proof that an object existed, and stays for a grace period: the result of an existence check that spared it first.
#[derive(Clone, Debug)]
pub struct Vouched {
    meta: Meta,
}

impl Vouched {
    /// The size of the object in bytes.
    pub fn size(&self) -> u64 {
        self.meta.size
    }

    /// Time of the object's last write, by the backend's clock.
    pub fn modified(&self) -> SystemTime {
        self.meta.modified
    }
}

impl Pin {
    /// The content in which the answer looks.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The caller's deadline.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// The same pin for work that outlives its request: each call has the whole time of a request.
    #[must_use]
    pub fn until_each_call(&self) -> Pin {
        Pin { deadline: Deadline::of_each_call(), ..self.clone() }
    }

    /// The snapshot itself.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Looks up an object on whose existence the caller will rely.
    pub async fn vouch(&self, key: &Key) -> Result<Option<Vouched>> {
        let (content, deadline) = (&self.content, self.deadline);
        // Only a test that disables this step looks before it spares.
        let early = match content.config().collect.ingredients.head_after_list() {
            true => None,
            false => Some(content.fetch_meta(key, deadline).await?),
        };
        let meta = match (self.spare(key).await?, early) {
            (false, _) => content.meta(key, deadline).await?,
            (true, Some(early)) => early,
            (true, None) => content.fetch_meta(key, deadline).await?,
        };
        Ok(meta.map(|meta| Vouched { meta }))
    }

    /// Looks up the first of the objects that exists.
    pub async fn vouch_any(&self, keys: impl Iterator<Item = Key>) -> Result<Option<Vouched>> {
        for key in keys {
            if let Some(vouched) = self.vouch(&key).await? {
                return Ok(Some(vouched));
            }
        }
        Ok(None)
    }

    /// Whether a view may reference an object. As [`Pin::vouch`], but an object that is selected for eviction counts as
    /// absent, unless it was `pushed` so late that the collector may not have known of the push, or the pusher of the
    /// selection. The builder of the push must find it.
    pub async fn may_name(&self, key: &Key, pushed: Option<SystemTime>) -> Result<bool> {
        let collect = &self.content.config().collect;
        let is_left_out = self.snapshot.evicted(key).is_some_and(|evicted| {
            // A push may be answered this long after its record was written.
            let late = collect.in_use() + collect.snapshot_age();
            pushed.and_then(|pushed| pushed.checked_add(late)).is_none_or(|until| until <= evicted)
        });
        Ok(!is_left_out && self.vouch(key).await?.is_some())
    }

    /// As [`Pin::may_name`], for any of the keys.
    pub async fn may_name_any(&self, keys: impl Iterator<Item = Key>, pushed: Option<SystemTime>) -> Result<bool> {
        for key in keys {
            if self.may_name(&key, pushed).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether any of the keys has small content that the caller is about to read. The content is read at once if that
    /// saves an existence check.
    pub async fn may_read_any(&self, keys: impl Iterator<Item = Key>, digest: &Digest) -> Result<bool> {
        for key in keys {
            let found = match self.spare(&key).await? {
                true => self.content.fetch_meta(&key, self.deadline).await?.is_some(),
                false => self.has_small(&key, digest).await?,
            };
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn has_small(&self, key: &Key, digest: &Digest) -> Result<bool> {
        let (content, deadline) = (&self.content, self.deadline);
        let is_known = !content.presence().is_kept() || content.is_known(key);
        if is_known || content.hot().has(&Slot::Whole(key.clone())) {
            return Ok(content.meta(key, deadline).await?.is_some());
        }
        match content.small(key, *digest, deadline).await {
            Ok(_) => Ok(true),
            Err(Error::BlobUnknown(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether none of the keys has an object any more. Looks only if one of them is condemned, or `always`.
    pub async fn is_gone(&self, keys: Vec<Key>, always: bool) -> Result<bool> {
        let looks = always || keys.iter().any(|key| self.snapshot.has(key));
        Ok(looks && self.vouch_any(keys.into_iter()).await?.is_none())
    }

    /// Spares an object that the answer relies on. Returns whether it is condemned.
    pub async fn spare(&self, key: &Key) -> Result<bool> {
        self.content.condemned().spare(&self.snapshot, key, self.deadline).await
    }

    /// Whether an answer may still use this pin.
    pub fn is_young(&self) -> bool {
        self.snapshot.is_young()
    }
}

impl Content {
    /// Pins a snapshot for an answer that is given by `deadline`.
    pub async fn pin(&self, deadline: Deadline) -> Result<Pin> {
        let snapshot = self.condemned().snapshot(deadline).await?;
        Ok(Pin { content: self.clone(), snapshot, deadline })
    }

    /// Makes an answer with a pinned snapshot, and makes it again if the snapshot became too old meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when the lists of condemned objects cannot be read often enough.
    pub async fn pinned<T, F>(&self, deadline: Deadline, mut answer: impl FnMut(Pin) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        for _ in 0..ANSWERS {
            let pin = self.pin(deadline).await?;
            let snapshot = pin.snapshot.clone();
            let answered = answer(pin).await;
            if snapshot.is_young() {
                return answered;
            }
        }
        tracing::warn!("cannot list pending deletions often enough to answer");
        Err(Error::Busy)
    }

    /// Metadata of an object. An object whose bytes were found wrong counts as missing, so that clients upload it
    /// again. A local store is asked every time; a remote one only if memory has nothing young enough.
    pub async fn meta(&self, key: &Key, deadline: Deadline) -> Result<Option<Meta>> {
        if let Some(known) = self.presence().get(key) {
            if known.renew {
                self.renew(key);
            }
            if known.valid {
                return Ok(Some(known.meta).filter(|meta| !self.verdicts().is_wrong(meta)));
            }
        }
        if !self.presence().is_kept() {
            return self.fetch_meta(key, deadline).await;
        }
        Box::pin(self.join_look(key, deadline)).await
    }

    /// Asks the store once for all callers that want to know at the same time.
    async fn join_look(&self, key: &Key, deadline: Deadline) -> Result<Option<Meta>> {
        let mut mine = false;
        let asking = self.checks().under_way.join(
            &(key.clone(), self.condemned().looks()),
            || None,
            || {
                mine = true;
                let (content, key) = (self.clone(), key.clone());
                async move { content.fetch_meta(&key, Deadline::of_each_call()).await }
            },
            |_| {},
        );
        match deadline.bound(asking).await {
            // The lookup was begun by another caller, before this call: an object that was written in between must not
            // be denied.
            Ok(None) if !mine => self.fetch_meta(key, deadline).await,
            found => found,
        }
    }

    /// As [`Content::meta`], but always asks the store.
    pub async fn fetch_meta(&self, key: &Key, deadline: Deadline) -> Result<Option<Meta>> {
        let ticket = self.presence().ticket(key);
        match self.calls(deadline).head(key).await? {
            Some(meta) if self.verdicts().is_wrong(&meta) => Ok(None),
            Some(meta) => {
                self.presence().insert(ticket, &meta);
                Ok(Some(meta))
            }
            None => {
                self.presence().forget(key);
                Ok(None)
            }
        }
    }

    /// Asks again in the background, so that objects in use stay known. If too many lookups run, the object is looked
    /// up when it is needed.
    fn renew(&self, key: &Key) {
        let Ok(turn) = self.checks().renewals.clone().try_acquire_owned() else { return };
        let (content, key) = (self.clone(), key.clone());
        tokio::spawn(async move {
            // What is remembered holds until it expires, even if this lookup fails.
            let _ = content.fetch_meta(&key, Deadline::of_each_call()).await;
            drop(turn);
        });
    }

    /// Whether memory says that the object exists.
    pub fn is_known(&self, key: &Key) -> bool {
        self.presence().get(key).is_some_and(|known| known.valid)
    }
}
