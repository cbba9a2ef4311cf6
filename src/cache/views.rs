//! The views that this server has made or found, whose turn it is to make one, and what else it remembers of cache tags.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::found::{Inspection, ManifestNames};
use crate::buildkit::Family;
use crate::digest::Digest;
use crate::objects::{Key, Version};
use crate::refs::chain::VersionedPointer;
use crate::refs::pushes::LivePush;
use crate::refs::stored_view::{Served, StoredView};
use crate::sync::{STRIPES, lru, stripe};

/// Memory for what is known of views, in bytes.
const VIEWS_BYTES_MAX: u64 = 64 << 20;
/// Memory for what manifests name, in bytes.
const NAMES_BYTES_MAX: u64 = 8 << 20;
/// Inspections and families that are remembered.
const INSPECTIONS_MAX: u64 = 256;
const FAMILIES_MAX: u64 = 1024;
/// How long a builder may take from a tag to the manifest that the tag has served, and how many of those are remembered.
const JUST_SERVED: Duration = Duration::from_secs(10);
const JUST_SERVED_MAX: u64 = 10_000;

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
    /// The same for those who look at tags.
    look_turns: [tokio::sync::Mutex<()>; STRIPES],
    /// Tags whose view will be made without anybody having asked for it.
    ahead: Mutex<HashSet<Key>>,
    /// What was last found in a tag, for those who look at it.
    inspected: Cache<Key, (Version, Arc<Inspection>)>,
    /// What manifests name.
    names: Cache<Digest, Arc<ManifestNames>>,
    /// The families of pushes whose configs are long to parse, by digest and size of the config.
    families: Cache<(Digest, u64), Option<Family>>,
    /// Manifests that cache tags have served in the last seconds.
    just_served: Cache<Key, ()>,
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
            look_turns: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            ahead: Mutex::default(),
            inspected: lru(INSPECTIONS_MAX),
            names: Cache::builder()
                .max_capacity(NAMES_BYTES_MAX)
                .weigher(|_: &Digest, names: &Arc<ManifestNames>| names.weight())
                .eviction_policy(EvictionPolicy::lru())
                .build(),
            families: lru(FAMILIES_MAX),
            just_served: Cache::builder().max_capacity(JUST_SERVED_MAX).time_to_live(JUST_SERVED).build(),
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

    /// The lock of those who inspect a tag: what the others wait for, they find done.
    pub fn look_turn(&self, key: &Key) -> &tokio::sync::Mutex<()> {
        &self.look_turns[stripe(key)]
    }

    /// What was found in a tag when its pointer had this version and it served this digest.
    pub fn inspected(&self, key: &Key, version: &Version, served: &Digest) -> Option<Arc<Inspection>> {
        let (at, known) = self.inspected.get(key)?;
        (at == *version && known.served.digest == *served).then_some(known)
    }

    /// Remembers what was found in a tag.
    pub fn insert_inspected(&self, key: Key, version: Version, found: Arc<Inspection>) {
        self.inspected.insert(key, (version, found));
    }

    /// Notes that a cache tag has served a manifest.
    pub fn note_served(&self, manifest: Key) {
        self.just_served.insert(manifest, ());
    }

    /// Whether a cache tag has served a manifest in the last seconds.
    pub fn was_just_served(&self, manifest: &Key) -> bool {
        self.just_served.contains_key(manifest)
    }

    /// What a manifest names, if it is remembered.
    pub fn names(&self, manifest: &Digest) -> Option<Arc<ManifestNames>> {
        self.names.get(manifest)
    }

    /// Remembers what a manifest names.
    pub fn insert_names(&self, manifest: Digest, names: Arc<ManifestNames>) {
        self.names.insert(manifest, names);
    }

    /// The family of the pushes that have this config, if it is remembered.
    pub fn family(&self, config: &Digest, size: u64) -> Option<Option<Family>> {
        self.families.get(&(*config, size))
    }

    /// Remembers the family of the pushes that have this config.
    pub fn insert_family(&self, config: Digest, size: u64, family: Option<Family>) {
        self.families.insert((config, size), family);
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
