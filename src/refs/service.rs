//! The references of one store, and what this process remembers of them.

use std::sync::Arc;
use std::time::SystemTime;

use moka::sync::Cache;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::Instant;

use super::deletions::Deletions;
use super::pointer::Pointers;
use crate::capacity::Capacity;
use crate::capacity::usage::Usage;
use crate::config::Config;
use crate::content::Content;
use crate::content::condemned::Condemned;
use crate::deadline::Deadline;
use crate::error::Result;
use crate::events::Events;
use crate::layout;
use crate::metrics::Metrics;
use crate::names::{RepoName, Tag, Tenant};
use crate::objects::{Key, Objects};
use crate::refs::inventory::TagInventory;
use crate::sync::lru;

/// Tags of which the last note of use is remembered.
const USED_MAX: u64 = 100_000;

/// The references of one store. Cheap to clone.
#[derive(Clone)]
pub struct Refs {
    shared: Arc<RefsShared>,
}

struct RefsShared {
    content: Content,
    pointers: Pointers,
    inventory: TagInventory,
    /// When the last use of a tag was last written.
    used: Cache<Key, Instant>,
    /// Held shared while a manifest is written with its tags, alone while something is deleted that manifests or tags
    /// may name: in between, they would name what is about to go. What a client can make last long, looking for what a
    /// manifest names, parsing, making a view, happens outside: one who waits to delete keeps all who write waiting.
    guard: RwLock<()>,
    deletions: Deletions,
}

impl Refs {
    /// The references to `content`.
    pub fn new(content: Content) -> Refs {
        let shared = RefsShared {
            pointers: Pointers::new(content.objects().clone()),
            content,
            inventory: TagInventory::default(),
            used: lru(USED_MAX),
            guard: RwLock::new(()),
            deletions: Deletions::default(),
        };
        Refs { shared: Arc::new(shared) }
    }

    /// The content that is named.
    pub fn content(&self) -> &Content {
        &self.shared.content
    }

    /// The pointers of tags, as far as they are remembered.
    pub fn pointers(&self) -> &Pointers {
        &self.shared.pointers
    }

    /// The inventory of tags in memory, for people to look at.
    pub fn stock(&self) -> &TagInventory {
        &self.shared.inventory
    }

    pub(super) fn used(&self) -> &Cache<Key, Instant> {
        &self.shared.used
    }

    /// Keeps others from deleting what manifests and tags may name.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`](crate::error::Error::Busy) when something is being deleted for too long.
    pub async fn writing(&self, deadline: Deadline) -> Result<RwLockReadGuard<'_, ()>> {
        deadline.bound(async { Ok(self.shared.guard.read().await) }).await
    }

    /// What callers have deleted by its digest.
    pub fn deletions(&self) -> &Deletions {
        &self.shared.deletions
    }

    /// Keeps this server from writing manifests and tags.
    pub async fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.shared.guard.write().await
    }

    /// The backend.
    pub fn objects(&self) -> &Arc<dyn Objects> {
        self.content().objects()
    }

    /// The configuration of the server.
    pub fn config(&self) -> &Arc<Config> {
        self.content().config()
    }

    /// The metrics of the server.
    pub fn metrics(&self) -> &Arc<Metrics> {
        self.content().metrics()
    }

    /// Where to tell what happened.
    pub fn events(&self) -> &Events {
        self.content().events()
    }

    /// The objects that wait for their deletion.
    pub fn condemned(&self) -> &Condemned {
        self.content().condemned()
    }

    /// Since when a tag is condemned, for people to look at: as of the last look, and nothing where this server has used it.
    pub fn condemned_since(&self, tenant: &Tenant, repo: &RepoName, tag: &Tag) -> Option<SystemTime> {
        self.condemned().since(&layout::tag(tenant, repo, tag))
    }

    /// The room for uploads.
    pub fn room(&self) -> &Arc<Capacity> {
        self.content().room()
    }

    /// The accounts of what each tenant stores.
    pub fn usage(&self) -> &Usage {
        self.content().room().usage()
    }
}
