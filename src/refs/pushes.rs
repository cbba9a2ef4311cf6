//! Pushes of cache manifests: records that are only ever added, and the pointer behind them.
//!
//! Two builds that push to one tag at once each write a record of their own and then the pointer; nobody reads, changes
//! and writes back. The pointer that comes last names one of the records, and a list shows them all. A reader who finds
//! the pointer unchanged knows that the records are: every record, and every expiry, is followed by a new pointer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::buildkit::{CacheManifest, Family, FormatError, Live, Push, surplus};
use crate::cache::views::Pointed;
use crate::calls::FAN_OUT;
use crate::content::condemned::Snapshot;
use crate::deadline::{patiently, within};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::hot::Slot;
use crate::layout;
use crate::layout::{Place, PushId, RepoItem};
use crate::names::Tag;
use crate::objects;
use crate::objects::{Key, READ_BYTES_MAX, Read};
use crate::refs::tags::Pointer;
use crate::store::Repo;

/// Push records of one tag. Beyond, the oldest of the largest family goes first.
pub const PUSHES_MAX: usize = 64;
/// A push that is older than this, of a tag that was not served for as long, makes room when the next push comes.
const UNUSED_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long a reader waits until the use of a tag is noted.
const NOTED_WITHIN: Duration = Duration::from_secs(1);

/// Content of a push record: what expiry wants to know without reading the push. It follows from the manifest, so that
/// writing a record again writes the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    family: Option<Family>,
}

/// A push record, as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivePush {
    pub id: PushId,
    /// When it was pushed, by the backend's clock.
    pub at: SystemTime,
}

/// What became of a push.
pub(crate) enum Found {
    Push(Push),
    NoManifest,
    /// The blob with its records is gone or damaged.
    NoConfig(Digest),
    /// Not one that BuildKit would know, and why.
    NoCache(String),
}

impl Repo {
    /// Cache tags of this repository serve views.
    pub(crate) fn has_views(&self) -> bool {
        self.store.config.rule(self.name()).is_none_or(|rule| rule.views)
    }

    /// The push that a cache manifest makes which has just been sent.
    pub(crate) async fn new_push(&self, manifest: &Bytes) -> Result<Push> {
        match self.parse_push(manifest).await? {
            Found::Push(push) => Ok(push),
            // It was there a moment ago, and its bytes are wrong: the builder is to send it again.
            Found::NoConfig(digest) => Err(Error::ManifestBlobUnknown(vec![digest])),
            Found::NoManifest => Err(Error::Internal("manifest is gone".into())),
            Found::NoCache(reason) => Err(Error::ManifestInvalid(reason)),
        }
    }

    /// A push that was recorded.
    pub(crate) async fn find_push(&self, id: &PushId) -> Result<Found> {
        match self.manifest_bytes(&id.manifest).await? {
            Some(bytes) => self.parse_push(&bytes).await,
            None => Ok(Found::NoManifest),
        }
    }

    pub(crate) async fn parse_push(&self, manifest: &Bytes) -> Result<Found> {
        let detecting = manifest.clone();
        let manifest = match tokio::task::spawn_blocking(move || CacheManifest::detect(&detecting)).await? {
            Ok(Some(manifest)) => manifest,
            Ok(None) => return Ok(Found::NoCache("not a cache manifest".to_string())),
            Err(error) => return Ok(Found::NoCache(error.to_string())),
        };
        let digest = manifest.config.digest;
        let too_large = |manifest, bytes: u64| {
            let (bytes, max) = (bytes as usize, READ_BYTES_MAX as usize);
            let error = FormatError::TooLarge { what: "cacheconfig", bytes, max };
            Ok(Found::Push(Push { manifest, config: Err(error) }))
        };
        if manifest.config.size > READ_BYTES_MAX {
            let told = manifest.config.size;
            return too_large(manifest, told);
        }
        match self.store.small_in(self.blob_keys(&digest), digest).await {
            Ok(bytes) => Ok(Found::Push(tokio::task::spawn_blocking(move || Push::new(manifest, &bytes)).await?)),
            Err(Error::BlobUnknown(_)) => Ok(Found::NoConfig(digest)),
            // What a manifest says of a size need not be true.
            Err(error) => match self.size_of(&digest).await? {
                Some(size) if size > READ_BYTES_MAX => too_large(manifest, size),
                _ => Err(error),
            },
        }
    }

    /// Bytes of a blob that is in the store.
    async fn size_of(&self, digest: &Digest) -> Result<Option<u64>> {
        for key in self.blob_keys(digest) {
            if let Some(meta) = self.store.head(&key).await? {
                return Ok(Some(meta.size));
            }
        }
        Ok(None)
    }

    /// Adds a push to a cache tag: the record, then what it makes expire, then the pointer.
    pub(crate) async fn put_push(&self, pin: &Snapshot, tag: &Tag, mut pointer: Pointer, push: &Push) -> Result<()> {
        let id = PushId { identity: push.identity(), manifest: pointer.digest };
        let (before, live) = match self.store.pointer(&self.tag_key(tag)).await? {
            Some((version, before)) => {
                let live = match self.known_pushes(tag, &version) {
                    Some(known) => known,
                    None => self.pushes(tag).await?,
                };
                (Some(before), live)
            }
            None => (None, Vec::new()),
        };
        pointer.push = Some(id);
        let is_new = before.is_none();
        let known = live.iter().find(|live| live.id.identity == id.identity);
        // A record whose pointer never came is seen by nobody who remembers the pointer before it: its push begins again.
        if let (Some(before), Some(known)) = (before.filter(|before| before.push.is_some()), known)
            && before.follows(&known.id)
            && self.has_record(pin, tag, known).await?
        {
            return self.push_again(pin, tag, &before, pointer, known, live.len()).await;
        }
        let key = layout::push(self.tenant(), self.name(), tag, &id);
        let family = push.family();
        let record = serde_json::to_vec(&Record { family: family.clone() });
        let record: Bytes = record.map_err(|error| Error::Internal(error.to_string().into()))?.into();
        self.store.condemned.rely(pin, &key).await?;
        if !self.store.config.collect.ingredients.record_before_pointer() {
            self.put_tag(pin, tag, pointer.clone()).await?;
            self.store.put(&key, record).await?;
            return Ok(());
        }
        let at = self.store.put(&key, record.clone()).await?.modified;
        self.store.hot.keep_pushed(Slot::Whole(key), &record);
        pointer.follows = live.iter().map(|push| push.id.short()).collect();
        let expired = self.expired(tag, live, family).await?;
        if !expired.is_empty() {
            tracing::info!(repo = %self.name(), %tag, pushes = expired.len(), "old pushes made room");
            self.store.delete(&expired).await?;
        }
        // The record tells by its own time that the tag is in use.
        self.store.used.insert(layout::used(self.tenant(), self.name(), tag), Instant::now());
        // The first push of a tag is all that there is, as long as nobody else was first and no parent has the tag: its view
        // is made from what is at hand, so that the next look at the tag costs one call.
        let asked = Instant::now();
        if is_new
            && !self.is_scope()
            && let Some(version) = self.put_new_tag(pin, tag, &pointer).await?
        {
            let pointed = Pointed { asked, version, pointer: Arc::new(pointer) };
            self.know_first(pin, tag, pointed, LivePush { id, at }).await;
            return Ok(());
        }
        self.put_tag(pin, tag, pointer).await?;
        self.make_ahead(tag);
        Ok(())
    }

    /// Whether a record that was listed some time ago is there, and there to stay.
    async fn has_record(&self, pin: &Snapshot, tag: &Tag, push: &LivePush) -> Result<bool> {
        let record = layout::push(self.tenant(), self.name(), tag, &push.id);
        self.store.condemned.rely(pin, &record).await?;
        Ok(self.store.stat(&record).await?.is_some())
    }

    /// A push that is there already makes no record.
    async fn push_again(
        &self,
        pin: &Snapshot,
        tag: &Tag,
        before: &Pointer,
        pointer: Pointer,
        known: &LivePush,
        live: usize,
    ) -> Result<()> {
        let is_old = self
            .store
            .clock
            .now()
            .duration_since(known.at)
            .is_ok_and(|age| age > self.store.config.collect.renewed_every());
        // Alone, a push is served as it is: then as it was sent last, so that its builder finds its own digest and sends
        // nothing next time.
        let is_served_as_is = live == 1 && before.push == Some(known.id);
        if is_old {
            // Written once more, so that what is pushed all the time does not count as the oldest; then the pointer, as
            // after any change of the records.
            let key = layout::push(self.tenant(), self.name(), tag, &known.id);
            let record = read_whole(&*self.store.objects, &key).await?;
            self.store.put(&key, record).await?;
        }
        if is_old || is_served_as_is && before.digest != pointer.digest {
            let pointer = match before.push == Some(known.id) {
                true => Pointer { push: before.push, follows: before.follows.clone(), ..pointer },
                false => Pointer { pushed: pointer.pushed, ..before.clone() },
            };
            self.put_tag(pin, tag, pointer).await?;
        }
        self.touch(tag).await;
        Ok(())
    }

    /// Points a tag to a manifest that is no push. What was pushed to it as a cache before goes: it must not come back
    /// with the next cache.
    pub(crate) async fn put_plain(&self, pin: &Snapshot, tag: &Tag, pointer: Pointer) -> Result<()> {
        if self.tag(tag).await?.is_some_and(|before| before.push.is_some()) {
            self.store.delete(&self.push_keys(tag).await?).await?;
        }
        self.put_tag(pin, tag, pointer).await
    }

    /// What a cache tag with this pointer is made of, oldest first. The pointer is a push by itself, should its record be
    /// gone: deleted together with the tag to which it came just after.
    pub(crate) async fn pushes_behind(&self, tag: &Tag, pointer: &Pointer) -> Result<Vec<LivePush>> {
        let mut live = self.pushes(tag).await?;
        if let Some(push) = pointer.push
            && !live.iter().any(|live| live.id.identity == push.identity)
        {
            live.push(LivePush { id: PushId { manifest: pointer.digest, ..push }, at: pointer.pushed.into() });
        }
        Ok(live)
    }

    /// The pushes of a tag, oldest first, one for each identity.
    pub(crate) async fn pushes(&self, tag: &Tag) -> Result<Vec<LivePush>> {
        let mut live = self.push_records(tag).await?;
        // Two servers may have written one push at once, from manifests that differ in their notes only.
        let mut seen = std::collections::HashSet::new();
        live.reverse();
        live.retain(|push| seen.insert(push.id.identity));
        live.reverse();
        Ok(live)
    }

    /// The push records of a tag, oldest first.
    async fn push_records(&self, tag: &Tag) -> Result<Vec<LivePush>> {
        let prefix = layout::pushes_prefix(self.tenant(), self.name(), tag);
        let mut live = Vec::new();
        for meta in self.store.list(&prefix).await? {
            if let Some(Place::Repo { item: RepoItem::Push(_, id), .. }) = layout::parse(meta.key.as_str()) {
                live.push(LivePush { id, at: meta.modified });
            }
        }
        live.sort_by_key(|push| (push.at, push.id));
        Ok(live)
    }

    /// All that a cache tag has beside its pointer.
    pub(crate) async fn push_keys(&self, tag: &Tag) -> Result<Vec<Key>> {
        let prefix = layout::pushes_prefix(self.tenant(), self.name(), tag);
        let mut keys =
            vec![layout::view(self.tenant(), self.name(), tag), layout::used(self.tenant(), self.name(), tag)];
        keys.extend(self.store.list(&prefix).await?.into_iter().map(|meta| meta.key));
        Ok(keys)
    }

    /// Which of the pushes go, when one more of `family` comes.
    async fn expired(&self, tag: &Tag, live: Vec<LivePush>, family: Option<Family>) -> Result<Vec<Key>> {
        let key = |push: &LivePush| layout::push(self.tenant(), self.name(), tag, &push.id);
        let now = self.store.clock.now();
        let is_old = |at: &SystemTime| now.duration_since(*at).is_ok_and(|age| age > UNUSED_MAX);
        let (mut old, mut live): (Vec<_>, Vec<_>) = live.into_iter().partition(|push| is_old(&push.at));
        if !old.is_empty() {
            let used = self.store.stat(&layout::used(self.tenant(), self.name(), tag)).await?;
            if used.is_some_and(|used| !is_old(&used.modified)) {
                old.append(&mut live);
                live = std::mem::take(&mut old);
            }
        }
        let mut expired: Vec<Key> = old.iter().map(key).collect();
        if live.len() < PUSHES_MAX {
            return Ok(expired);
        }
        let reads = live.iter().enumerate().map(|(order, push)| {
            let (objects, hot, record) = (self.store.objects.clone(), self.store.hot.clone(), key(push));
            async move {
                // Not checked against a digest: records are small, ours, and only say what goes first.
                let owned = record.clone();
                let read = hot
                    .get(&Slot::Whole(record.clone()), 0, || async move { read_whole(&*objects, &owned).await })
                    .await?;
                let record: Option<Record> = serde_json::from_slice(&read).ok();
                Ok::<_, Error>((order, record.and_then(|record| record.family)))
            }
        });
        let families: Vec<(usize, Option<Family>)> =
            stream::iter(reads.collect::<Vec<_>>()).buffered(FAN_OUT).try_collect().await?;
        // A push that cannot be read is a family of its own kind.
        let unread = || Family { leaves: Digest::sha256(b""), roots: Default::default() };
        let mut pushes: Vec<Live<Option<Key>, usize>> = families
            .into_iter()
            .map(|(order, family)| Live { id: Some(key(&live[order])), order, family: family.unwrap_or_else(unread) })
            .collect();
        pushes.push(Live { id: None, order: usize::MAX, family: family.unwrap_or_else(unread) });
        expired.extend(surplus(&pushes, PUSHES_MAX).into_iter().flatten());
        Ok(expired)
    }

    /// Notes that the tag is in use, once an hour at most. A store that takes no writes does not keep anybody from
    /// reading: then the note is tried again with the next use.
    pub(crate) async fn touch(&self, tag: &Tag) {
        let key = layout::used(self.tenant(), self.name(), tag);
        if self.store.used.get(&key).is_some_and(|at| at.elapsed() < self.store.config.collect.used_every()) {
            return;
        }
        self.store.used.insert(key.clone(), Instant::now());
        self.store.stock.used(self.tenant(), self.name(), tag);
        let body = serde_json::json!({ "at": jiff::Timestamp::now() }).to_string();
        if let Err(error) = within(NOTED_WITHIN, self.store.put(&key, body)).await {
            tracing::warn!(%key, %error, "last use cannot be noted");
            self.store.used.invalidate(&key);
        }
    }

    /// Notes that a tag is in use whose manifest was read by its digest: of several tags, the one that was pushed or used
    /// last, so that what was read stays. Looked for once an hour at most. Nobody waits for a bucket: what is served from
    /// memory while that is away needs none.
    pub(crate) async fn touch_digest(&self, digest: &Digest) {
        let key = self.manifest_key(digest);
        if self.store.used.get(&key).is_some_and(|at| at.elapsed() < self.store.config.collect.used_every()) {
            return;
        }
        self.store.used.insert(key, Instant::now());
        for repo in self.each() {
            if let Some(tag) = self.store.stock.tag_of(repo.tenant(), repo.name(), digest) {
                match self.store.objects.traits().remote {
                    true => drop(tokio::spawn(async move { repo.touch(&tag).await })),
                    false => repo.touch(&tag).await,
                }
            }
        }
    }

    /// Ends all that serves a manifest which is about to be deleted: tags that point to it, pushes that are it, and, when
    /// it is the view of a tag, the pushes that are in it.
    pub(crate) async fn withdraw(&self, digest: &Digest) -> Result<()> {
        for (tag, pointer) in self.pointers().await? {
            if pointer.push.is_none() {
                if pointer.digest == *digest {
                    self.remove_tag(&tag).await?;
                }
                continue;
            }
            let in_view = self.pushes_in_view(&tag, digest).await?;
            let goes = |push: &LivePush| push.id.manifest == *digest || in_view.contains(&push.id);
            let (gone, left): (Vec<_>, Vec<_>) = self.push_records(&tag).await?.into_iter().partition(goes);
            if gone.is_empty() && pointer.digest != *digest {
                continue;
            }
            let Some(newest) = left.last() else {
                self.remove_tag(&tag).await?;
                continue;
            };
            let key = |push: &LivePush| layout::push(self.tenant(), self.name(), &tag, &push.id);
            self.store.delete(&gone.iter().map(key).collect::<Vec<_>>()).await?;
            self.point_to(&tag, newest.id).await?;
        }
        Ok(())
    }

    async fn point_to(&self, tag: &Tag, id: PushId) -> Result<()> {
        let pin = &*self.store.condemned.pin().await?;
        let Some(bytes) = self.manifest_bytes(&id.manifest).await? else { return self.remove_tag(tag).await };
        let parsed = crate::refs::manifests::Parsed::parse(&bytes, None)?;
        let mut pointer = Pointer::new(id.manifest, parsed.media_type, bytes.len() as u64);
        pointer.push = Some(id);
        self.put_tag(pin, tag, pointer).await
    }
}

async fn read_whole(objects: &dyn objects::Objects, key: &Key) -> Result<Bytes> {
    match patiently(|| objects.read(key, None)).await {
        Ok(Read::Fresh(_, bytes)) => Ok(bytes),
        Ok(Read::Same) | Err(objects::Error::NotFound) => Ok(Bytes::new()),
        Err(error) => Err(error.into()),
    }
}
