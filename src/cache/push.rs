//! Pushes: a manifest is stored, and the tags that it is pushed to point to it. A cache manifest makes a push record on
//! each of its tags, beside the pushes of others.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::load::NotLoaded;
use super::service::Caches;
use crate::buildkit::{CacheManifest, Family, FamilyMember, Push, surplus};
use crate::calls::{FAN_OUT, json};
use crate::content::Pin;
use crate::digest::{Algorithm, Digest, hash};
use crate::error::{Error, Result};
use crate::events::{BuildCaller, Event};
use crate::names::{Tag, Tenant};
use crate::oci::{Document, ManifestContent};
use crate::refs::chain::VersionedPointer;
use crate::refs::inventory::Weight;
use crate::refs::pointer::Pointer;
use crate::refs::pushes::{LivePush, PushId};
use crate::refs::{Repo, RepoWriter};
use crate::turns::Turn;

/// Maximum number of push records of one tag. Beyond it, the oldest of the largest family expires first.
pub const PUSHES_MAX: usize = 64;
/// Age of a push, and idle time of its tag, after which the push expires when the next one comes.
const UNUSED_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Size in bytes from which the family of a config is remembered, so that the config is parsed once.
const LONG_TO_PARSE: u64 = 256 << 10;

/// Content of a push record: the data that expiry needs, so that it need not read the push. It follows from the
/// manifest, so a record that is written again is the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct PushRecord {
    family: Option<Family>,
}

/// A manifest as a client sends it.
pub struct ManifestPush<'a> {
    /// The digest, if the client announced it.
    pub digest: Option<Digest>,
    /// The tags that will point to the manifest.
    pub tags: &'a [Tag],
    /// The `Content-Type` of the request.
    pub content_type: Option<&'a str>,
    pub bytes: Bytes,
    /// The build that sends it, for events.
    pub by: BuildCaller,
}

/// A push that is being recorded.
struct NewPush {
    identity: Digest,
    family: Option<Family>,
    /// The parsed push; absent if its config was parsed before.
    parsed: Option<ParsedPush>,
}

/// A push whose config cannot be read.
struct ConfigGone(Digest);

/// A push that has just been parsed, with the memory taken for it.
struct ParsedPush {
    push: Arc<Push>,
    _memory: Turn<Tenant>,
}

/// The result of a push.
#[derive(Clone, Debug)]
pub struct Pushed {
    pub digest: Digest,
    pub subject: Option<Digest>,
}

/// Parses a manifest for the registry and, if it is a cache, for BuildKit. The bytes are parsed once for both.
fn read_manifest(
    bytes: &[u8],
    sent_as: Option<&str>,
    makes_pushes: bool,
) -> Result<(ManifestContent, Option<CacheManifest>)> {
    let document = Document::parse(bytes)?;
    let parsed = document.content_sent_as(sent_as)?;
    let cache = if parsed.cache && makes_pushes { Some(cache_manifest(&document, bytes.len())?) } else { None };
    Ok((parsed, cache))
}

/// Reads a manifest that the registry takes for a cache, as BuildKit reads it.
fn cache_manifest(document: &Document, bytes: usize) -> Result<CacheManifest> {
    let invalid = |reason: String| Error::ManifestInvalid(reason);
    let manifest = CacheManifest::of(document, bytes).map_err(|error| invalid(error.to_string()))?;
    manifest.ok_or_else(|| invalid("not a cache manifest".to_string()))
}

impl Caches {
    /// Stores a manifest and points its tags to it.
    pub async fn push(&self, to: &RepoWriter, push: ManifestPush<'_>) -> Result<Pushed> {
        let algorithm = push.digest.map_or(Algorithm::Sha256, |digest| digest.algorithm());
        let digest = hash(algorithm, push.bytes.clone()).await?;
        if let Some(claimed) = push.digest.filter(|claimed| *claimed != digest) {
            return Err(Error::DigestMismatch { claimed: Box::new(claimed), actual: Box::new(digest) });
        }
        let makes_pushes = to.repo().has_views() && !push.tags.is_empty();
        let (bytes, sent_as) = (push.bytes.clone(), push.content_type.map(str::to_string));
        let parse = move || read_manifest(&bytes, sent_as.as_deref(), makes_pushes);
        let (parsed, cache) = self.parse_manifest(to.repo(), push.bytes.len(), parse).await??;
        let _place = to.reserve_manifest(&digest, &parsed, push.bytes.len() as u64, push.tags.len()).await?;
        // Before the pin and the lock: a config may have to wait for memory, and takes long to parse.
        let new = match &cache {
            Some(cache) => Some(self.new_push(to.repo(), cache).await?),
            None => None,
        };
        let (content, bytes) = ((&parsed, new.as_ref()), &push.bytes);
        let store = |pin: Pin| async move { self.store(&pin, to, digest, push.tags, content, bytes).await };
        to.repo().content().pinned(to.repo().deadline(), store).await?;
        if !push.tags.is_empty() {
            self.refs().events().emit(Event::Pushed {
                tenant: to.repo().tenant(),
                repo: to.repo().name(),
                tags: push.tags,
                cache: parsed.cache,
                bytes: bytes.len() as u64,
                layers: &parsed.layers(),
                by: &push.by,
            });
        }
        Ok(Pushed { digest, subject: parsed.subject })
    }

    /// Writes content, then record, then pointer.
    async fn store(
        &self,
        pin: &Pin,
        to: &RepoWriter,
        digest: Digest,
        tags: &[Tag],
        (parsed, push): (&ManifestContent, Option<&std::result::Result<NewPush, ConfigGone>>),
        bytes: &Bytes,
    ) -> Result<()> {
        let (repo, size) = (to.repo(), bytes.len() as u64);
        let pointer = Pointer::new(digest, parsed.media_type, size);
        let ingredients = repo.content().config().collect.ingredients;
        if !ingredients.content_before_pointer() {
            stream::iter(tags).map(Ok).try_for_each(|tag| to.put_tag(pin, tag, &pointer)).await?;
        }
        let required = to.require(pin, parsed).await?;
        let push = match push {
            Some(Ok(push)) => Some(push),
            // The config exists, but its bytes are wrong, or it came a moment too late: the builder has to send it
            // again.
            Some(Err(ConfigGone(digest))) => return Err(Error::ManifestBlobUnknown(vec![*digest])),
            None => None,
        };
        let writing = self.refs().writing(repo.deadline()).await?;
        to.store_manifest(pin, &required, &digest, parsed, bytes).await?;
        for tag in tags {
            // Before the pointer: the view, which is made with the pointer, knows the size better.
            let weight = Weight::of(parsed, size);
            self.refs().stock().pushed(repo.tenant(), repo.name(), tag, &digest, push.is_some(), weight);
        }
        let mut firsts = Vec::new();
        for tag in tags {
            pin.spare(&repo.tag_key(tag)).await?;
            match push {
                Some(push) => firsts.extend(self.put_push(pin, to, tag, pointer.clone(), push).await?.zip(Some(tag))),
                None => to.put_plain(pin, tag, &pointer).await?,
            }
        }
        // A view takes long, and references nothing that the lock protects.
        drop(writing);
        if let Some(parsed) = push.and_then(|push| push.parsed.as_ref()) {
            for ((at_pointer, live), tag) in firsts {
                self.make_first(pin, repo, tag, at_pointer, (live, parsed.push.clone())).await;
            }
        }
        Ok(())
    }

    /// Parses the push of a cache manifest that was just sent.
    async fn new_push(
        &self,
        repo: &Repo,
        manifest: &CacheManifest,
    ) -> Result<std::result::Result<NewPush, ConfigGone>> {
        let (identity, views) = (manifest.identity(), self.views());
        let (config, size) = (manifest.config.digest, manifest.config.size);
        let known = |family| Ok(Ok(NewPush { identity, family, parsed: None }));
        if let Some(family) = views.family(&config, size) {
            return known(family);
        }
        let push = match self.push_of(repo, manifest.clone()).await? {
            Ok(push) => push,
            Err(NotLoaded::ConfigGone(digest)) => return Ok(Err(ConfigGone(digest))),
            Err(NotLoaded::ManifestGone) => return Err(Error::Internal("manifest is gone".into())),
            Err(NotLoaded::Malformed(reason)) => return Err(Error::ManifestInvalid(reason)),
        };
        let memory = self.memory(repo, push.memory()).await?;
        // A request that waited for memory may find that another one has parsed the same config meanwhile.
        if let Some(family) = views.family(&config, size) {
            return known(family);
        }
        let push = push.parse().await?;
        let family = push.family();
        if size >= LONG_TO_PARSE {
            views.insert_family(config, size, family.clone());
        }
        Ok(Ok(NewPush { identity, family, parsed: Some(ParsedPush { push, _memory: memory }) }))
    }

    /// Adds a push to a cache tag: writes its record, deletes the records that expire, then writes the pointer. Returns
    /// the push if it is alone on its tag: the caller makes its view.
    async fn put_push(
        &self,
        pin: &Pin,
        to: &RepoWriter,
        tag: &Tag,
        mut pointer: Pointer,
        push: &NewPush,
    ) -> Result<Option<(VersionedPointer, LivePush)>> {
        let repo = to.repo();
        let id = PushId { identity: push.identity, manifest: pointer.digest };
        let (before, live) = match repo.pointer(tag).await? {
            Some((version, before)) => {
                let live = match self.views().of_version(&repo.tag_key(tag), &version) {
                    // No record is missing: a new record is followed by a new pointer. Some may be gone: an expiry or a
                    // collection may have stopped before the pointer.
                    Some(known) => known.live.clone(),
                    None => repo.pushes(tag).await?,
                };
                (Some(before), live)
            }
            None => (None, Vec::new()),
        };
        pointer.push = Some(id);
        let is_new = before.is_none();
        let known = live.iter().find(|live| live.id.identity == id.identity);
        // A server that remembers the older pointer does not see a record whose own pointer was never written: such a
        // push begins again.
        if let (Some(before), Some(known)) = (before.filter(|before| before.push.is_some()), known)
            && before.follows(&known.id)
            && to.has_record(pin, tag, &known.id).await?
        {
            self.push_again(pin, to, tag, &before, pointer, (known, live.len())).await?;
            return Ok(None);
        }
        let family = push.family.clone();
        let record = json(&PushRecord { family: family.clone() })?;
        if !repo.content().config().collect.ingredients.record_before_pointer() {
            to.put_tag(pin, tag, &pointer).await?;
            to.put_record(pin, tag, &id, record).await?;
            return Ok(None);
        }
        let at = to.put_record(pin, tag, &id, record).await?;
        pointer.follows = live.iter().map(|push| push.id.short()).collect();
        let expired = self.expired(repo, tag, live, family).await?;
        if !expired.is_empty() {
            tracing::info!(repo = %repo.name(), %tag, pushes = expired.len(), "expired old pushes of a tag");
            to.delete_records(tag, &expired).await?;
        }
        // The time of the record says that the tag is in use.
        repo.used_by_push(tag);
        // The first push of a tag is the whole of it, unless another push was first or a parent has the tag. Its view
        // is made from the push at hand, so that the next lookup of the tag costs one call.
        let asked = Instant::now();
        if is_new
            && !repo.blobs().is_scope()
            && push.parsed.is_some()
            && let Some(version) = to.put_new_tag(pin, tag, &pointer).await?
        {
            let at_pointer = VersionedPointer { asked, version, pointer: Arc::new(pointer) };
            return Ok(Some((at_pointer, LivePush { id, at })));
        }
        to.put_tag(pin, tag, &pointer).await?;
        self.make_ahead(repo, tag);
        Ok(None)
    }

    /// Repeats a push that has a record: it makes no second one.
    async fn push_again(
        &self,
        pin: &Pin,
        to: &RepoWriter,
        tag: &Tag,
        before: &Pointer,
        pointer: Pointer,
        (known, live): (&LivePush, usize),
    ) -> Result<()> {
        let content = to.repo().content();
        let age = content.clock().now().duration_since(known.at);
        let is_old = age.is_ok_and(|age| age > content.config().collect.renewed_every());
        // A push that is alone is served as it is: then as it was sent last, so that its builder finds its own digest
        // and sends nothing next time.
        let is_served_as_is = live == 1 && before.push == Some(known.id);
        if is_old {
            // Then the pointer, as after any change of the records.
            to.renew_record(tag, &known.id).await?;
        }
        if is_old || is_served_as_is && before.digest != pointer.digest {
            let pointer = match before.push == Some(known.id) {
                true => Pointer { push: before.push, follows: before.follows.clone(), ..pointer },
                false => Pointer { pushed: pointer.pushed, ..before.clone() },
            };
            to.put_tag(pin, tag, &pointer).await?;
        }
        to.repo().note_use(tag).await;
        Ok(())
    }

    /// The pushes that expire when one more of `family` comes.
    async fn expired(
        &self,
        repo: &Repo,
        tag: &Tag,
        live: Vec<LivePush>,
        family: Option<Family>,
    ) -> Result<Vec<PushId>> {
        let now = repo.content().clock().now();
        let is_old = |at: &SystemTime| now.duration_since(*at).is_ok_and(|age| age > UNUSED_MAX);
        let (mut old, mut live): (Vec<_>, Vec<_>) = live.into_iter().partition(|push| is_old(&push.at));
        if !old.is_empty() && repo.last_use(tag).await?.is_some_and(|used| !is_old(&used)) {
            old.append(&mut live);
            live = std::mem::take(&mut old);
        }
        let mut expired: Vec<PushId> = old.iter().map(|push| push.id).collect();
        if live.len() < PUSHES_MAX {
            return Ok(expired);
        }
        let reads = live.iter().enumerate().map(|(order, push)| async move {
            let record: Option<PushRecord> = serde_json::from_slice(&repo.push_record(tag, &push.id).await?).ok();
            Ok::<_, Error>((order, record.and_then(|record| record.family)))
        });
        let families: Vec<(usize, Option<Family>)> =
            stream::iter(reads.collect::<Vec<_>>()).buffered(FAN_OUT).try_collect().await?;
        // Pushes that cannot be read are a family of their own.
        let unread = || Family { leaves: Digest::sha256(b""), roots: Default::default() };
        let mut pushes: Vec<FamilyMember<Option<PushId>, usize>> = families
            .into_iter()
            .map(|(order, family)| FamilyMember {
                id: Some(live[order].id),
                order,
                family: family.unwrap_or_else(unread),
            })
            .collect();
        pushes.push(FamilyMember { id: None, order: usize::MAX, family: family.unwrap_or_else(unread) });
        expired.extend(surplus(&pushes, PUSHES_MAX).into_iter().flatten());
        Ok(expired)
    }
}
