//! Views that this server has made or found, the turns to make one, and other memory of cache tags.

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

/// Memory for views, in bytes.
const VIEWS_BYTES_MAX: u64 = 64 << 20;
/// Memory for references of manifests, in bytes.
const NAMES_BYTES_MAX: u64 = 8 << 20;
/// Maximum number of remembered inspections, and of remembered families.
const INSPECTIONS_MAX: u64 = 256;
const FAMILIES_MAX: u64 = 1024;
/// Time that a builder may take from a tag to the manifest that the tag has served, and the number of such manifests
/// that are remembered.
const JUST_SERVED: Duration = Duration::from_secs(10);
const JUST_SERVED_MAX: u64 = 10_000;

/// A view, and the pointer and pushes of which it was made.
pub(super) struct CachedView {
    /// The pointer that was read before the pushes were listed.
    pub at: VersionedPointer,
    pub live: Vec<LivePush>,
    pub stored: StoredView,
}

impl CachedView {
    /// The manifest that the tag serves.
    pub fn served(&self) -> Served {
        self.stored.view.clone().unwrap_or_else(|| Served::pushed(&self.at.pointer))
    }

    fn weight(&self) -> u32 {
        let stored = &self.stored;
        let entries = stored.pushes.len() * 5 + stored.needed.len() + stored.missing.len();
        u32::try_from(256 + entries * size_of::<Digest>()).unwrap_or(u32::MAX)
    }
}

/// Remembered views, by the key of their tag's pointer.
pub(super) struct Views {
    known: Cache<Key, Arc<CachedView>>,
    /// Locks that let one request at a time make the view of a tag: the others wait, and find it made.
    turns: [Arc<tokio::sync::Mutex<()>>; STRIPES],
    /// The same locks for inspections.
    look_turns: [tokio::sync::Mutex<()>; STRIPES],
    /// Tags whose view will be made without a request.
    ahead: Mutex<HashSet<Key>>,
    /// The last inspection of each tag.
    inspected: Cache<Key, (Version, Arc<Inspection>)>,
    /// References of manifests.
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

    /// The lock for making views of a tag.
    pub fn turn(&self, key: &Key) -> &Arc<tokio::sync::Mutex<()>> {
        &self.turns[stripe(key)]
    }

    /// The lock for inspecting a tag: the others wait, and find it done.
    pub fn look_turn(&self, key: &Key) -> &tokio::sync::Mutex<()> {
        &self.look_turns[stripe(key)]
    }

    /// The inspection of a tag when its pointer had this version and it served this digest.
    pub fn inspected(&self, key: &Key, version: &Version, served: &Digest) -> Option<Arc<Inspection>> {
        let (at, known) = self.inspected.get(key)?;
        (at == *version && known.served.digest == *served).then_some(known)
    }

    /// Remembers the inspection of a tag.
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

    /// References of a manifest, if remembered.
    pub fn names(&self, manifest: &Digest) -> Option<Arc<ManifestNames>> {
        self.names.get(manifest)
    }

    /// Remembers the references of a manifest.
    pub fn insert_names(&self, manifest: Digest, names: Arc<ManifestNames>) {
        self.names.insert(manifest, names);
    }

    /// The family of the pushes with this config, if remembered.
    pub fn family(&self, config: &Digest, size: u64) -> Option<Option<Family>> {
        self.families.get(&(*config, size))
    }

    /// Remembers the family of the pushes with this config.
    pub fn insert_family(&self, config: Digest, size: u64, family: Option<Family>) {
        self.families.insert((config, size), family);
    }

    /// Announces that the view of a tag will be made. False if that was announced already.
    pub fn begin_ahead(&self, key: &Key) -> bool {
        self.ahead.lock().insert(key.clone())
    }

    /// Ends the announcement, just before the view is made: a later caller may have a newer push.
    pub fn end_ahead(&self, key: &Key) {
        self.ahead.lock().remove(key);
    }
}
