//! What a scope reads beside its own.
//!
//! A repository is read through a chain of tenants: the one that its permit is for, and its parents, the nearest first.
//! For a tenant that is no scope the chain is the tenant alone. Everything is written to the first of the chain.
//!
//! Invariant: a parent never reads a child. A key of a tenant is built only for a permit whose chain has it, and nothing
//! that is written below a scope is named by anything outside it.
//!
//! What a scope names of a parent is a soft reference: the parent's collector does not see it. An answer that rests on it
//! spares it like any other, so a build has its grace period; later it may be gone. Views leave it out then, which costs a
//! step; other manifests are not served any more.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use crate::cache::views::Pointed;
use crate::content::condemned::Snapshot;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout;
use crate::names::{Tag, Tenant};
use crate::objects::{Key, Meta, Version};
use crate::refs::pushes::LivePush;
use crate::refs::tags::{Listed, Page, Pointer};
use crate::store::{Repo, Store};

/// What a tag that is in this tenant serves from.
pub(crate) struct Behind {
    /// The pointer, with a version that is that of all pointers which were read.
    pub at: Pointed,
    /// The cache tags of the same name that parents have, the nearest first.
    inherited: Vec<(Repo, Arc<Pointer>)>,
}

impl Repo {
    pub(crate) fn is_scope(&self) -> bool {
        !self.permit.parents().is_empty()
    }

    /// The tenants that are read, in this order.
    fn chain(&self) -> impl Iterator<Item = &Tenant> {
        std::iter::once(self.tenant()).chain(self.permit.parents())
    }

    /// The repository as the nearest parent has it.
    pub(crate) fn parent(&self) -> Option<Repo> {
        Some(self.store.repo(self.permit.of_parent()?))
    }

    /// The repository as each of the chain has it.
    pub(crate) fn each(&self) -> impl Iterator<Item = Repo> {
        std::iter::successors(Some(self.clone()), Repo::parent)
    }

    /// Where a blob may be.
    pub(crate) fn blob_keys(&self, digest: &Digest) -> impl Iterator<Item = Key> {
        self.chain().map(|tenant| layout::blob(tenant, digest))
    }

    /// Where a manifest may be.
    pub(crate) fn manifest_keys(&self, digest: &Digest) -> impl Iterator<Item = Key> {
        self.chain().map(|tenant| layout::manifest(tenant, self.name(), digest))
    }

    /// What a tag of this tenant serves from; nothing when it has none of its own. A plain tag hides those of the parents
    /// behind it.
    pub(crate) async fn behind(&self, tag: &Tag) -> Result<Option<Behind>> {
        let asked = Instant::now();
        let Some((mut version, pointer)) = self.store.pointer(&self.tag_key(tag)).await? else { return Ok(None) };
        let mut inherited = Vec::new();
        if pointer.push.is_some() && self.is_scope() {
            let mut versions = version.0.to_string();
            for repo in self.each().skip(1) {
                let Some((version, pointer)) = self.store.pointer(&repo.tag_key(tag)).await? else {
                    versions.push_str("\n-");
                    continue;
                };
                versions.push_str(&format!("\n{}", version.0));
                if pointer.push.is_none() {
                    break;
                }
                inherited.push((repo, pointer));
            }
            version = Version(versions.into());
        }
        Ok(Some(Behind { at: Pointed { asked, version, pointer }, inherited }))
    }

    /// The pushes that a cache tag is made of: those of the parents, the farthest first, then its own, each oldest first.
    /// What one says is said by the nearest that says it.
    pub(crate) async fn all_pushes(&self, tag: &Tag, behind: &Behind) -> Result<Vec<LivePush>> {
        let mut live = Vec::new();
        for (repo, pointer) in behind.inherited.iter().rev() {
            live.extend(repo.pushes_behind(tag, pointer).await?);
        }
        live.extend(self.pushes_behind(tag, &behind.at.pointer).await?);
        let mut seen = HashSet::new();
        live.reverse();
        live.retain(|push: &LivePush| seen.insert(push.id.identity));
        live.reverse();
        Ok(live)
    }

    /// Notes that the tag is in use, wherever it comes from.
    pub(crate) async fn touch_all(&self, tag: &Tag, behind: &Behind) {
        self.touch(tag).await;
        for (repo, _) in &behind.inherited {
            repo.touch(tag).await;
        }
    }

    /// A page of a list over the chain. `page_of` has the part of one of it, in the order of `name`.
    pub(crate) async fn merged<T, F>(
        &self,
        page: &Page,
        page_of: impl Fn(Repo) -> F,
        name: impl Fn(&T) -> String,
    ) -> Result<Listed<T>>
    where
        F: Future<Output = Result<Listed<T>>>,
    {
        let (mut merged, mut end) = (Listed { entries: Vec::new(), more: false }, None);
        for repo in self.each() {
            let listed = page_of(repo).await?;
            if listed.more {
                merged.more = true;
                end = listed.entries.last().map(&name).into_iter().chain(end).min();
            }
            merged.entries.extend(listed.entries);
        }
        // What comes behind the end of a part that goes on is for a later page: the next one begins behind this page's end.
        merged.entries.retain(|entry| end.as_ref().is_none_or(|end| name(entry) <= *end));
        // The nearest comes first of those that are called the same, and the sort leaves them in order.
        merged.entries.sort_by_cached_key(&name);
        merged.entries.dedup_by_key(|entry| name(entry));
        merged.more |= merged.entries.len() > page.limit;
        merged.entries.truncate(page.limit);
        Ok(merged)
    }
}

impl Store {
    /// As [`Store::found`], for the first of the keys that has something.
    pub(crate) async fn found_in(&self, pin: &Snapshot, keys: impl Iterator<Item = Key>) -> Result<Option<Meta>> {
        for key in keys {
            if let Some(meta) = self.found(pin, &key).await? {
                return Ok(Some(meta));
            }
        }
        Ok(None)
    }

    /// As [`Store::servable`], for any of the keys.
    pub(crate) async fn servable_in(
        &self,
        pin: &Snapshot,
        keys: impl Iterator<Item = Key>,
        pushed: Option<SystemTime>,
    ) -> Result<bool> {
        for key in keys {
            if self.servable(pin, &key, pushed).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// As [`Store::small`], for the first of the keys that has something.
    pub(crate) async fn small_in(&self, keys: impl Iterator<Item = Key>, digest: Digest) -> Result<bytes::Bytes> {
        for key in keys {
            match self.small(&key, digest).await {
                Err(Error::BlobUnknown(_)) => {}
                done => return done,
            }
        }
        Err(Error::BlobUnknown(digest))
    }

    /// Whether any of the keys has what somebody is about to read, for an answer that rests on `pin`.
    pub(crate) async fn readable_in(
        &self,
        pin: &Snapshot,
        keys: impl Iterator<Item = Key>,
        digest: &Digest,
    ) -> Result<bool> {
        for key in keys {
            let found = match self.condemned.rely(pin, &key).await? {
                true => self.ask(&key).await?.is_some(),
                false => self.has_small(&key, digest).await?,
            };
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
