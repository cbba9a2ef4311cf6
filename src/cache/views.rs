//! What a cache tag serves: the view of its pushes, made when it is asked for and kept until something it rests on
//! changes.
//!
//! A view rests on two things: the pushes, which the tag's pointer proves unchanged, and which of their layers are in
//! the store, which is looked at for every answer. So a layer that was lost costs the next build a step, not its life,
//! and one that came back is served again.
//!
//! Manifest and config of a view are stored like any other content, before the view is announced: every server can serve
//! what another announced.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::cache::hint::Hint;
use crate::content::condemned::Snapshot;
use crate::deadline::in_time;
use crate::digest::Digest;
use crate::error::Result;
use crate::layout::PushId;
use crate::names::Tag;
use crate::objects::{Key, Version};
use crate::refs::chain::Behind;
use crate::refs::manifests::Parsed;
use crate::refs::pushes::LivePush;
use crate::refs::tags::Pointer;
use crate::store::Repo;
use crate::sync::{STRIPES, stripe};
use crate::trace;

/// Memory for what is known of views.
const VIEWS_BYTES_MAX: u64 = 64 << 20;
/// Views made at once: each loads all pushes of its tag.
const MAKERS: usize = 2;
/// The views that this server has made or found.
pub struct Views {
    known: Cache<Key, Arc<Known>>,
    /// One maker for a tag at a time: what the others wait for, they find made.
    turns: [Arc<tokio::sync::Mutex<()>>; STRIPES],
    /// Tags whose view will be made without anybody having asked for it.
    ahead: Mutex<HashSet<Key>>,
    pub(crate) makers: Semaphore,
}

impl Default for Views {
    fn default() -> Self {
        let known = Cache::builder()
            .max_capacity(VIEWS_BYTES_MAX)
            .weigher(|_: &Key, known: &Arc<Known>| known.weight())
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Views {
            known,
            turns: std::array::from_fn(|_| Arc::default()),
            ahead: Mutex::default(),
            makers: Semaphore::new(MAKERS),
        }
    }
}

impl Views {
    fn ahead(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was made of a pointer that is at least as new as `asked`.
    fn made_since(&self, key: &Key, asked: Instant) -> Option<Arc<Known>> {
        self.known.get(key).filter(|known| known.at.asked >= asked)
    }
}

/// A pointer, as it was at some moment after `asked`.
pub(crate) struct Pointed {
    pub asked: Instant,
    pub version: Version,
    pub pointer: Arc<Pointer>,
}

/// A view, and what it was made of.
struct Known {
    /// The pointer that was read before the pushes were listed.
    at: Pointed,
    live: Vec<LivePush>,
    hint: Hint,
}

/// What a tag serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    pub media_type: String,
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
}

impl Served {
    pub(crate) fn pushed(pointer: &Pointer) -> Served {
        Served { media_type: pointer.media_type.clone(), digest: pointer.digest, size: pointer.size }
    }
}

impl Known {
    fn served(&self) -> Served {
        self.hint.view.clone().unwrap_or_else(|| Served::pushed(&self.at.pointer))
    }

    fn weight(&self) -> u32 {
        let entries = self.hint.pushes.len() * 5 + self.hint.needed.len() + self.hint.missing.len();
        u32::try_from(256 + entries * size_of::<Digest>()).unwrap_or(u32::MAX)
    }
}

/// Who asks what a tag serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// A client that goes on to read it.
    Client,
    /// Somebody who looks at it. That is no use of the tag, and keeps nothing: or whatever crawls the pages would keep all.
    Onlooker,
}

impl Repo {
    /// What a tag serves now, for people to look at.
    pub(crate) async fn shown(&self, tag: &Tag) -> Result<Option<Served>> {
        let serve = |pin: Arc<Snapshot>| async move { self.served_to(Asker::Onlooker, &pin, tag).await };
        self.store.condemned.resting(serve).await
    }

    /// What a tag serves, for an answer that rests on `pin`.
    pub(crate) async fn served_now(&self, pin: &Arc<Snapshot>, tag: &Tag) -> Result<Option<Served>> {
        self.served_to(Asker::Client, pin, tag).await
    }

    async fn served_to(&self, asker: Asker, pin: &Arc<Snapshot>, tag: &Tag) -> Result<Option<Served>> {
        let key = self.tag_key(tag);
        if asker == Asker::Client {
            // Before it is read: what it says then, it goes on to say.
            self.store.condemned.rely(pin, &key).await?;
        }
        let Some(behind) = self.behind(tag).await? else {
            let Some(parent) = self.parent() else { return Ok(None) };
            return Box::pin(parent.served_to(asker, pin, tag)).await;
        };
        let pointer = &behind.at.pointer;
        if pointer.push.is_none() || !self.has_views() {
            let served = Served::pushed(pointer);
            let is_whole = self.is_whole(pin, &served.digest).await?;
            if asker == Asker::Client {
                self.touch(tag).await;
            }
            return Ok(is_whole.then_some(served));
        }
        if asker == Asker::Client {
            self.touch_all(tag, &behind).await;
        }
        let known = match self.known(pin, &key, &behind.at.version).await? {
            Some(known) => Some(known),
            None => self.make_in_turn(pin, tag, behind).await?,
        };
        let Some(known) = known else { return Ok(None) };
        let served = known.served();
        Ok(self.stays(pin, &served, known.hint.config).await?.then_some(served))
    }

    /// Waits for the other makers of this tag, and makes what they have not made. Nothing when the tag has gone meanwhile.
    ///
    /// Once begun it goes on, though the request has run out of patience: whoever asks again finds it made.
    async fn make_in_turn(&self, pin: &Arc<Snapshot>, tag: &Tag, mut behind: Behind) -> Result<Option<Arc<Known>>> {
        let key = self.tag_key(tag);
        let turn = self.store.views.turns[stripe(&key)].clone();
        let turn = match turn.clone().try_lock_owned() {
            Ok(turn) => turn,
            Err(_) => {
                let turn = in_time(turn.lock_owned().map(Ok)).await?;
                // While tags are pushed faster than views are made, the newest pointer never has its view. One that is as
                // new as this request will do.
                if let Some(known) = self.store.views.made_since(&key, behind.at.asked)
                    && !self.is_scope()
                    && self.holds(pin, &known.hint).await?
                {
                    return Ok(Some(known));
                }
                match self.behind(tag).await? {
                    Some(newer) => behind = newer,
                    None => return Ok(None),
                }
                turn
            }
        };
        let (repo, pin, tag) = (self.clone(), pin.clone(), tag.clone());
        let making = tokio::spawn(trace::carried(async move {
            let known = repo.make_known(&pin, &tag, behind).await;
            drop(turn);
            known
        }));
        in_time(async { making.await? }).await.map(Some)
    }

    /// Has the view of a tag made that was just pushed to, where another server may be asked for it next: that one finds a
    /// hint, and need not read all pushes. Whatever fails here is done when somebody asks.
    pub(crate) fn make_ahead(&self, tag: &Tag) {
        let (key, asked) = (self.tag_key(tag), Instant::now());
        // Whoever waits for the turn already reads the pointer when it has come.
        if !self.store.objects.traits().shared || !self.store.views.ahead().insert(key.clone()) {
            return;
        }
        let (repo, tag) = (self.clone(), tag.clone());
        tokio::spawn(async move {
            let views = &repo.store.views;
            let _turn = views.turns[stripe(&key)].lock().await;
            views.ahead().remove(&key);
            if views.made_since(&key, asked).is_none()
                && let Err(error) = repo.make_newest(&tag).await
            {
                tracing::info!(repo = %repo.name(), %tag, %error, "view is not made yet");
            }
        });
    }

    async fn make_newest(&self, tag: &Tag) -> Result<()> {
        let pin = self.store.condemned.pin().await?;
        match self.behind(tag).await? {
            Some(behind) if behind.at.pointer.push.is_some() => self.make_known(&pin, tag, behind).await.map(drop),
            _ => Ok(()),
        }
    }

    /// Whether what whoever asks for a tag reads next is there to stay. The layers have been looked at; manifest and config may
    /// be those of a push, and condemned with its tag, which may be deleted within the lease.
    async fn stays(&self, pin: &Snapshot, served: &Served, config: Option<Digest>) -> Result<bool> {
        let config = config.map(|digest| self.blob_keys(&digest).collect());
        for keys in std::iter::once(self.manifest_keys(&served.digest).collect()).chain(config) {
            if self.is_gone(pin, keys, false).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a manifest is served: not when it or what it names is known to be gone. Looks only for what is condemned:
    /// nothing else that a tag names can be, unless it is a parent's.
    async fn is_whole(&self, pin: &Snapshot, digest: &Digest) -> Result<bool> {
        let is_sparse = self.store.config.rule(self.name()).is_some_and(|rule| rule.sparse);
        let looks_for_all = self.is_scope() && !is_sparse;
        if pin.is_empty() && !looks_for_all {
            return Ok(true);
        }
        let (mut wave, mut seen) = (vec![*digest], HashSet::from([*digest]));
        while let Some(manifest) = wave.pop() {
            if self.is_gone(pin, self.manifest_keys(&manifest).collect(), looks_for_all).await? {
                return Ok(false);
            }
            let Some(bytes) = self.manifest_bytes(&manifest).await? else { continue };
            let Ok(parsed) = Parsed::parse(&bytes, None) else { continue };
            for blob in &parsed.blobs {
                if self.is_gone(pin, self.blob_keys(blob).collect(), looks_for_all).await? {
                    return Ok(false);
                }
            }
            wave.extend(parsed.children.into_iter().filter(|child| seen.insert(*child)));
        }
        Ok(true)
    }

    /// Whether none of the keys has anything any more. Looked for when one of them is condemned, or always.
    async fn is_gone(&self, pin: &Snapshot, keys: Vec<Key>, always: bool) -> Result<bool> {
        let looks = always || keys.iter().any(|key| pin.has(key));
        Ok(looks && self.store.found_in(pin, keys.into_iter()).await?.is_none())
    }

    /// The view that was made for this version of the pointer, when it still holds.
    async fn known(&self, pin: &Snapshot, key: &Key, version: &Version) -> Result<Option<Arc<Known>>> {
        match self.store.views.known.get(key) {
            Some(known) if known.at.version == *version && self.holds(pin, &known.hint).await? => Ok(Some(known)),
            _ => Ok(None),
        }
    }

    /// The pushes of a tag, when they were listed for this version of its pointer. None is missing: a new record is followed
    /// by a new pointer. Some may be gone: whoever expired or collected them may have stopped before the pointer.
    pub(crate) fn known_pushes(&self, tag: &Tag, version: &Version) -> Option<Vec<LivePush>> {
        let known = self.store.views.known.get(&self.tag_key(tag))?;
        (known.at.version == *version).then(|| known.live.clone())
    }

    /// The pushes that are in a view, when the tag is known to serve it.
    pub(crate) async fn pushes_in_view(&self, tag: &Tag, view: &Digest) -> Result<Vec<PushId>> {
        let hint = self.hint(tag).await?.filter(|hint| hint.view.as_ref().is_some_and(|served| served.digest == *view));
        Ok(hint.map_or(Vec::new(), |hint| hint.pushes))
    }

    /// Makes the view, unless another request has just done so or the hint in the store still holds. The pointer was read
    /// before the pushes are listed: a push that the list misses comes with a newer pointer.
    async fn make_known(&self, pin: &Snapshot, tag: &Tag, behind: Behind) -> Result<Arc<Known>> {
        let (key, at) = (self.tag_key(tag), &behind.at);
        if let Some(known) = self.known(pin, &key, &at.version).await? {
            return Ok(known);
        }
        let (live, hint) = tokio::try_join!(self.all_pushes(tag, &behind), self.hint(tag))?;
        let hint = match hint {
            Some(hint) if hint.is_of(&live) && self.holds(pin, &hint).await? => hint,
            _ => self.make(pin, tag, &at.pointer, &live).await?,
        };
        let known = Arc::new(Known { at: behind.at, live, hint });
        self.store.views.known.insert(key, known.clone());
        Ok(known)
    }

    /// Makes the view of a tag that has just been pushed for the first time. Whatever fails here is done when somebody asks.
    pub(crate) async fn know_first(&self, pin: &Snapshot, tag: &Tag, at: Pointed, push: LivePush) {
        let live = vec![push];
        match self.make(pin, tag, &at.pointer, &live).await {
            // When the push was written only a list tells for certain.
            Ok(hint) if !hint.evicted.is_empty() => {}
            Ok(hint) => {
                let known = Known { at, live, hint };
                self.store.views.known.insert(self.tag_key(tag), Arc::new(known));
            }
            Err(error) => tracing::info!(repo = %self.name(), %tag, %error, "view is not made yet"),
        }
    }
}
