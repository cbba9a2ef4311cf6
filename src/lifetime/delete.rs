//! Deletes by digest, of clients.
//!
//! Referenced content is not deleted: a client that asks for it, for a blob of an image or for the child of an index,
//! is told what references it. Other content is deleted at once if the server owns the store. In a bucket another
//! server may just have told a builder that the content exists, and may repeat that from memory; the builder has a
//! grace period to reference it. So there the content is condemned, like all garbage, and only this server denies it
//! from now on: the others do so when it is gone. And it denies the content only until something that reaches it is
//! written, here or by another server: builders ask one server for a tag and the next one for the content that the tag
//! references.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::future::{BoxFuture, ready};
use futures::{FutureExt, TryStreamExt};
use moka::sync::Cache;
use tokio::sync::RwLockWriteGuard;

use crate::calls::{Calls, FAN_OUT};
use crate::content::condemned::{CondemnedKind, CondemnedList, fingerprint};
use crate::content::tombstones::{LeadsTo, Tombstone};
use crate::deadline::Deadline;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout::{self, EntryItem, Place, RepoItem};
use crate::objects::{Key, Meta, Objects};
use crate::oci::ManifestContent;
use crate::refs::entries::EntryRecord;
use crate::refs::graph::closure;
use crate::refs::listing::walk;
use crate::refs::pointer::Pointers;
use crate::refs::stored_view::view_note;
use crate::refs::{Refs, RepoEraser};

/// Memory in bytes for the references of indexes, so that a client that deletes many manifests does not have all of
/// them read for each.
const CHILDREN_BYTES_MAX: u64 = 16 << 20;

/// Manifests that may be read under the exclusive lock: those that came since the others were read.
const LOOKS_ALONE_MAX: usize = 16;
/// Attempts of a deletion, if too many manifests came in between.
const ROUNDS_MAX: usize = 4;

/// Whether something references the content to be deleted.
enum Looked {
    Unnamed,
    /// Referenced by this object.
    Named(String),
    /// More objects to read than allowed.
    TooMany,
}

/// Tells whether a manifest references the content to be deleted.
type ReferencedNames<'a> = dyn Fn(Key) -> BoxFuture<'a, Result<bool>> + Send + Sync + 'a;

/// References of the objects of a store, read past the hot layer, which reading all of them would flush.
pub struct References {
    objects: Arc<dyn Objects>,
    pointers: Pointers,
}

impl References {
    /// The references of a store.
    pub fn of(refs: &Refs) -> References {
        References { objects: refs.objects().clone(), pointers: refs.pointers().clone() }
    }
}

#[async_trait]
impl LeadsTo for References {
    async fn leads_to(&self, written: &Meta) -> Result<HashSet<u64>> {
        let (mut reached, calls) = (HashSet::new(), Calls::of(&*self.objects));
        let Some(Place::Repo { tenant, repo, item }) = layout::parse(written.key.as_str()) else { return Ok(reached) };
        let from = match item {
            RepoItem::Manifest(manifest) | RepoItem::Referrer { manifest, .. } => vec![manifest],
            RepoItem::Push(_, id) => vec![id.manifest],
            RepoItem::Tag(_) => {
                let pointer = self.pointers.get(&written.key, Deadline::of_each_call()).await?;
                pointer.map_or(Vec::new(), |(_, pointer)| pointer.manifests())
            }
            RepoItem::View(_) => view_note(calls, &written.key).await?.and_then(|note| note.view).into_iter().collect(),
            RepoItem::Entry(..) => {
                let named = named(calls, &written.key).await?.unwrap_or_default();
                reached.extend(named.blobs.iter().map(|blob| fingerprint(layout::blob(&tenant, blob).as_str())));
                Vec::new()
            }
            RepoItem::Used(_) => Vec::new(),
        };
        let (tenant, repo) = (&tenant, &repo);
        let load = |digest| async move { named(calls, &layout::manifest(tenant, repo, &digest)).await };
        closure(from, load, |digest, named: Option<Named>| {
            reached.insert(fingerprint(layout::manifest(tenant, repo, &digest).as_str()));
            let named = named.unwrap_or_default();
            reached.extend(named.blobs.iter().map(|blob| fingerprint(layout::blob(tenant, blob).as_str())));
            named.children
        })
        .await?;
        Ok(reached)
    }
}

/// References of a manifest or an entry.
#[derive(Default)]
struct Named {
    blobs: Vec<Digest>,
    children: Vec<Digest>,
}

/// Reads the references of a manifest or an entry, past the hot layer.
async fn named(calls: Calls<'_>, key: &Key) -> Result<Option<Named>> {
    let Some((_, bytes)) = calls.read(key).await? else { return Ok(None) };
    if matches!(layout::parse(key.as_str()), Some(Place::Repo { item: RepoItem::Entry(..), .. })) {
        let record = serde_json::from_slice::<EntryRecord>(&bytes).ok();
        let blobs = |record: EntryRecord| record.blobs.iter().map(|blob| blob.digest).collect();
        return Ok(record.map(|record| Named { blobs: blobs(record), children: Vec::new() }));
    }
    let content = ManifestContent::parse(&bytes, None).ok();
    Ok(content.map(|ManifestContent { blobs, children, .. }| Named { blobs, children }))
}

/// Deletes content by its digest.
#[derive(Clone)]
pub struct Deletion {
    refs: Refs,
    /// References of indexes, by the fingerprint of the manifest's key: manifests are write-once.
    children: Cache<u64, Arc<[Digest]>>,
}

impl Deletion {
    /// Deletions in the store of `refs`.
    pub fn new(refs: Refs) -> Deletion {
        let weight = |_: &u64, children: &Arc<[Digest]>| (64 + size_of_val::<[Digest]>(children)) as u32;
        Deletion { refs, children: Cache::builder().max_capacity(CHILDREN_BYTES_MAX).weigher(weight).build() }
    }

    /// Whether other servers may rely on content without this server's knowledge.
    fn is_shared(&self) -> bool {
        let objects = self.refs.objects();
        let is_collected = objects.fence().is_some() || self.refs.config().collect.without_fence;
        objects.traits().shared && is_collected
    }

    async fn children(&self, key: &Key, deadline: Deadline) -> Result<Arc<[Digest]>> {
        let id = fingerprint(key.as_str());
        if let Some(children) = self.children.get(&id) {
            return Ok(children);
        }
        let named = named(self.refs.content().calls(deadline), key).await?;
        let children: Arc<[Digest]> = named.map_or(Vec::new(), |named| named.children).into();
        self.children.insert(id, children.clone());
        Ok(children)
    }

    /// Deletes a blob that nothing in the tenant references.
    ///
    /// # Errors
    ///
    /// [`Error::BlobUnknown`], and [`Error::Referenced`] when a manifest references it.
    pub async fn delete_blob(&self, from: &RepoEraser, digest: &Digest) -> Result<()> {
        let (repo, content) = (from.repo(), self.refs.content());
        let (key, deadline) = (from.blobs().blob_key(digest), repo.deadline());
        let denied = content.tombstones().denies(&key, deadline).await?;
        let found = if denied { None } else { content.fetch_meta(&key, deadline).await? };
        let meta = found.ok_or(Error::BlobUnknown(*digest))?;
        // To know this without reading every manifest takes an index that must be right after each push: deletes of
        // single blobs are rare.
        let names = |key: Key| {
            async move {
                let named = named(content.calls(deadline), &key).await?;
                Ok(named.is_some_and(|named| named.blobs.contains(digest)))
            }
            .boxed()
        };
        let prefix = layout::repos_prefix(repo.tenant());
        let (_alone, mut seen) = self.alone(digest, &prefix, &names).await?;
        let again =
            async { Ok(matches!(self.named_by(&prefix, &names, &mut seen, LOOKS_ALONE_MAX).await?, Looked::Unnamed)) };
        self.delete_content(&meta, &prefix, deadline, again.boxed()).await?;
        Ok(())
    }

    /// Deletes a manifest that no index of the repository references, the tags that serve it, its pushes, and its entry
    /// among the referrers of its subject.
    ///
    /// # Errors
    ///
    /// [`Error::ManifestUnknown`], and [`Error::Referenced`] when an index references it.
    pub async fn delete_manifest(&self, from: &RepoEraser, digest: &Digest) -> Result<()> {
        let (repo, content) = (from.repo(), self.refs.content());
        let (key, deadline) = (layout::manifest(repo.tenant(), repo.name(), digest), repo.deadline());
        let unknown = || Error::ManifestUnknown(digest.to_string());
        // Not by an existence check, for which wrong bytes count as missing: they can still be deleted.
        let meta = match content.tombstones().denies(&key, deadline).await? {
            true => return Err(unknown()),
            false => content.calls(deadline).head(&key).await?.ok_or_else(unknown)?,
        };
        let is_sparse = repo.is_sparse();
        let names =
            |key: Key| async move { Ok(!is_sparse && self.children(&key, deadline).await?.contains(digest)) }.boxed();
        let prefix = layout::repo_prefix(repo.tenant(), repo.name());
        // Manifests are write-once, so this one is read and parsed while others push.
        let bytes = content.small_in(std::iter::once(key), *digest, deadline).await?;
        let subject = bytes.and_then(|bytes| ManifestContent::parse(&bytes, None).ok()?.subject);
        let (_alone, mut seen) = self.alone(digest, &prefix, &names).await?;
        from.withdraw(digest).await?;
        if let Some(subject) = subject {
            let referrer = layout::referrer(repo.tenant(), repo.name(), &subject, digest);
            content.delete(&[referrer], deadline).await?;
        }
        let again = async {
            from.withdraw(digest).await?;
            Ok(matches!(self.named_by(&prefix, &names, &mut seen, LOOKS_ALONE_MAX).await?, Looked::Unnamed))
        };
        self.delete_content(&meta, &prefix, deadline, again.boxed()).await
    }

    /// Takes the lock of references exclusively, once no manifest below `prefix` references `digest`. Also returns the
    /// keys of those that were read.
    ///
    /// # Errors
    ///
    /// [`Error::Referenced`], and [`Error::Busy`] when so much is pushed that it cannot be read in between.
    async fn alone(
        &self,
        digest: &Digest,
        prefix: &str,
        names: &ReferencedNames<'_>,
    ) -> Result<(RwLockWriteGuard<'_, ()>, HashSet<Key>)> {
        let mut seen = HashSet::new();
        let named = |by| Error::Referenced { digest: *digest, by };
        for _ in 0..ROUNDS_MAX {
            // Reads twice: first while others push, which takes long; then under the lock, only the manifests that came
            // meanwhile. If those are many, they are not parsed while all others wait.
            if let Looked::Named(by) = self.named_by(prefix, names, &mut seen, usize::MAX).await? {
                return Err(named(by));
            }
            let alone = self.refs.alone().await;
            match self.named_by(prefix, names, &mut seen, LOOKS_ALONE_MAX).await? {
                Looked::Unnamed => return Ok((alone, seen)),
                Looked::Named(by) => return Err(named(by)),
                Looked::TooMany => {}
            }
        }
        Err(Error::Busy)
    }

    /// Looks for a manifest or an entry that is not in `seen` and for which `names` is true, among at most `looks_max`.
    /// A deleted one may still be stored, and references nothing any more.
    async fn named_by(
        &self,
        prefix: &str,
        names: &ReferencedNames<'_>,
        seen: &mut HashSet<Key>,
        looks_max: usize,
    ) -> Result<Looked> {
        let tombstones = self.refs.content().tombstones();
        let deleted = tombstones.below(prefix);
        let since = deleted.values().map(|gone| gone.seen.load(Ordering::Relaxed)).min().unwrap_or(u64::MAX);
        let (mut new, mut lying, mut looks_left) = (tombstones.new_since(since), Vec::new(), looks_max);
        let mut is_too_much = false;
        let look = |(key, name): (Key, String)| {
            let found = names(key);
            async move { Ok::<_, Error>(found.await?.then_some(name)) }
        };
        let unseen = walk(&**self.refs.objects(), prefix).try_filter_map(|(place, meta)| {
            if !deleted.is_empty() {
                new.add(tombstones.number(&meta), &meta);
            }
            let name = match place {
                Some(Place::Repo { repo, item: RepoItem::Manifest(manifest), .. }) => {
                    Some(format!("{repo}@{manifest}"))
                }
                Some(Place::Repo { repo, item: RepoItem::Entry(name, EntryItem::Record), .. }) => {
                    Some(format!("{repo} entry {}", name.label()))
                }
                _ => None,
            };
            ready(Ok(name.and_then(|name| match deleted.get(&meta.key) {
                Some(gone) => {
                    lying.push((meta.key, gone.clone(), name));
                    None
                }
                None if seen.contains(&meta.key) => None,
                None if looks_left == 0 => {
                    is_too_much = true;
                    None
                }
                None => {
                    looks_left -= 1;
                    seen.insert(meta.key.clone());
                    Some((meta.key, name))
                }
            })))
        });
        {
            let mut looks = pin!(unseen.map_ok(look).try_buffer_unordered(FAN_OUT));
            while let Some(found) = looks.try_next().await? {
                if let Some(name) = found {
                    return Ok(Looked::Named(name));
                }
            }
        }
        if is_too_much {
            return Ok(Looked::TooMany);
        }
        for (key, gone, name) in lying {
            if !tombstones.is_unnamed(&key, &gone, &new).await? {
                tombstones.remove(&key);
                if let Some(name) = look((key, name)).await? {
                    return Ok(Looked::Named(name));
                }
            }
        }
        Ok(Looked::Unnamed)
    }

    /// Deletes an object. `is_unnamed` looks whether it has been referenced meanwhile.
    async fn delete_content(
        &self,
        meta: &Meta,
        prefix: &str,
        deadline: Deadline,
        is_unnamed: BoxFuture<'_, Result<bool>>,
    ) -> Result<()> {
        let (key, content) = (&meta.key, self.refs.content());
        // Before the delete: a push that has looked the object up and not yet referenced it has to look again.
        self.refs.deletions().note(key);
        if !self.is_shared() {
            content.delete(std::slice::from_ref(key), deadline).await?;
            content.room().deleted([(key, meta.size)]);
            return Ok(());
        }
        // Before `is_unnamed`: writes that are first seen after this list are followed later, and those before are read
        // by `is_unnamed`.
        let tombstones = content.tombstones();
        tombstones.writes_since(u64::MAX, prefix, deadline).await?;
        let seen = AtomicU64::new(tombstones.seen());
        let is_unnamed = is_unnamed.await?;
        self.condemn(meta, deadline).await?;
        content.forget(key);
        if is_unnamed {
            let tombstone = Tombstone { version: meta.version.clone(), prefix: prefix.to_string(), seen };
            tombstones.add(key.clone(), tombstone);
        }
        Ok(())
    }

    async fn condemn(&self, meta: &Meta, deadline: Deadline) -> Result<()> {
        let (key, condemned) = (&meta.key, self.refs.condemned());
        // An object that is condemned already will be deleted without another list.
        if condemned.snapshot(deadline).await?.has(key) {
            return Ok(());
        }
        let (keys, sizes) = (vec![key.to_string()], vec![meta.size]);
        // The list comes from no mark.
        let list = CondemnedList { kind: CondemnedKind::Garbage, marked: jiff::Timestamp::UNIX_EPOCH, keys, sizes };
        condemned.publish(&list).await?;
        // Condemned objects do not count for the tenant's quota. Nothing else depends on an early snapshot.
        if let Err(error) = condemned.refresh(deadline).await {
            tracing::info!(%key, %error, "cannot update the usage after a delete: the next count corrects it");
        }
        Ok(())
    }
}
