//! Results of verifications in this process.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::quarantine::Quarantine;
use crate::digest::{Digest, Hasher};
use crate::objects::{Key, Meta, Version};
use crate::sync::lru;

/// Maximum number of remembered verifications.
const VERIFIED_MAX: u64 = 500_000;
/// Bytes for the sums of verified chunks: eight bytes for each chunk.
const SUMS_BYTES_MAX: u64 = 16 << 20;
/// Objects verified at the same time in the background, because ranges of them were requested.
const BACKGROUND_MAX: usize = 2;
/// Number of verifications beyond which those without readers are removed.
const PROGRESS_SWEEP: usize = 256;

/// Whether an object's bytes fit its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    Right,
    Wrong,
}

/// Results of verifications, by version: a new version of a key is unchecked.
pub struct Verdicts {
    known: Cache<Key, (Version, Checked)>,
    /// Sums of the chunks of verified objects.
    sums: Cache<(Key, Version), Arc<[u64]>>,
    progress: Mutex<HashMap<(Key, Version), Weak<PassingHash>>>,
    background: Arc<Semaphore>,
    in_background: Arc<Mutex<HashSet<Key>>>,
    quarantine: Quarantine,
}

impl Default for Verdicts {
    fn default() -> Self {
        let sums = Cache::builder()
            .max_capacity(SUMS_BYTES_MAX)
            .weigher(|(key, _): &(Key, Version), sums: &Arc<[u64]>| {
                u32::try_from(key.as_str().len() + sums.len() * 8 + 128).unwrap_or(u32::MAX)
            })
            .build();
        Verdicts {
            known: lru(VERIFIED_MAX),
            sums,
            progress: Mutex::default(),
            background: Arc::new(Semaphore::new(BACKGROUND_MAX)),
            in_background: Arc::default(),
            quarantine: Quarantine::default(),
        }
    }
}

/// The identity of one version of an object.
fn name_of(meta: &Meta) -> (Key, Version) {
    (meta.key.clone(), meta.version.clone())
}

impl Verdicts {
    pub fn verdict(&self, meta: &Meta) -> Option<Checked> {
        let (version, verdict) = self.known.get(&meta.key)?;
        (version == meta.version).then_some(verdict)
    }

    pub fn is_wrong(&self, meta: &Meta) -> bool {
        self.verdict(meta) == Some(Checked::Wrong) || self.quarantine.has(meta)
    }

    /// The sums of the chunks, if all of them were verified.
    pub fn sums(&self, meta: &Meta) -> Option<Arc<[u64]>> {
        self.sums.get(&name_of(meta))
    }

    /// The notes of wrong objects.
    pub fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    /// Remembers the result of a check of this version.
    pub(super) fn note(&self, meta: &Meta, verdict: Checked) {
        self.known.insert(meta.key.clone(), (meta.version.clone(), verdict));
    }

    /// Remembers the sums of the chunks of a verified object.
    pub(super) fn note_sums(&self, meta: &Meta, sums: Arc<[u64]>) {
        self.sums.insert(name_of(meta), sums);
    }

    /// Returns the running verification of a version, or a new one that begins with `hasher`.
    pub(super) fn passing(&self, meta: &Meta, hasher: impl FnOnce() -> Hasher) -> Arc<PassingHash> {
        let (mut all, name) = (self.progress.lock(), name_of(meta));
        let passing = all.get(&name).and_then(Weak::upgrade).unwrap_or_else(|| {
            Arc::new(PassingHash::new(Hashed { hasher: Some(hasher()), actual: None, sums: Vec::new() }))
        });
        if all.len() >= PROGRESS_SWEEP {
            all.retain(|_, passing| passing.strong_count() > 0);
        }
        all.insert(name, Arc::downgrade(&passing));
        passing
    }

    /// The right to check an object in the background; nothing while a check of it runs, or too many run.
    pub(super) fn begin_background(&self, key: &Key) -> Option<Background> {
        let turn = self.background.clone().try_acquire_owned().ok()?;
        let is_new = self.in_background.lock().insert(key.clone());
        is_new.then(|| Background { all: self.in_background.clone(), key: key.clone(), _turn: turn })
    }

    /// Leaves a verification to its current readers: later readers begin another.
    pub(super) fn abandon(&self, meta: &Meta, passing: &Arc<PassingHash>) {
        let (mut all, name) = (self.progress.lock(), name_of(meta));
        if all.get(&name).is_some_and(|current| current.as_ptr() == Arc::as_ptr(passing)) {
            all.remove(&name);
        }
    }
}

/// The hash of an object whose chunks are passing.
pub(super) struct Hashed {
    /// The running hash; absent when it is finished.
    pub hasher: Option<Hasher>,
    /// The digest of the bytes, when finished.
    pub actual: Option<Digest>,
    /// Sums of the chunks that were hashed, in order.
    pub sums: Vec<u64>,
}

/// The hash of an object, shared by its readers.
pub(super) type PassingHash = tokio::sync::Mutex<Hashed>;

/// A running check in the background. Dropped, it counts as ended.
pub(super) struct Background {
    all: Arc<Mutex<HashSet<Key>>>,
    key: Key,
    _turn: OwnedSemaphorePermit,
}

impl Drop for Background {
    fn drop(&mut self) {
        self.all.lock().remove(&self.key);
    }
}
