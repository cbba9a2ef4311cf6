//! What this server has deleted by its digest and now denies, though in a bucket it lies there until a collector deletes it.
//!
//! A tombstone holds for as long as nothing that leads to its object has been written, here or by another server: builders
//! ask one server for a tag and the next one for what the tag names. That nothing has been written is seen at one glance
//! at the keys; else what was written is followed, once for all tombstones.

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

/// Keys that are remembered. One that is forgotten is there again until a collector has deleted it.
const GONE_MAX: u64 = 100_000;
/// Writings that are told from later ones, some 40 bytes each. Beyond, all that was deleted is forgotten.
const SEEN_MAX: usize = 1 << 20;
/// Writings since a deletion that are looked at, one by one, for one request. What has seen more is taken to be there again.
const LOOKS_MAX: usize = 64;
/// Such writings that are kept in mind to be looked at for all that was deleted.
const NEW_MAX: usize = 4096;

/// Follows what was written to what it leads to. The rooms above know what names what.
#[async_trait]
pub trait LeadsTo: Send + Sync {
    /// The fingerprints of the keys of all manifests and blobs that an object leads to.
    async fn leads_to(&self, written: &Meta) -> Result<HashSet<u64>>;
}

/// What this server has said to be gone. Only whoever asks for it by its digest is told so: what serves tags and takes
/// pushes looks at what is there.
pub struct Tombstones {
    keys: Cache<Key, Arc<Tombstone>>,
    /// Which writings were seen where something was deleted, and in which order: those with a greater number than a
    /// deletion has came to be seen after it.
    seen: Mutex<WriteSequence>,
    /// Anything was, since this server began.
    any: AtomicBool,
    objects: Arc<dyn Objects>,
    /// Set once, when the rooms above are there.
    references: OnceLock<Arc<dyn LeadsTo>>,
}

/// When something was deleted.
pub struct Tombstone {
    pub version: Version,
    /// All that can name it is below.
    pub prefix: String,
    /// Up to here, what was written does not lead to it.
    pub seen: AtomicU64,
}

#[derive(Default)]
struct WriteSequence {
    numbers: HashMap<u64, u64>,
    /// The last number. It never falls.
    last: u64,
}

/// A writing that came to be seen after some deletion.
pub struct Write {
    number: u64,
    pub meta: Meta,
    /// The fingerprints of the keys that it leads to, once somebody wants to know: one writing may be looked at for all that
    /// was deleted.
    pub reaches: OnceCell<HashSet<u64>>,
}

/// Writings that came to be seen after some deletion. More than a bounded number are not told apart.
pub struct WritesSince {
    since: u64,
    /// How many had been seen when the list began. All that was written before and is still there is in it; of what has a
    /// greater number, another list may have shown some that this one was too early for.
    pub until: u64,
    writings: Vec<Write>,
}

impl WritesSince {
    pub fn add(&mut self, number: u64, meta: &Meta) {
        if number > self.since && self.writings.len() <= NEW_MAX {
            self.writings.push(Write { number, meta: meta.clone(), reaches: OnceCell::new() });
        }
    }

    /// Those that may lead to what was deleted; nothing when there are too many.
    pub fn of(&self, gone: &Tombstone) -> Option<Vec<&Write>> {
        let seen = gone.seen.load(Ordering::Relaxed);
        let new = self.writings.iter();
        let new = new.filter(|newer| newer.number > seen && newer.meta.key.as_str().starts_with(&gone.prefix));
        let new: Vec<_> = new.take(LOOKS_MAX + 1).collect();
        (new.len() <= LOOKS_MAX && self.writings.len() <= NEW_MAX).then_some(new)
    }
}

impl Tombstones {
    /// `wait`: how long what is condemned waits before it is deleted.
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

    /// The number of a writing that a list shows now.
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

    /// How many writings have been seen.
    pub fn seen(&self) -> u64 {
        self.seen.lock().last
    }

    /// For a list that begins now.
    pub fn new_since(&self, since: u64) -> WritesSince {
        WritesSince { since, until: self.seen(), writings: Vec::new() }
    }

    /// All that was deleted below `prefix`.
    pub fn below(&self, prefix: &str) -> HashMap<Key, Arc<Tombstone>> {
        if !self.any.load(Ordering::Acquire) {
            return HashMap::new();
        }
        let below = self.keys.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
        below.map(|(key, gone)| ((*key).clone(), gone)).collect()
    }

    /// The object is there again.
    pub fn remove(&self, key: &Key) {
        self.keys.invalidate(key);
    }

    /// Has what is written from now on followed by `references`.
    pub fn follow(&self, references: Arc<dyn LeadsTo>) {
        // A second one would follow the same references of the same store.
        let _ = self.references.set(references);
    }

    /// Whether this server denies the object: it has deleted it, and nobody has written it again, nor anything that leads
    /// to it.
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

    /// What is listed below `prefix` and was not when so many writes had been seen.
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

    /// Whether nothing of what is `new` leads to the object. What has been deleted since leads nowhere.
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
