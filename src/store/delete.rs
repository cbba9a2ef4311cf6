//! Content that a client deletes by its digest.
//!
//! Nothing goes that something else names: who asks for a blob that an image needs, or for the child of an index, is
//! told by whom. In a store of its own a server deletes the rest at once. Of a bucket another server may have told a builder
//! a moment ago that it is there, and goes on to do so from memory; whoever was told has a grace period to name it. So
//! there it is condemned, like all that nothing names, and only this server says from now on that it is gone: the others
//! do so when it is.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::RwLockWriteGuard;

use super::condemned::{Kind, List, fingerprint};
use super::layout::{self, Place, RepoItem};
use super::manifests::{Parsed, known};
use super::patience::patiently;
use super::{Error, FAN_OUT, Repo, Result, Store};
use crate::digest::Digest;
use crate::objects::{self, Distance, Key, Meta, Read};

/// Keys that are remembered. One that is forgotten is there again until a collector has deleted it.
const KEYS_MAX: u64 = 100_000;
/// Memory for what indexes name, so that whoever deletes many manifests does not have all of them read for each.
const CHILDREN_BYTES_MAX: u64 = 16 << 20;

/// What this server has said to be gone, and nobody has written or named since. Only whoever asks for it by its digest is
/// told so: what serves tags and takes pushes looks at what is there.
pub struct Deleted {
    keys: Cache<Key, ()>,
    /// Anything was, since this server began.
    any: AtomicBool,
    /// By the fingerprint of the manifest's key: manifests are write-once.
    children: Cache<u64, Arc<[Digest]>>,
}

impl Deleted {
    /// `wait`: how long what is condemned waits before it is deleted.
    pub fn new(wait: Duration) -> Deleted {
        let keys = Cache::builder().max_capacity(KEYS_MAX).time_to_live(wait * 2);
        let weight = |_: &u64, children: &Arc<[Digest]>| (64 + size_of_val::<[Digest]>(children)) as u32;
        Deleted {
            any: AtomicBool::new(false),
            keys: keys.eviction_policy(EvictionPolicy::lru()).build(),
            children: Cache::builder().max_capacity(CHILDREN_BYTES_MAX).weigher(weight).build(),
        }
    }

    fn add(&self, key: Key) {
        self.keys.insert(key, ());
        self.any.store(true, Ordering::Release);
    }

    fn has(&self, key: &Key) -> bool {
        self.any.load(Ordering::Acquire) && self.keys.contains_key(key)
    }

    /// It has been written anew.
    pub fn forget(&self, key: &Key) {
        self.keys.invalidate(key);
    }
}

impl Store {
    /// Whether others may rely on what is there without this server knowing.
    fn is_shared(&self) -> bool {
        let is_collected = self.objects.fence().is_some() || self.config.collect.without_fence;
        self.objects.distance() == Distance::Far && is_collected
    }

    /// A manifest, past the hot layer, which reading all of them would flush.
    async fn parsed(&self, key: &Key) -> Result<Option<Parsed>> {
        match patiently(|| self.objects.read(key, None)).await {
            Ok(Read::Fresh(_, bytes)) => Ok(Parsed::parse(&bytes, None).ok()),
            Ok(Read::Same) | Err(objects::Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn children(&self, key: &Key) -> Result<Arc<[Digest]>> {
        let id = fingerprint(key.as_str());
        if let Some(children) = self.deleted.children.get(&id) {
            return Ok(children);
        }
        let children: Arc<[Digest]> = self.parsed(key).await?.map_or(Vec::new(), |parsed| parsed.children).into();
        self.deleted.children.insert(id, children.clone());
        Ok(children)
    }
}

impl Repo {
    /// Whether this server has said that it is gone.
    pub(super) fn is_deleted(&self, key: &Key) -> bool {
        self.store.deleted.has(key)
    }

    /// A manifest is served or pushed. Nothing that one names can be deleted: it was pushed after what it names was, here or at
    /// another server, and keeps it.
    pub(super) fn take_back(&self, digest: &Digest, manifest: &[u8]) {
        let deleted = &self.store.deleted;
        if !deleted.any.load(Ordering::Acquire) {
            return;
        }
        deleted.forget(&self.manifest_key(digest));
        if let Ok(parsed) = Parsed::parse(manifest, None) {
            parsed.blobs.iter().for_each(|blob| deleted.forget(&self.blob_key(blob)));
            parsed.children.iter().for_each(|child| deleted.forget(&self.manifest_key(child)));
        }
    }

    /// Deletes a blob that nothing in the tenant names.
    ///
    /// # Errors
    ///
    /// [`Error::BlobUnknown`], and [`Error::Referenced`] when a manifest names it.
    pub async fn delete_blob(&self, digest: &Digest) -> Result<()> {
        let key = self.blob_key(digest);
        let found = if self.is_deleted(&key) { None } else { self.store.ask(&key).await? };
        let meta = found.ok_or(Error::BlobUnknown(*digest))?;
        // To know this without reading every manifest takes an index that must be right after each push: deletes of single
        // blobs are rare.
        let names = |store: Store, key: Key| async move {
            Ok(store.parsed(&key).await?.is_some_and(|parsed| parsed.blobs.contains(digest)))
        };
        let _alone = self.alone(digest, &layout::repos_prefix(self.tenant()), names).await?;
        self.delete_content(&meta).await?;
        if !self.store.is_shared() {
            self.store.usage().account(self.tenant()).removed(meta.size);
        }
        Ok(())
    }

    /// Deletes a manifest that no index of the repository names, the tags that serve it, its pushes, and its entry among
    /// the referrers of its subject.
    ///
    /// # Errors
    ///
    /// [`Error::ManifestUnknown`], and [`Error::Referenced`] when an index names it.
    pub async fn delete_manifest(&self, digest: &Digest) -> Result<()> {
        let key = self.manifest_key(digest);
        let unknown = || Error::ManifestUnknown(digest.to_string());
        // Not by `head`: bytes that are wrong are missing there, and can still be deleted.
        let meta = match self.is_deleted(&key) {
            true => return Err(unknown()),
            false => self.store.stat(&key).await?.ok_or_else(unknown)?,
        };
        let is_sparse = self.store.config.rule(self.name()).is_some_and(|rule| rule.sparse);
        let names =
            |store: Store, key: Key| async move { Ok(!is_sparse && store.children(&key).await?.contains(digest)) };
        let _alone = self.alone(digest, &layout::repo_prefix(self.tenant(), self.name()), names).await?;
        let bytes = known(self.store.small(&key, *digest).await)?;
        self.withdraw(digest).await?;
        if let Some(subject) = bytes.and_then(|bytes| Parsed::parse(&bytes, None).ok()?.subject) {
            let referrer = layout::referrer(self.tenant(), self.name(), &subject, digest);
            self.store.delete(&[referrer]).await?;
        }
        self.delete_content(&meta).await
    }

    /// Keeps this server from writing manifests, once no manifest below `prefix` names `digest`.
    async fn alone<F>(
        &self,
        digest: &Digest,
        prefix: &str,
        names: impl Fn(Store, Key) -> F + Copy,
    ) -> Result<RwLockWriteGuard<'_, ()>>
    where
        F: Future<Output = Result<bool>>,
    {
        // Twice: first while others push, which takes long; then alone, only through what has come meanwhile.
        let mut seen = HashSet::new();
        let mut by = self.named_by(prefix, names, &mut seen).await?;
        let alone = self.store.references.write().await;
        if by.is_none() {
            by = self.named_by(prefix, names, &mut seen).await?;
        }
        match by {
            Some(by) => Err(Error::Referenced { digest: *digest, by }),
            None => Ok(alone),
        }
    }

    /// A manifest that is none of those `seen` and of which `names` is true.
    async fn named_by<F>(
        &self,
        prefix: &str,
        names: impl Fn(Store, Key) -> F + Copy,
        seen: &mut HashSet<Key>,
    ) -> Result<Option<String>>
    where
        F: Future<Output = Result<bool>>,
    {
        let listed = self.store.objects.list(prefix, None).err_into::<Error>();
        let unseen = listed.try_filter_map(|meta| {
            // What was deleted may still lie there, and names nothing any more.
            let look = match layout::parse(meta.key.as_str()) {
                Some(Place::Repo { repo, item: RepoItem::Manifest(manifest), .. })
                    if !self.is_deleted(&meta.key) && seen.insert(meta.key.clone()) =>
                {
                    Some((meta.key, format!("{repo}@{manifest}")))
                }
                _ => None,
            };
            async move { Ok(look) }
        });
        let looks = unseen.map_ok(|(key, name)| {
            let found = names(self.store.clone(), key);
            async move { Ok(found.await?.then_some(name)) }
        });
        let mut looks = std::pin::pin!(looks.try_buffer_unordered(FAN_OUT));
        while let Some(found) = looks.try_next().await? {
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    async fn delete_content(&self, meta: &Meta) -> Result<()> {
        let (store, key) = (&self.store, &meta.key);
        if !store.is_shared() {
            return store.delete(std::slice::from_ref(key)).await;
        }
        store.deleted.add(key.clone());
        store.forget(key);
        // What is condemned already goes without another list.
        if store.condemned.pin().await?.has(key) {
            return Ok(());
        }
        let (keys, sizes) = (vec![key.to_string()], vec![meta.size]);
        // It comes from no mark.
        let list = List { kind: Kind::Garbage, marked: jiff::Timestamp::UNIX_EPOCH, keys, sizes };
        if let Err(error) = store.condemned.publish(&list).await {
            store.deleted.forget(key);
            return Err(error);
        }
        // What is condemned counts as gone for the tenant's quota. Nothing else rests on knowing of it soon.
        if let Err(error) = store.condemned.refresh().await {
            tracing::info!(%key, %error, "what was deleted is not counted yet");
        }
        Ok(())
    }
}
