//! Digests that clients deleted at this server. The server denies them, though in a bucket the object stays until a
//! collector deletes it.
//!
//! A tombstone holds until something that reaches its object is written, here or by another server: builders ask one
//! server for a tag and the next one for the content that the tag references. One list of keys shows whether anything
//! was written; if so, the references of each new write are followed, once for all tombstones.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use futures::future::ready;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::condemned::fingerprint;
use crate::calls::Calls;
use crate::deadline::Deadline;
use crate::error::Result;
use crate::objects::{Key, Meta, Objects, Version};

/// Maximum number of remembered keys. One that is forgotten exists again until a collector has deleted it.
const GONE_MAX: u64 = 100_000;
/// Maximum number of numbered writes, some 40 bytes each. Beyond it, all tombstones are forgotten.
const SEEN_MAX: usize = 1 << 20;
/// Writes since a deletion that one request follows, one by one. With more, the deleted object is taken to exist again.
const LOOKS_MAX: usize = 64;
/// Maximum number of such writes that one list keeps, for all tombstones.
const NEW_MAX: usize = 4096;

/// Follows the references of a written object. The rooms above implement it: they know the references.
#[async_trait]
pub trait LeadsTo: Send + Sync {
    /// The fingerprints of the keys of all manifests and blobs that an object reaches.
    async fn leads_to(&self, written: &Meta) -> Result<HashSet<u64>>;
}

/// The tombstones of this server. They apply only to requests by digest: the code that serves tags and takes pushes
/// looks at the store.
pub struct Tombstones {
    keys: Cache<Key, Arc<Tombstone>>,
    /// The numbers of the writes, in the order in which they were first seen: a write with a greater number than a
    /// deletion was first seen after it.
    seen: Mutex<WriteSequence>,
    /// Whether any digest was deleted since this server began.
    any: AtomicBool,
    objects: Arc<dyn Objects>,
    /// Follower of references, set once when the rooms above exist.
    references: OnceLock<Arc<dyn LeadsTo>>,
}

/// A deletion, and how far the writes after it were followed.
pub struct Tombstone {
    pub version: Version,
    /// The prefix of all keys that can reference the object.
    pub prefix: String,
    /// Number up to which no write reaches the object.
    pub seen: AtomicU64,
}

#[derive(Default)]
struct WriteSequence {
    numbers: HashMap<u64, u64>,
    /// The last number given. It never falls.
    last: u64,
}

/// A write that was first seen after some deletion.
pub struct Write {
    number: u64,
    pub meta: Meta,
    /// The fingerprints of the keys that it reaches, filled at the first use: one write may be followed for all
    /// tombstones.
    pub reaches: OnceCell<HashSet<u64>>,
}

/// Writes that were first seen after some deletion, at most a bounded number.
pub struct WritesSince {
    since: u64,
    /// The number of writes seen when the list began. Every object that was written before and still exists is in the
    /// list; of writes with a greater number, another list may have shown some for which this one was too early.
    pub until: u64,
    writings: Vec<Write>,
}

impl WritesSince {
    pub fn add(&mut self, number: u64, meta: &Meta) {
        if number > self.since && self.writings.len() <= NEW_MAX {
            self.writings.push(Write { number, meta: meta.clone(), reaches: OnceCell::new() });
        }
    }

    /// The writes that may reach a deleted object; nothing if there are too many.
    pub fn of(&self, gone: &Tombstone) -> Option<Vec<&Write>> {
        let seen = gone.seen.load(Ordering::Relaxed);
        let new = self.writings.iter();
        let new = new.filter(|newer| newer.number > seen && newer.meta.key.as_str().starts_with(&gone.prefix));
        let new: Vec<_> = new.take(LOOKS_MAX + 1).collect();
        (new.len() <= LOOKS_MAX && self.writings.len() <= NEW_MAX).then_some(new)
    }
}

impl Tombstones {
    /// `wait`: time for which a condemned object waits before it is deleted.
    pub(super) fn new(objects: Arc<dyn Objects>, wait: Duration) -> Tombstones {
        let keys = Cache::builder().max_capacity(GONE_MAX).time_to_live(wait * 2);
        Tombstones {
            any: AtomicBool::new(false),
            seen: Mutex::default(),
            keys: keys.eviction_policy(EvictionPolicy::lru()).build(),
            objects,
            references: OnceLock::new(),
        }
    }

    pub fn add(&self, key: Key, gone: Tombstone) {
        self.keys.insert(key, Arc::new(gone));
        self.any.store(true, Ordering::Release);
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Tombstone>> {
        if self.any.load(Ordering::Acquire) { self.keys.get(key) } else { None }
    }

    /// The number of a write that a list shows now.
    pub fn number(&self, meta: &Meta) -> u64 {
        let writing = fingerprint(&format!("{} {:?} {}", meta.key, meta.modified, meta.version.0));
        let mut seen = self.seen.lock();
        if seen.numbers.len() >= SEEN_MAX && !seen.numbers.contains_key(&writing) {
            seen.numbers.clear();
            self.keys.invalidate_all();
        }
        let next = seen.last + 1;
        let number = *seen.numbers.entry(writing).or_insert(next);
        seen.last = seen.last.max(number);
        number
    }

    /// Number of writes seen so far.
    pub fn seen(&self) -> u64 {
        self.seen.lock().last
    }

    /// An empty collection for a list that begins now.
    pub fn new_since(&self, since: u64) -> WritesSince {
        WritesSince { since, until: self.seen(), writings: Vec::new() }
    }

    /// All tombstones of keys below `prefix`.
    pub fn below(&self, prefix: &str) -> HashMap<Key, Arc<Tombstone>> {
        if !self.any.load(Ordering::Acquire) {
            return HashMap::new();
        }
        let below = self.keys.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
        below.map(|(key, gone)| ((*key).clone(), gone)).collect()
    }

    /// Removes a tombstone: the object exists again.
    pub fn remove(&self, key: &Key) {
        self.keys.invalidate(key);
    }

    /// Has writes from now on followed by `references`.
    pub fn follow(&self, references: Arc<dyn LeadsTo>) {
        // A second one would follow the same references of the same store.
        let _ = self.references.set(references);
    }

    /// Whether this server denies the object: it has deleted it, and since then neither the object nor anything that
    /// reaches it was written.
    pub async fn denies(&self, key: &Key, deadline: Deadline) -> Result<bool> {
        let Some(tombstone) = self.get(key) else { return Ok(false) };
        let stays = match Calls::until(&*self.objects, deadline).head(key).await? {
            Some(meta) if meta.version != tombstone.version => false,
            Some(_) => {
                let since = tombstone.seen.load(Ordering::Relaxed);
                let new = self.writes_since(since, &tombstone.prefix, deadline).await?;
                self.is_unnamed(key, &tombstone, &new).await?
            }
            None => true,
        };
        if !stays {
            self.keys.invalidate(key);
        }
        Ok(stays)
    }

    /// Lists the writes below `prefix` that came after the first `since`.
    pub async fn writes_since(&self, since: u64, prefix: &str, deadline: Deadline) -> Result<WritesSince> {
        let listed = || {
            let add = |mut new: WritesSince, meta: Meta| {
                new.add(self.number(&meta), &meta);
                ready(Ok(new))
            };
            self.objects.list(prefix, None).try_fold(self.new_since(since), add)
        };
        Ok(deadline.retry(listed).await?)
    }

    /// Whether none of the writes `new` reaches the object. A written object that has been deleted since reaches
    /// nothing.
    pub async fn is_unnamed(&self, key: &Key, tombstone: &Tombstone, new: &WritesSince) -> Result<bool> {
        let until = new.until;
        let (Some(new), Some(references)) = (new.of(tombstone), self.references.get()) else { return Ok(false) };
        let id = fingerprint(key.as_str());
        for write in new {
            if write.reaches.get_or_try_init(|| references.leads_to(&write.meta)).await?.contains(&id) {
                return Ok(false);
            }
        }
        tombstone.seen.fetch_max(until, Ordering::Relaxed);
        Ok(true)
    }
}
