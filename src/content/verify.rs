//! Whether the bytes of an object fit its digest.
//!
//! Content is verified when this process reads the whole of it for the first time, on its way out. Readers of one object at
//! the same time share the work: each byte is hashed once, by whoever comes to it first, and the last chunk is held back
//! from all of them until the digest fits. What has been verified is remembered by version.
//!
//! Invariant: a chunk that differs from what was verified, or is being verified, leaves the hot layer. Which of the two is
//! wrong, nobody knows yet: whoever comes next finds neither.
//!
//! A disk that gives wrong bytes is believed at once. Between us and a bucket lies a line that may flip bits: an object
//! there is wrong when two reads of it agree on wrong bytes, and chunks that are fetched again later must have the sums of
//! those that were verified.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use moka::sync::Cache;
use tokio::sync::Semaphore;

use crate::content::quarantine::Quarantine;
use crate::content::read::chunk as slot;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, Result};
use crate::hot;
use crate::hot::Piece;
use crate::objects::{Key, Meta, Version};
use crate::store::Store;
use crate::sync::lru;

/// Objects whose bytes were checked against their digest, or found wrong.
const VERIFIED_MAX: u64 = 500_000;
/// Memory for the sums of verified chunks: eight bytes a chunk.
const SUMS_BYTES_MAX: u64 = 16 << 20;
/// Objects read in the background because parts of them were asked for.
const BACKGROUND_MAX: usize = 2;
/// Verifications that nobody waits for any more are swept beyond so many.
const PROGRESS_SWEEP: usize = 256;

/// Whether an object's bytes fit its digest, as far as this process has looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    Right,
    Wrong,
}

/// What has been checked, and what came of it. A new version of a key is unchecked.
pub struct Checks {
    verdicts: Cache<Key, (Version, Checked)>,
    /// Of the chunks of verified objects.
    sums: Cache<(Key, Version), Arc<[u64]>>,
    progress: Mutex<HashMap<(Key, Version), Weak<Passing>>>,
    background: Arc<Semaphore>,
    in_background: Arc<Mutex<HashSet<Key>>>,
    pub(crate) quarantine: Quarantine,
}

impl Default for Checks {
    fn default() -> Self {
        let sums = Cache::builder()
            .max_capacity(SUMS_BYTES_MAX)
            .weigher(|(key, _): &(Key, Version), sums: &Arc<[u64]>| {
                u32::try_from(key.as_str().len() + sums.len() * 8 + 128).unwrap_or(u32::MAX)
            })
            .build();
        Checks {
            verdicts: lru(VERIFIED_MAX),
            sums,
            progress: Mutex::default(),
            background: Arc::new(Semaphore::new(BACKGROUND_MAX)),
            in_background: Arc::default(),
            quarantine: Quarantine::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn named(meta: &Meta) -> (Key, Version) {
    (meta.key.clone(), meta.version.clone())
}

impl Checks {
    pub fn verdict(&self, meta: &Meta) -> Option<Checked> {
        let (version, verdict) = self.verdicts.get(&meta.key)?;
        (version == meta.version).then_some(verdict)
    }

    pub fn is_wrong(&self, meta: &Meta) -> bool {
        self.verdict(meta) == Some(Checked::Wrong) || self.quarantine.has(meta)
    }

    /// The sums of the chunks, when all of them were verified.
    pub fn sums(&self, meta: &Meta) -> Option<Arc<[u64]>> {
        self.sums.get(&named(meta))
    }

    /// Leaves a verification to those who take part in it: whoever comes from now on begins another.
    fn abandon(&self, meta: &Meta, passing: &Arc<Passing>) {
        let (mut all, name) = (lock(&self.progress), named(meta));
        if all.get(&name).is_some_and(|current| current.as_ptr() == Arc::as_ptr(passing)) {
            all.remove(&name);
        }
    }
}

/// The hash of an object whose chunks are passing.
struct Hashed {
    /// Gone when it is finished.
    hasher: Option<Hasher>,
    /// What it came to.
    actual: Option<Digest>,
    /// Of the chunks that were hashed, in order.
    sums: Vec<u64>,
}

/// The hash of an object, with whoever reads it.
type Passing = tokio::sync::Mutex<Hashed>;

/// What a read of a whole object came to.
struct Reading {
    version: Version,
    digest: Digest,
    /// Of its chunks.
    sums: Vec<u64>,
}

/// One reader's part in the verification of an object.
pub struct Progress {
    store: Store,
    meta: Meta,
    digest: Digest,
    chunks: u64,
    hashed: Arc<Passing>,
}

impl Progress {
    /// Lets a chunk pass to the reader: all readers come in order. The last one passes when the digest fits.
    pub async fn pass(&self, index: u64, piece: &Piece) -> Result<()> {
        let mut hashed = self.hashed.clone().lock_owned().await;
        let last = index + 1 == self.chunks;
        if hashed.sums.len() as u64 == index {
            // The lock goes along: a reader that goes away loses nothing for the others.
            let piece = piece.clone();
            let hashing = tokio::task::spawn_blocking(move || {
                if let Some(hasher) = &mut hashed.hasher {
                    hasher.update(&piece.bytes);
                    hashed.sums.push(piece.sum);
                }
                if last {
                    hashed.actual = hashed.hasher.take().map(Hasher::finish);
                }
                hashed
            });
            hashed = hashing.await?;
            if last {
                self.conclude(&hashed).await?;
            }
        }
        // A chunk that came twice may have come wrong once: this time, or when it was hashed, and then the verification fits
        // no right bytes for as long as any of its readers takes part.
        let is_hashed = hashed.sums.get(index as usize) == Some(&piece.sum);
        if !is_hashed {
            self.store.hot.forget(&slot(&self.meta, index));
            self.store.checks.abandon(&self.meta, &self.hashed);
        }
        let fits = !last || hashed.actual == Some(self.digest);
        if is_hashed && fits { Ok(()) } else { Err(Error::BlobUnknown(self.digest)) }
    }

    async fn conclude(&self, hashed: &Hashed) -> Result<()> {
        let store = &self.store;
        let Some(actual) = hashed.actual else { return Ok(()) };
        if actual == self.digest {
            store.checks.sums.insert(named(&self.meta), hashed.sums.as_slice().into());
            store.record(&self.meta, true).await;
            return Ok(());
        }
        store.forget_chunks(&self.meta);
        store.checks.abandon(&self.meta, &self.hashed);
        store.confirm(&self.meta, &self.digest, actual).await
    }
}

impl Store {
    /// Remembers what a check came to. Bytes that are wrong are said so once, loudly: somebody has to look at the disk. They
    /// go into quarantine.
    pub(crate) async fn record(&self, meta: &Meta, right: bool) {
        if !right {
            self.metrics.corrupt_objects.inc();
            tracing::error!(key = %meta.key, bytes = meta.size, "object does not fit its digest");
            self.presence.forget(&meta.key);
            self.forget_chunks(meta);
        }
        let verdict = if right { Checked::Right } else { Checked::Wrong };
        self.checks.verdicts.insert(meta.key.clone(), (meta.version.clone(), verdict));
        if !right {
            self.checks.quarantine.add(&*self.objects, meta).await;
        }
    }

    fn forget_chunks(&self, meta: &Meta) {
        (0..meta.size.div_ceil(self.hot.chunk_bytes())).for_each(|index| self.hot.forget(&slot(meta, index)));
    }

    /// The verification of an object of so many chunks, in which a reader of all of them takes part.
    pub(crate) fn verification(&self, meta: &Meta, digest: &Digest, chunks: u64) -> Progress {
        let mut all = lock(&self.checks.progress);
        let name = named(meta);
        let hashed = all.get(&name).and_then(Weak::upgrade).unwrap_or_else(|| {
            let hasher = Some(Hasher::new(digest.algorithm()));
            Arc::new(tokio::sync::Mutex::new(Hashed { hasher, actual: None, sums: Vec::new() }))
        });
        if all.len() >= PROGRESS_SWEEP {
            all.retain(|_, hashed| hashed.strong_count() > 0);
        }
        all.insert(name, Arc::downgrade(&hashed));
        Progress { store: self.clone(), meta: meta.clone(), digest: *digest, chunks, hashed }
    }

    /// Reads an object of a store that is far once more, past the hot layer, after a read that came to a wrong digest.
    /// Two reads that differ prove nothing but a bad line.
    async fn confirm(&self, meta: &Meta, digest: &Digest, first: Digest) -> Result<()> {
        let second = self.read_past(&meta.key, digest.algorithm()).await?;
        if second.digest == *digest || second.digest == first {
            self.conclude(meta, digest, second).await;
        }
        Ok(())
    }

    /// Reads an object past the hot layer, and records whether it fits its digest.
    async fn recheck(&self, meta: &Meta, digest: &Digest) -> Result<()> {
        let reading = self.read_past(&meta.key, digest.algorithm()).await?;
        if reading.digest != *digest && self.objects.traits().may_flip_bits {
            return self.confirm(meta, digest, reading.digest).await;
        }
        self.conclude(meta, digest, reading).await;
        Ok(())
    }

    async fn conclude(&self, meta: &Meta, digest: &Digest, reading: Reading) {
        if reading.version != meta.version {
            return;
        }
        let right = reading.digest == *digest;
        // For what is in memory, and comes again: it was not what has been read here.
        if right && !self.objects.traits().page_cached {
            self.checks.sums.insert(named(meta), reading.sums.into());
        }
        self.record(meta, right).await;
    }

    /// What an object comes to, read in chunks that are not kept.
    async fn read_past(&self, key: &Key, algorithm: Algorithm) -> Result<Reading> {
        let chunk_bytes = self.hot.chunk_bytes() as usize;
        let (meta, bytes) = self.objects.get(key, 0..u64::MAX).await?;
        let (mut bytes, mut piece) = (bytes.fuse(), Bytes::new());
        let (mut hasher, mut sums, mut chunk) = (Hasher::new(algorithm), Vec::new(), Vec::with_capacity(chunk_bytes));
        loop {
            while chunk.len() < chunk_bytes {
                if piece.is_empty() {
                    let Some(next) = bytes.try_next().await? else { break };
                    piece = next;
                }
                chunk.extend_from_slice(&piece.split_to(piece.len().min(chunk_bytes - chunk.len())));
            }
            if chunk.is_empty() {
                return Ok(Reading { version: meta.version, digest: hasher.finish(), sums });
            }
            let hashing = tokio::task::spawn_blocking(move || {
                hasher.update(&chunk);
                sums.push(hot::sum(&chunk));
                chunk.clear();
                (hasher, sums, chunk)
            });
            (hasher, sums, chunk) = hashing.await?;
        }
    }

    /// Checks an object of which parts are being read, unless that has been done or is under way. Two at a time: further
    /// ones are checked when they are read again.
    pub(crate) fn check_in_background(&self, meta: &Meta, digest: &Digest) {
        struct Begun(Arc<Mutex<HashSet<Key>>>, Key);
        impl Drop for Begun {
            fn drop(&mut self) {
                lock(&self.0).remove(&self.1);
            }
        }
        let Ok(turn) = self.checks.background.clone().try_acquire_owned() else { return };
        if !lock(&self.checks.in_background).insert(meta.key.clone()) {
            return;
        }
        let begun = Begun(self.checks.in_background.clone(), meta.key.clone());
        let (store, meta, digest) = (self.clone(), meta.clone(), *digest);
        tokio::spawn(async move {
            if let Err(error) = store.recheck(&meta, &digest).await {
                tracing::info!(key = %meta.key, %error, "object cannot be checked now");
            }
            drop((turn, begun));
        });
    }
}
