//! Content that a client deletes by its digest.
//!
//! Nothing goes that something else names: who asks for a blob that an image needs, or for the child of an index, is
//! told by whom. In a store of its own a server deletes the rest at once. Of a bucket another server may have told a builder
//! a moment ago that it is there, and goes on to do so from memory; whoever was told has a grace period to name it. So
//! there it is condemned, like all that nothing names, and only this server says from now on that it is gone: the others
//! do so when it is. And it says so only for as long as nothing that leads to it has been written, here or by another
//! server: builders ask one server for a tag and the next one for what the tag names.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::{BoxFuture, ready};
use futures::{FutureExt, TryStreamExt};
use tokio::sync::RwLockWriteGuard;

use crate::calls::{Calls, FAN_OUT};
use crate::content::condemned::{Kind, List, fingerprint};
use crate::content::tombstones::{Gone, New};
use crate::deadline::patiently;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout;
use crate::layout::{EntryItem, Place, RepoItem};
use crate::objects;
use crate::objects::{Distance, Key, Meta, Read};
use crate::oci::ManifestContent;
use crate::refs::entries::EntryRecord;
use crate::refs::graph;
use crate::refs::graph::ViewNote;
use crate::refs::listing::walk;
use crate::refs::manifests::known;
use crate::store::{Repo, Store};

/// Whether a manifest names what is to be deleted.
type Names = dyn Fn(Store, Key) -> BoxFuture<'static, Result<bool>> + Send + Sync;

/// What a manifest or an entry names.
#[derive(Default)]
struct Named {
    blobs: Vec<Digest>,
    children: Vec<Digest>,
}

impl Store {
    /// Whether others may rely on what is there without this server knowing.
    fn is_shared(&self) -> bool {
        let is_collected = self.objects.fence().is_some() || self.config.collect.without_fence;
        self.objects.distance() == Distance::Far && is_collected
    }

    /// Whether this server has said that it is gone, and it is not back: nobody has written it again, nor anything that
    /// leads to it. That nobody has written anything is seen at one glance at the keys; else what was written is read, once.
    pub(crate) async fn is_deleted(&self, key: &Key) -> Result<bool> {
        let Some(gone) = self.deleted.get(key) else { return Ok(false) };
        let stays = match patiently(|| self.objects.head(key)).await {
            Ok(meta) if meta.version != gone.version => false,
            Ok(_) => {
                let new = self.new_since(gone.seen.load(Ordering::Relaxed), &gone.prefix).await?;
                self.is_unnamed(key, &gone, &new).await?
            }
            Err(objects::Error::NotFound) => true,
            Err(error) => return Err(error.into()),
        };
        if !stays {
            self.deleted.keys.invalidate(key);
        }
        Ok(stays)
    }

    /// What is listed below `prefix` and was not when so many writings had been seen.
    async fn new_since(&self, since: u64, prefix: &str) -> Result<New> {
        let listed = || {
            let add = |mut new: New, meta: Meta| {
                new.add(self.deleted.number(&meta), &meta);
                ready(Ok(new))
            };
            self.objects.list(prefix, None).try_fold(self.deleted.new_since(since), add)
        };
        Ok(patiently(listed).await?)
    }

    /// Whether nothing of what is `new` leads to what was deleted. What has been deleted since leads nowhere.
    async fn is_unnamed(&self, key: &Key, gone: &Gone, new: &New) -> Result<bool> {
        let until = new.until;
        let Some(new) = new.of(gone) else { return Ok(false) };
        let id = fingerprint(key.as_str());
        for newer in new {
            if newer.reaches.get_or_try_init(|| self.reaches(&newer.meta)).await?.contains(&id) {
                return Ok(false);
            }
        }
        gone.seen.fetch_max(until, Ordering::Relaxed);
        Ok(true)
    }

    /// The fingerprints of the manifests and blobs to which what was written leads.
    async fn reaches(&self, written: &Meta) -> Result<HashSet<u64>> {
        let mut reached = HashSet::new();
        let Some(Place::Repo { tenant, repo, item }) = layout::parse(written.key.as_str()) else { return Ok(reached) };
        let from = match item {
            RepoItem::Manifest(manifest) | RepoItem::Referrer { manifest, .. } => vec![manifest],
            RepoItem::Push(_, id) => vec![id.manifest],
            RepoItem::Tag(_) => {
                self.pointer(&written.key).await?.map_or(Vec::new(), |(_, pointer)| pointer.manifests())
            }
            RepoItem::View(_) => {
                let note = ViewNote::read(Calls::of(&**self.objects()), &written.key).await?;
                note.and_then(|note| note.view).into_iter().collect()
            }
            RepoItem::Entry(..) => {
                let named = self.parsed(&written.key).await?.unwrap_or_default();
                reached.extend(named.blobs.iter().map(|blob| fingerprint(layout::blob(&tenant, blob).as_str())));
                Vec::new()
            }
            RepoItem::Used(_) => Vec::new(),
        };
        let (tenant, repo) = (&tenant, &repo);
        let load = |digest| async move { self.parsed(&layout::manifest(tenant, repo, &digest)).await };
        graph::closure(from, load, |digest, named: Option<Named>| {
            reached.insert(fingerprint(layout::manifest(tenant, repo, &digest).as_str()));
            let named = named.unwrap_or_default();
            reached.extend(named.blobs.iter().map(|blob| fingerprint(layout::blob(tenant, blob).as_str())));
            named.children
        })
        .await?;
        Ok(reached)
    }

    /// What a manifest or an entry names, past the hot layer, which reading all of them would flush.
    async fn parsed(&self, key: &Key) -> Result<Option<Named>> {
        let bytes = match patiently(|| self.objects.read(key, None)).await {
            Ok(Read::Fresh(_, bytes)) => bytes,
            Ok(Read::Same) | Err(objects::Error::NotFound) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let is_entry = matches!(layout::parse(key.as_str()), Some(Place::Repo { item: RepoItem::Entry(..), .. }));
        Ok(match is_entry {
            true => serde_json::from_slice(&bytes).ok().map(|record: EntryRecord| Named {
                blobs: record.blobs.iter().map(|blob| blob.digest).collect(),
                children: Vec::new(),
            }),
            false => {
                let content = ManifestContent::parse(&bytes, None).ok();
                content.map(|ManifestContent { blobs, children, .. }| Named { blobs, children })
            }
        })
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
    /// Deletes a blob that nothing in the tenant names.
    ///
    /// # Errors
    ///
    /// [`Error::BlobUnknown`], and [`Error::Referenced`] when a manifest names it.
    pub async fn delete_blob(&self, digest: &Digest) -> Result<()> {
        let key = self.blob_key(digest);
        let found = if self.store.is_deleted(&key).await? { None } else { self.store.ask(&key).await? };
        let meta = found.ok_or(Error::BlobUnknown(*digest))?;
        // To know this without reading every manifest takes an index that must be right after each push: deletes of single
        // blobs are rare.
        let blob = *digest;
        let names = move |store: Store, key: Key| {
            async move { Ok(store.parsed(&key).await?.is_some_and(|parsed| parsed.blobs.contains(&blob))) }.boxed()
        };
        let prefix = layout::repos_prefix(self.tenant());
        let (_alone, mut seen) = self.alone(digest, &prefix, &names).await?;
        let again = async { Ok(self.named_by(&prefix, &names, &mut seen).await?.is_none()) };
        self.store.delete_content(&meta, &prefix, again.boxed()).await?;
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
        let meta = match self.store.is_deleted(&key).await? {
            true => return Err(unknown()),
            false => self.store.stat(&key).await?.ok_or_else(unknown)?,
        };
        let is_sparse = self.store.config.rule(self.name()).is_some_and(|rule| rule.sparse);
        let child = *digest;
        let names = move |store: Store, key: Key| {
            async move { Ok(!is_sparse && store.children(&key).await?.contains(&child)) }.boxed()
        };
        let prefix = layout::repo_prefix(self.tenant(), self.name());
        let (_alone, mut seen) = self.alone(digest, &prefix, &names).await?;
        let bytes = known(self.store.small(&key, *digest).await)?;
        self.withdraw(digest).await?;
        if let Some(subject) = bytes.and_then(|bytes| ManifestContent::parse(&bytes, None).ok()?.subject) {
            let referrer = layout::referrer(self.tenant(), self.name(), &subject, digest);
            self.store.delete(&[referrer]).await?;
        }
        let again = async {
            self.withdraw(digest).await?;
            Ok(self.named_by(&prefix, &names, &mut seen).await?.is_none())
        };
        self.store.delete_content(&meta, &prefix, again.boxed()).await
    }

    /// Keeps this server from writing manifests, once no manifest below `prefix` names `digest`. Also returns which ones have
    /// been looked at.
    async fn alone(
        &self,
        digest: &Digest,
        prefix: &str,
        names: &Names,
    ) -> Result<(RwLockWriteGuard<'_, ()>, HashSet<Key>)> {
        // Twice: first while others push, which takes long; then alone, only through what has come meanwhile.
        let mut seen = HashSet::new();
        let mut by = self.named_by(prefix, names, &mut seen).await?;
        let alone = self.store.references.write().await;
        if by.is_none() {
            by = self.named_by(prefix, names, &mut seen).await?;
        }
        match by {
            Some(by) => Err(Error::Referenced { digest: *digest, by }),
            None => Ok((alone, seen)),
        }
    }

    /// A manifest or an entry that is none of those `seen` and of which `names` is true. What was deleted may still lie there, and names
    /// nothing any more.
    async fn named_by(&self, prefix: &str, names: &Names, seen: &mut HashSet<Key>) -> Result<Option<String>> {
        let deleted = self.store.deleted.below(prefix);
        let since = deleted.values().map(|gone| gone.seen.load(Ordering::Relaxed)).min().unwrap_or(u64::MAX);
        let (mut new, mut lying) = (self.store.deleted.new_since(since), Vec::new());
        let look = |(key, name): (Key, String)| {
            let found = names(self.store.clone(), key);
            async move { Ok::<_, Error>(found.await?.then_some(name)) }
        };
        let unseen = walk(&**self.store.objects(), prefix).try_filter_map(|(place, meta)| {
            if !deleted.is_empty() {
                new.add(self.store.deleted.number(&meta), &meta);
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
                None => seen.insert(meta.key.clone()).then_some((meta.key, name)),
            })))
        });
        {
            let mut looks = pin!(unseen.map_ok(look).try_buffer_unordered(FAN_OUT));
            while let Some(found) = looks.try_next().await? {
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        for (key, gone, name) in lying {
            if !self.store.is_unnamed(&key, &gone, &new).await? {
                self.store.deleted.keys.invalidate(&key);
                if let Some(name) = look((key, name)).await? {
                    return Ok(Some(name));
                }
            }
        }
        Ok(None)
    }
}

impl Store {
    /// `is_unnamed` looks whether it has been named meanwhile.
    async fn delete_content(&self, meta: &Meta, prefix: &str, is_unnamed: BoxFuture<'_, Result<bool>>) -> Result<()> {
        let key = &meta.key;
        if !self.is_shared() {
            return self.delete(std::slice::from_ref(key)).await;
        }
        // First: what comes to be seen from now on is looked at later on, and what came before is by `is_unnamed`.
        self.new_since(u64::MAX, prefix).await?;
        let seen = AtomicU64::new(self.deleted.seen());
        let is_unnamed = is_unnamed.await?;
        self.condemn(meta).await?;
        self.forget(key);
        if is_unnamed {
            let gone = Gone { version: meta.version.clone(), prefix: prefix.to_string(), seen };
            self.deleted.add(key.clone(), gone);
        }
        Ok(())
    }

    async fn condemn(&self, meta: &Meta) -> Result<()> {
        let key = &meta.key;
        // What is condemned already goes without another list.
        if self.condemned.pin().await?.has(key) {
            return Ok(());
        }
        let (keys, sizes) = (vec![key.to_string()], vec![meta.size]);
        // It comes from no mark.
        let list = List { kind: Kind::Garbage, marked: jiff::Timestamp::UNIX_EPOCH, keys, sizes };
        self.condemned.publish(&list).await?;
        // What is condemned counts as gone for the tenant's quota. Nothing else rests on knowing of it soon.
        if let Err(error) = self.condemned.refresh().await {
            tracing::info!(%key, %error, "what was deleted is not counted yet");
        }
        Ok(())
    }
}
