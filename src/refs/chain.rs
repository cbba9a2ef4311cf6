//! Content that a scope reads beside its own.
//!
//! A repository is read through a chain of tenants: the tenant of its permit, and its parents, the nearest first. For a
//! tenant that is no scope the chain is the tenant alone. All writes go to the first of the chain.
//!
//! Invariant: a parent never reads a child. A key of a tenant is built only for a permit whose chain contains it, and
//! nothing outside a scope references an object of the scope.
//!
//! A scope's reference to an object of its parent is soft: the parent's collector does not see it. An answer that uses
//! the object spares it like any other, so a build has its grace period; later the object may be gone. Views then leave
//! it out, which costs a step; other manifests are not served any more.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::pointer::Pointer;
use super::pushes::LivePush;
use super::repo::Repo;
use crate::digest::Digest;
use crate::error::Result;
use crate::layout;
use crate::names::Tag;
use crate::objects::{Key, Version};

/// A pointer, as it was at some moment after `asked`.
pub struct VersionedPointer {
    pub asked: Instant,
    pub version: Version,
    pub pointer: Arc<Pointer>,
}

/// The pointers from which a tag of this tenant is served.
pub struct TagSources {
    /// The tenant's own pointer. Its version is that of all pointers which were read.
    pub at: VersionedPointer,
    /// The cache tags of the same name in parents, the nearest first.
    inherited: Vec<(Repo, Arc<Pointer>)>,
}

impl Repo {
    /// The repository in the nearest parent.
    pub fn parent(&self) -> Option<Repo> {
        Some(Repo::of(self.refs().clone(), self.blobs().parent()?))
    }

    /// The repository in each tenant of the chain.
    pub fn each(&self) -> impl Iterator<Item = Repo> {
        std::iter::successors(Some(self.clone()), Repo::parent)
    }

    /// The keys under which a manifest may be, in the order of the chain.
    pub fn manifest_keys(&self, digest: &Digest) -> impl Iterator<Item = Key> {
        self.blobs().chain().map(|tenant| layout::manifest(tenant, self.name(), digest))
    }

    /// The sources of a tag of this tenant; nothing if the tenant has no such tag. A plain tag hides those of its
    /// parents.
    pub async fn tag_sources(&self, tag: &Tag) -> Result<Option<TagSources>> {
        let asked = Instant::now();
        let Some((mut version, pointer)) = self.pointer(tag).await? else { return Ok(None) };
        let mut inherited = Vec::new();
        if pointer.push.is_some() && self.blobs().is_scope() {
            let mut versions = version.0.to_string();
            for repo in self.each().skip(1) {
                let Some((version, pointer)) = repo.pointer(tag).await? else {
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
        Ok(Some(TagSources { at: VersionedPointer { asked, version, pointer }, inherited }))
    }
}

impl TagSources {
    /// The pushes that make a cache tag of `repo`: those of the parents, the farthest first, then its own, each oldest
    /// first. Of pushes with the same identity, the nearest counts.
    pub async fn pushes(&self, repo: &Repo, tag: &Tag) -> Result<Vec<LivePush>> {
        let mut live = Vec::new();
        for (parent, pointer) in self.inherited.iter().rev() {
            live.extend(parent.pushes_behind(tag, pointer).await?);
        }
        live.extend(repo.pushes_behind(tag, &self.at.pointer).await?);
        let mut seen = HashSet::new();
        live.reverse();
        live.retain(|push: &LivePush| seen.insert(push.id.identity));
        live.reverse();
        Ok(live)
    }

    /// Notes that the tag of `repo` is in use, in each tenant from which it is served.
    pub async fn note_use(&self, repo: &Repo, tag: &Tag) {
        repo.note_use(tag).await;
        for (parent, _) in &self.inherited {
            parent.note_use(tag).await;
        }
    }
}
