//! The views that this server has made or found, and whose turn it is to make one.

use std::collections::HashSet;
use std::sync::Arc;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::objects::{Key, Version};
use crate::refs::chain::VersionedPointer;
use crate::refs::pushes::LivePush;
use crate::refs::stored_view::{Served, StoredView};
use crate::sync::{STRIPES, stripe};

/// Memory for what is known of views, in bytes.
const VIEWS_BYTES_MAX: u64 = 64 << 20;
/// Views made at once: each loads all pushes of its tag.
const MAKERS: usize = 2;

/// A view, and what it was made of.
pub(super) struct CachedView {
    /// The pointer that was read before the pushes were listed.
    pub at: VersionedPointer,
    pub live: Vec<LivePush>,
    pub stored: StoredView,
}

impl CachedView {
    /// What the tag serves.
    pub fn served(&self) -> Served {
        self.stored.view.clone().unwrap_or_else(|| Served::pushed(&self.at.pointer))
    }

    fn weight(&self) -> u32 {
        let stored = &self.stored;
        let entries = stored.pushes.len() * 5 + stored.needed.len() + stored.missing.len();
        u32::try_from(256 + entries * size_of::<Digest>()).unwrap_or(u32::MAX)
    }
}

/// The views that are remembered, by the key of their tag's pointer.
pub(super) struct Views {
    known: Cache<Key, Arc<CachedView>>,
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
            .weigher(|_: &Key, known: &Arc<CachedView>| known.weight())
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
    /// The view that was made for this version of the pointer.
    pub fn of_version(&self, key: &Key, version: &Version) -> Option<Arc<CachedView>> {
        self.known.get(key).filter(|known| known.at.version == *version)
    }

    /// The view that was made of a pointer which is at least as new as `asked`.
    pub fn made_since(&self, key: &Key, asked: Instant) -> Option<Arc<CachedView>> {
        self.known.get(key).filter(|known| known.at.asked >= asked)
    }

    /// Remembers a view.
    pub fn insert(&self, key: Key, view: Arc<CachedView>) {
        self.known.insert(key, view);
    }

    /// The lock of those who make views of a tag.
    pub fn turn(&self, key: &Key) -> &Arc<tokio::sync::Mutex<()>> {
        &self.turns[stripe(key)]
    }

    /// A place among the makers of views.
    pub async fn maker(&self) -> Result<SemaphorePermit<'_>> {
        self.makers.acquire().await.map_err(|_| Error::Busy)
    }

    /// Says that the view of a tag will be made, and whether nobody has said so before.
    pub fn begin_ahead(&self, key: &Key) -> bool {
        self.ahead.lock().insert(key.clone())
    }

    /// The view of a tag is being made: who comes from now on may come with a newer push.
    pub fn end_ahead(&self, key: &Key) {
        self.ahead.lock().remove(key);
    }
}
