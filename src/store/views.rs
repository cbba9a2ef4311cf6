//! What a cache tag serves: the view of its pushes, made when it is asked for and kept until something it rests on
//! changes.
//!
//! A view rests on two things: the pushes, which the tag's pointer proves unchanged, and which of their layers are in
//! the store, which is looked at for every answer. So a layer that was lost costs the next build a step, not its life,
//! and one that came back is served again.
//!
//! Manifest and config of a view are stored like any other content, before the view is announced: every server can serve
//! what another announced.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::condemned::Snapshot;
use super::layout::PushId;
use super::manifests::{OCI_MANIFEST, Parsed, media_type_of};
use super::patience::{in_time, patiently};
use super::pushes::{Found, LivePush};
use super::scope::Behind;
use super::stock::Weight;
use super::tags::Pointer;
use super::{Error, FAN_OUT, Repo, Result, STRIPES, layout, stripe};
use crate::buildkit::{Explanation, Outcome, Push, View, view};
use crate::digest::Digest;
use crate::hot::Slot;
use crate::names::Tag;
use crate::objects::{self, Distance, Key, Read, Version};

/// Memory for what is known of views.
const VIEWS_BYTES_MAX: u64 = 64 << 20;
/// Views made at once: each loads all pushes of its tag.
const MAKERS: usize = 2;
/// Manifests and configs of the pushes that one view is made from, in bytes. Parsed they take several times as much. Of
/// pushes that come to more, the newest are united.
const LOADED_BYTES_MAX: u64 = 64 << 20;
/// Pushes loaded at once for one view.
const LOADS: usize = 4;
/// Which rules a view was made by. A hint of other rules does not count: to be raised with every change of what
/// `buildkit` makes of the same pushes.
const RULES: u32 = 1;

/// The views that this server has made or found.
pub struct Views {
    known: Cache<Key, Arc<Known>>,
    /// One maker for a tag at a time: what the others wait for, they find made.
    turns: [Arc<tokio::sync::Mutex<()>>; STRIPES],
    /// Tags whose view will be made without anybody having asked for it.
    ahead: Mutex<HashSet<Key>>,
    makers: Semaphore,
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
pub(super) struct Pointed {
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

/// Content of `views/<tag>`: a server that has not seen the tag need not make its view again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hint {
    #[serde(default)]
    rules: u32,
    /// Oldest first.
    pushes: Vec<PushId>,
    /// Blobs that the view names.
    needed: Vec<Digest>,
    /// Its config, which whoever imports it reads.
    #[serde(default)]
    config: Option<Digest>,
    /// Blobs that pushes name and the store did not have: layers, and configs, without which a push is not in the view.
    missing: Vec<Digest>,
    /// Manifests of pushes that the store did not have.
    missing_manifests: Vec<Digest>,
    /// What is served; nothing when it is the newest push as it was sent.
    view: Option<Served>,
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
    pub(super) fn pushed(pointer: &Pointer) -> Served {
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

impl Repo {
    /// What a tag serves now.
    pub async fn served(&self, tag: &Tag) -> Result<Option<Served>> {
        let serve = |pin: Arc<Snapshot>| async move { self.served_now(&pin, tag).await };
        self.store.condemned.resting(serve).await
    }

    /// What a tag serves, for an answer that rests on `pin`.
    pub(super) async fn served_now(&self, pin: &Arc<Snapshot>, tag: &Tag) -> Result<Option<Served>> {
        let key = self.tag_key(tag);
        // Before it is read: what it says then, it goes on to say.
        self.store.condemned.rely(pin, &key).await?;
        let Some(behind) = self.behind(tag).await? else {
            let Some(parent) = self.parent() else { return Ok(None) };
            return Box::pin(parent.served_now(pin, tag)).await;
        };
        let pointer = &behind.at.pointer;
        if pointer.push.is_none() || !self.has_views() {
            let served = Served::pushed(pointer);
            let is_whole = self.is_whole(pin, &served.digest).await?;
            self.touch(tag).await;
            return Ok(is_whole.then_some(served));
        }
        self.touch_all(tag, &behind).await;
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
        let making = tokio::spawn(async move {
            let known = repo.make_known(&pin, &tag, behind).await;
            drop(turn);
            known
        });
        in_time(async { making.await? }).await.map(Some)
    }

    /// Has the view of a tag made that was just pushed to, where another server may be asked for it next: that one finds a
    /// hint, and need not read all pushes. Whatever fails here is done when somebody asks.
    pub(super) fn make_ahead(&self, tag: &Tag) {
        let (key, asked) = (self.tag_key(tag), Instant::now());
        // Whoever waits for the turn already reads the pointer when it has come.
        if self.store.objects.distance() == Distance::Near || !self.store.views.ahead().insert(key.clone()) {
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
    pub(super) fn known_pushes(&self, tag: &Tag, version: &Version) -> Option<Vec<LivePush>> {
        let known = self.store.views.known.get(&self.tag_key(tag))?;
        (known.at.version == *version).then(|| known.live.clone())
    }

    /// The pushes that are in a view, when the tag is known to serve it.
    pub(super) async fn pushes_in_view(&self, tag: &Tag, view: &Digest) -> Result<Vec<PushId>> {
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
    pub(super) async fn know_first(&self, pin: &Snapshot, tag: &Tag, at: Pointed, push: LivePush) {
        let live = vec![push];
        match self.make(pin, tag, &at.pointer, &live).await {
            Ok(hint) => {
                let known = Known { at, live, hint };
                self.store.views.known.insert(self.tag_key(tag), Arc::new(known));
            }
            Err(error) => tracing::info!(repo = %self.name(), %tag, %error, "view is not made yet"),
        }
    }

    async fn hint(&self, tag: &Tag) -> Result<Option<Hint>> {
        let key = layout::view(self.tenant(), self.name(), tag);
        match patiently(|| self.store.objects.read(&key, None)).await {
            Ok(Read::Fresh(_, bytes)) => Ok(serde_json::from_slice(&bytes).ok()),
            Ok(Read::Same) | Err(objects::Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the store has what the view needs, and still lacks what it was made without.
    async fn holds(&self, pin: &Snapshot, hint: &Hint) -> Result<bool> {
        // Whoever asks for the tag reads these two next.
        let own = hint.view.iter().map(|view| (self.manifest_keys(&view.digest).collect(), view.digest));
        let config = hint.config.iter().map(|digest| (self.blob_keys(digest).collect(), *digest));
        let read = own.chain(config).map(|(keys, digest): (Vec<Key>, Digest)| {
            let store = self.store.clone();
            async move { store.readable_in(pin, keys.into_iter(), &digest).await }.boxed()
        });
        let blobs = |digest: &Digest| self.blob_keys(digest).collect::<Vec<_>>();
        let needed = hint.needed.iter().filter(|digest| hint.config.as_ref() != Some(digest));
        let needed = needed.map(|digest| (blobs(digest), true));
        let manifests = hint.missing_manifests.iter().map(|digest| self.manifest_keys(digest).collect());
        let missing = hint.missing.iter().map(blobs).chain(manifests).map(|keys| (keys, false));
        let looks = needed.chain(missing).map(|(keys, expected)| {
            let store = self.store.clone();
            async move { Ok::<_, Error>(store.servable_in(pin, keys.into_iter()).await? == expected) }.boxed()
        });
        let mut looks = stream::iter(read.chain(looks).collect::<Vec<_>>()).buffered(FAN_OUT);
        while let Some(as_expected) = looks.try_next().await? {
            if !as_expected {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes the view of these pushes and stores it.
    async fn make(&self, pin: &Snapshot, tag: &Tag, pointer: &Pointer, live: &[LivePush]) -> Result<Hint> {
        let began = Instant::now();
        let made = self.united(pin, live).await?;
        let mut needed = made.present;
        let mut config = None;
        let mut weight = None;
        let view = match made.view {
            Some((View { outcome: Outcome::Merged(merged), explanation }, _)) => {
                let served = Served {
                    media_type: OCI_MANIFEST.to_string(),
                    digest: Digest::sha256(&merged.manifest),
                    size: merged.manifest.len() as u64,
                };
                let parsed = Parsed::parse(&merged.manifest, None).ok();
                weight = parsed.as_ref().map(|parsed| Weight::of(parsed, served.size));
                needed = parsed.map(|parsed| parsed.blobs).unwrap_or_default();
                config = Some(merged.config_digest);
                self.report(tag, &explanation, began);
                self.store_view(pin, served.digest, merged.manifest, merged.config_digest, merged.config).await?;
                Some(served)
            }
            Some((View { outcome: Outcome::Unchanged(index), .. }, first)) => {
                let push = made.pushes.get(first + index);
                config = push.map(|(_, push)| push.manifest.config.digest);
                match push.map(|(id, _)| *id) {
                    // The pointer has it as it was sent last.
                    Some(id) if pointer.push.is_none_or(|push| push.identity == id.identity) => None,
                    Some(id) => self.as_pushed(&id).await?,
                    None => None,
                }
            }
            // There is nothing better to serve than what was pushed last.
            None => None,
        };
        if let Some(weight) = weight {
            self.store.stock.viewed(self.tenant(), self.name(), tag, live.len(), weight);
        }
        let hint = Hint {
            rules: RULES,
            pushes: live.iter().map(|push| push.id).collect(),
            needed,
            config,
            missing: made.missing,
            missing_manifests: made.missing_manifests,
            view,
        };
        // One push that is served as it is: to find that out costs no more than to read a hint.
        if hint.view.is_none() && live.len() <= 1 {
            return Ok(hint);
        }
        let body = serde_json::to_vec(&hint).map_err(|error| Error::Internal(error.to_string().into()))?;
        // Without it, another server makes the same view again.
        let key = layout::view(self.tenant(), self.name(), tag);
        if let Err(error) = self.store.put(&key, body).await {
            tracing::warn!(%key, %error, "view is not hinted");
        }
        Ok(hint)
    }

    /// A push that is served byte for byte.
    async fn as_pushed(&self, id: &PushId) -> Result<Option<Served>> {
        let Some(bytes) = self.manifest_bytes(&id.manifest).await? else { return Ok(None) };
        let media_type = media_type_of(&bytes)?.to_string();
        Ok(Some(Served { media_type, digest: id.manifest, size: bytes.len() as u64 }))
    }

    /// Loads the pushes of a tag, the newest first and as many as may be, and unites them.
    pub(super) async fn united(&self, pin: &Snapshot, live: &[LivePush]) -> Result<United> {
        let _maker = self.store.views.makers.acquire().await.map_err(|_| Error::Busy)?;
        let loads = live.iter().rev().map(|push| {
            let (repo, id) = (self.clone(), push.id);
            async move { Ok::<_, Error>((id, repo.find_push(&id).await?)) }
        });
        let mut loads = stream::iter(loads.collect::<Vec<_>>()).buffered(LOADS);
        let (mut pushes, mut missing, mut missing_manifests) = (Vec::new(), Vec::new(), Vec::new());
        let mut loaded_bytes = 0;
        while let Some((id, found)) = loads.try_next().await? {
            match found {
                Found::Push(push) => {
                    loaded_bytes += push.manifest.bytes + push.manifest.config.size;
                    if loaded_bytes > LOADED_BYTES_MAX && !pushes.is_empty() {
                        tracing::warn!(repo = %self.name(), loaded = pushes.len(), "older pushes are too much to unite");
                        break;
                    }
                    pushes.push((id, push));
                }
                Found::NoConfig(digest) => missing.push(digest),
                Found::NoManifest => missing_manifests.push(id.manifest),
                Found::NoCache(reason) => tracing::warn!(push = %id.manifest, reason, "push cannot be read"),
            }
        }
        drop(loads);
        pushes.reverse();
        let layers = pushes.iter().flat_map(|(_, push)| &push.manifest.layers).map(|layer| layer.digest);
        let named: BTreeSet<Digest> = layers.collect();
        let present = self.present(pin, named.iter().copied()).await?;
        missing.extend(named.iter().filter(|digest| !present.contains(*digest)));
        missing.sort_unstable();
        let (ids, pushes): (Vec<PushId>, Vec<Push>) = pushes.into_iter().unzip();
        let making = tokio::task::spawn_blocking(move || {
            let view = view_of(&pushes, &|digest: &Digest| present.contains(digest));
            (view, pushes, present)
        });
        let (view, pushes, present) = making.await?;
        let mut present: Vec<Digest> = present.into_iter().collect();
        present.sort_unstable();
        Ok(United { view, pushes: ids.into_iter().zip(pushes).collect(), present, missing, missing_manifests })
    }

    /// Which of these blobs the store has.
    async fn present(&self, pin: &Snapshot, digests: impl Iterator<Item = Digest>) -> Result<HashSet<Digest>> {
        let looks = digests.map(|digest| async move {
            Ok::<_, Error>(self.store.servable_in(pin, self.blob_keys(&digest)).await?.then_some(digest))
        });
        let found = stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(FAN_OUT);
        found.try_filter_map(|found| async move { Ok(found) }).try_collect().await
    }

    /// Content before pointer, here as everywhere: the config, then the manifest that names it.
    async fn store_view(
        &self,
        pin: &Snapshot,
        digest: Digest,
        manifest: Bytes,
        config: Digest,
        bytes: Bytes,
    ) -> Result<()> {
        let size = bytes.len() as u64;
        for (key, bytes) in [(self.blob_key(&config), bytes), (self.manifest_key(&digest), manifest)] {
            self.store.condemned.rely(pin, &key).await?;
            match self.noticing(self.store.put_content(&key, bytes.clone()).await) {
                // Reads go on: this server has it in memory, and makes it again when it has not.
                Err(Error::Full) => tracing::warn!(%key, "view is not stored, the store is full"),
                done => drop(done?),
            }
            self.store.hot.keep_pushed(Slot::Whole(key), &bytes);
        }
        self.store.usage().account(self.tenant()).added(size);
        Ok(())
    }

    fn report(&self, tag: &Tag, explanation: &Explanation, began: Instant) {
        let metrics = &self.store.metrics;
        metrics.views_made.inc();
        metrics.view_seconds.observe(began.elapsed().as_secs_f64());
        metrics.view_pushes.inc_by(explanation.pushes_out as u64);
        metrics.view_records.inc_by(explanation.records_out as u64);
        metrics.view_layers.inc_by(explanation.layers_out as u64);
        metrics.view_layers_missing.inc_by(explanation.missing_layers.len() as u64);
        let trimmed = explanation.trimmed_records + explanation.trimmed_results + explanation.trimmed_pushes.len();
        if trimmed > 0 {
            metrics.views_trimmed.inc();
        }
        tracing::info!(
            repo = %self.name(),
            %tag,
            pushes = explanation.pushes_out,
            records = explanation.records_out,
            layers = explanation.layers_out,
            layers_missing = explanation.missing_layers.len(),
            trimmed,
            micros = began.elapsed().as_micros() as u64,
            "view made"
        );
    }
}

/// What the pushes of a tag come to.
pub(super) struct United {
    /// The view, and the index of the first push that it was made from.
    pub view: Option<(View, usize)>,
    /// Those that could be loaded, oldest first.
    pub pushes: Vec<(PushId, Push)>,
    /// Their layers that the store has.
    present: Vec<Digest>,
    missing: Vec<Digest>,
    missing_manifests: Vec<Digest>,
}

/// The view of all pushes; where that is more than can be united, the newest alone is still better than nothing.
fn view_of(pushes: &[Push], present: &dyn Fn(&Digest) -> bool) -> Option<(View, usize)> {
    match view(pushes, present) {
        Ok(all) => Some((all, 0)),
        Err(reason) => {
            tracing::warn!(pushes = pushes.len(), %reason, "pushes are not united");
            let newest = pushes.len().checked_sub(1)?;
            Some((view(&pushes[newest..], present).ok()?, newest))
        }
    }
}

impl Hint {
    fn is_of(&self, live: &[LivePush]) -> bool {
        self.rules == RULES && self.pushes.iter().eq(live.iter().map(|push| &push.id))
    }
}

/// The manifest that the view of a hint is, where there is one.
pub(super) async fn hinted(store: &super::Store, key: &Key) -> Result<Option<Digest>> {
    match patiently(|| store.objects.read(key, None)).await {
        Ok(Read::Fresh(_, bytes)) => {
            let hint: Option<Hint> = serde_json::from_slice(&bytes).ok();
            Ok(hint.and_then(|hint| hint.view).map(|view| view.digest))
        }
        Ok(Read::Same) | Err(objects::Error::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
