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

/// Maximum number of tags whose last note of use is remembered.
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
    /// Time of the last written note of use, for each tag.
    used: Cache<Key, Instant>,
    /// Held shared while a manifest is written with its tags, exclusively while something is deleted that manifests or
    /// tags may reference: in between, they would reference an object that is about to be deleted. Steps that a client
    /// can make last long, lookups of a manifest's references, parsing, making a view, happen outside: a waiting delete
    /// blocks all writers.
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

    /// The referenced content.
    pub fn content(&self) -> &Content {
        &self.shared.content
    }

    /// The remembered pointers of tags.
    pub fn pointers(&self) -> &Pointers {
        &self.shared.pointers
    }

    /// The inventory of tags in memory, for display.
    pub fn stock(&self) -> &TagInventory {
        &self.shared.inventory
    }

    pub(super) fn used(&self) -> &Cache<Key, Instant> {
        &self.shared.used
    }

    /// Takes the lock of references, shared: nothing that manifests and tags may reference is deleted while it is held.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`](crate::error::Error::Busy) when a delete takes too long.
    pub async fn writing(&self, deadline: Deadline) -> Result<RwLockReadGuard<'_, ()>> {
        deadline.bound(async { Ok(self.shared.guard.read().await) }).await
    }

    /// The deletions of callers by digest.
    pub fn deletions(&self) -> &Deletions {
        &self.shared.deletions
    }

    /// Takes the lock of references, exclusively: this server writes no manifests and tags while it is held.
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

    /// The events, to report what happened.
    pub fn events(&self) -> &Events {
        self.content().events()
    }

    /// The condemned objects.
    pub fn condemned(&self) -> &Condemned {
        self.content().condemned()
    }

    /// The time since which a tag is condemned, for display: by the current snapshot, and `None` if this server has used it.
    pub fn condemned_since(&self, tenant: &Tenant, repo: &RepoName, tag: &Tag) -> Option<SystemTime> {
        self.condemned().since(&layout::tag(tenant, repo, tag))
    }

    /// The capacity for uploads.
    pub fn room(&self) -> &Arc<Capacity> {
        self.content().room()
    }

    /// The accounts of all tenants' usage.
    pub fn usage(&self) -> &Usage {
        self.content().room().usage()
    }
}
