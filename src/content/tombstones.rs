//! What a server has said to be gone, and what it has seen since.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::OnceCell;

use crate::content::condemned::fingerprint;
use crate::digest::Digest;
use crate::objects::{Key, Meta, Version};

/// Keys that are remembered. One that is forgotten is there again until a collector has deleted it.
const GONE_MAX: u64 = 100_000;
/// Writings that are told from later ones, some 40 bytes each. Beyond, all that was deleted is forgotten.
const SEEN_MAX: usize = 1 << 20;
/// Memory for what indexes name, so that whoever deletes many manifests does not have all of them read for each.
const CHILDREN_BYTES_MAX: u64 = 16 << 20;
/// Writings since a deletion that are looked at, one by one, for one request. What has seen more is taken to be there again.
const LOOKS_MAX: usize = 64;
/// Such writings that are kept in mind to be looked at for all that was deleted.
const NEW_MAX: usize = 4096;

/// What this server has said to be gone. Only whoever asks for it by its digest is told so: what serves tags and takes
/// pushes looks at what is there.
pub struct Deleted {
    pub(crate) keys: Cache<Key, Arc<Gone>>,
    /// Which writings were seen where something was deleted, and in which order: those with a greater number than a
    /// deletion has came to be seen after it.
    seen: Mutex<Seen>,
    /// Anything was, since this server began.
    any: AtomicBool,
    /// By the fingerprint of the manifest's key: manifests are write-once.
    pub(crate) children: Cache<u64, Arc<[Digest]>>,
}

/// When something was deleted.
pub(crate) struct Gone {
    pub version: Version,
    /// All that can name it is below.
    pub prefix: String,
    /// Up to here, what was written does not lead to it.
    pub seen: AtomicU64,
}

#[derive(Default)]
struct Seen {
    numbers: HashMap<u64, u64>,
    /// The last number. It never falls.
    last: u64,
}

/// A writing that came to be seen after some deletion.
pub(crate) struct Newer {
    number: u64,
    pub meta: Meta,
    /// The fingerprints of the keys that it leads to, once somebody wants to know: one writing may be looked at for all that
    /// was deleted.
    pub reaches: OnceCell<HashSet<u64>>,
}

/// Writings that came to be seen after some deletion. More than [`NEW_MAX`] are not told apart.
pub(crate) struct New {
    since: u64,
    /// How many had been seen when the list began. All that was written before and is still there is in it; of what has a
    /// greater number, another list may have shown some that this one was too early for.
    pub until: u64,
    writings: Vec<Newer>,
}

impl New {
    pub(crate) fn add(&mut self, number: u64, meta: &Meta) {
        if number > self.since && self.writings.len() <= NEW_MAX {
            self.writings.push(Newer { number, meta: meta.clone(), reaches: OnceCell::new() });
        }
    }

    /// Those that may lead to what was deleted; nothing when there are too many.
    pub(crate) fn of(&self, gone: &Gone) -> Option<Vec<&Newer>> {
        let seen = gone.seen.load(Ordering::Relaxed);
        let new = self.writings.iter();
        let new = new.filter(|newer| newer.number > seen && newer.meta.key.as_str().starts_with(&gone.prefix));
        let new: Vec<_> = new.take(LOOKS_MAX + 1).collect();
        (new.len() <= LOOKS_MAX && self.writings.len() <= NEW_MAX).then_some(new)
    }
}

impl Deleted {
    /// `wait`: how long what is condemned waits before it is deleted.
    pub fn new(wait: Duration) -> Deleted {
        let keys = Cache::builder().max_capacity(GONE_MAX).time_to_live(wait * 2);
        let weight = |_: &u64, children: &Arc<[Digest]>| (64 + size_of_val::<[Digest]>(children)) as u32;
        Deleted {
            any: AtomicBool::new(false),
            seen: Mutex::default(),
            keys: keys.eviction_policy(EvictionPolicy::lru()).build(),
            children: Cache::builder().max_capacity(CHILDREN_BYTES_MAX).weigher(weight).build(),
        }
    }

    pub(crate) fn add(&self, key: Key, gone: Gone) {
        self.keys.insert(key, Arc::new(gone));
        self.any.store(true, Ordering::Release);
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Gone>> {
        if self.any.load(Ordering::Acquire) { self.keys.get(key) } else { None }
    }

    /// The number of a writing that a list shows now.
    pub(crate) fn number(&self, meta: &Meta) -> u64 {
        let writing = fingerprint(&format!("{} {:?} {}", meta.key, meta.modified, meta.version.0));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.numbers.len() >= SEEN_MAX && !seen.numbers.contains_key(&writing) {
            seen.numbers.clear();
            self.keys.invalidate_all();
        }
        let next = seen.last + 1;
        let number = *seen.numbers.entry(writing).or_insert(next);
        seen.last = seen.last.max(number);
        number
    }

    /// How many writings have been seen.
    pub(crate) fn seen(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).last
    }

    /// For a list that begins now.
    pub(crate) fn new_since(&self, since: u64) -> New {
        New { since, until: self.seen(), writings: Vec::new() }
    }

    /// All that was deleted below `prefix`.
    pub(crate) fn below(&self, prefix: &str) -> HashMap<Key, Arc<Gone>> {
        if !self.any.load(Ordering::Acquire) {
            return HashMap::new();
        }
        let below = self.keys.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
        below.map(|(key, gone)| ((*key).clone(), gone)).collect()
    }
}
