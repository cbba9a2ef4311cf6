//! Whether the bytes of an object fit its digest.
//!
//! Content is verified when this process reads the whole of it for the first time, on its way out. Readers of one object at
//! the same time share the work: each byte is hashed once, by whoever comes to it first, and the last chunk is held back
//! from all of them until the digest fits. What has been verified is remembered by version.
//!
//! A disk that gives wrong bytes is believed at once. Between us and a bucket lies a line: there an object is read once more
//! before it is condemned, and chunks that are fetched again later must have the sums of those that were verified.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures::TryStreamExt;
use moka::sync::Cache;
use tokio::sync::Semaphore;

use super::{Error, Result, Store, newest};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::hot::{Piece, Slot};
use crate::objects::{self, Distance, Key, Meta, Objects, Version};

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
    progress: Mutex<HashMap<(Key, Version), Weak<tokio::sync::Mutex<Hashed>>>>,
    background: Arc<Semaphore>,
    in_background: Arc<Mutex<HashSet<Key>>>,
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
            verdicts: newest(VERIFIED_MAX),
            sums,
            progress: Mutex::default(),
            background: Arc::new(Semaphore::new(BACKGROUND_MAX)),
            in_background: Arc::default(),
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
        self.verdict(meta) == Some(Checked::Wrong)
    }

    /// The sums of the chunks, when all of them were verified.
    pub fn sums(&self, meta: &Meta) -> Option<Arc<[u64]>> {
        self.sums.get(&named(meta))
    }
}

/// The hash of an object whose chunks are passing.
struct Hashed {
    /// Gone when it is finished.
    hasher: Option<Hasher>,
    /// Of the chunks that were hashed, in order.
    sums: Vec<u64>,
    right: bool,
}

/// One reader's part in the verification of an object.
#[derive(Clone)]
pub struct Progress {
    store: Store,
    meta: Meta,
    digest: Digest,
    chunks: u64,
    hashed: Arc<tokio::sync::Mutex<Hashed>>,
}

impl Progress {
    /// Lets a chunk pass to the reader: all readers come in order. The last one passes when the digest fits.
    pub async fn pass(&self, index: u64, piece: &Piece) -> Result<()> {
        let mut hashed = self.hashed.clone().lock_owned().await;
        let last = index + 1 == self.chunks;
        if hashed.sums.len() as u64 == index {
            // The lock goes along: a reader that goes away loses nothing for the others.
            let (piece, digest) = (piece.clone(), self.digest);
            let hashing = tokio::task::spawn_blocking(move || {
                if let Some(hasher) = &mut hashed.hasher {
                    hasher.update(&piece.bytes);
                    hashed.sums.push(piece.sum);
                }
                if last {
                    hashed.right = hashed.hasher.take().is_some_and(|hasher| hasher.finish() == digest);
                }
                hashed
            });
            hashed = hashing.await?;
            if last {
                self.conclude(&hashed).await?;
            }
        }
        // A chunk that came twice may have come wrong the second time.
        let is_hashed = hashed.sums.get(index as usize) == Some(&piece.sum);
        if is_hashed && (!last || hashed.right) { Ok(()) } else { Err(Error::BlobUnknown(self.digest)) }
    }

    async fn conclude(&self, hashed: &Hashed) -> Result<()> {
        let store = &self.store;
        if hashed.right {
            store.checks.sums.insert(named(&self.meta), hashed.sums.as_slice().into());
            store.record(&self.meta, true);
            return Ok(());
        }
        for index in 0..self.chunks {
            store.hot.forget(&Slot::Chunk(self.meta.key.clone(), self.meta.version.clone(), index));
        }
        if let Some(right) = store.fits(&self.meta, &self.digest).await? {
            store.record(&self.meta, right);
        }
        Ok(())
    }
}

impl Store {
    /// Remembers what a check came to. Bytes that are wrong are said so once, loudly: somebody has to look at the disk.
    pub(super) fn record(&self, meta: &Meta, right: bool) {
        if !right {
            self.metrics.corrupt_objects.inc();
            tracing::error!(key = %meta.key, bytes = meta.size, "object does not fit its digest");
            self.presence.forget(&meta.key);
        }
        let verdict = if right { Checked::Right } else { Checked::Wrong };
        self.checks.verdicts.insert(meta.key.clone(), (meta.version.clone(), verdict));
    }

    /// The verification of an object of so many chunks, in which a reader of all of them takes part.
    pub(super) fn verification(&self, meta: &Meta, digest: &Digest, chunks: u64) -> Progress {
        let mut all = lock(&self.checks.progress);
        let name = named(meta);
        let hashed = all.get(&name).and_then(Weak::upgrade).unwrap_or_else(|| {
            let hasher = Some(Hasher::new(digest.algorithm()));
            Arc::new(tokio::sync::Mutex::new(Hashed { hasher, sums: Vec::new(), right: false }))
        });
        if all.len() >= PROGRESS_SWEEP {
            all.retain(|_, hashed| hashed.strong_count() > 0);
        }
        all.insert(name, Arc::downgrade(&hashed));
        Progress { store: self.clone(), meta: meta.clone(), digest: *digest, chunks, hashed }
    }

    /// Reads an object past the hot layer: whether it fits its digest, when it still is that version.
    async fn fits(&self, meta: &Meta, digest: &Digest) -> Result<Option<bool>> {
        let (found, actual) = digest_of(&*self.objects, &meta.key, digest.algorithm()).await?;
        Ok((found.version == meta.version).then_some(actual == *digest))
    }

    /// Checks an object of which parts are being read, unless that has been done or is under way. Two at a time: further
    /// ones are checked when they are read again.
    pub(super) fn check_in_background(&self, meta: &Meta, digest: &Digest) {
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
            let mut fits = store.fits(&meta, &digest).await;
            if matches!(fits, Ok(Some(false))) && store.objects.distance() == Distance::Far {
                fits = store.fits(&meta, &digest).await;
            }
            match fits {
                Ok(Some(right)) => store.record(&meta, right),
                Ok(None) => {}
                Err(error) => tracing::info!(key = %meta.key, %error, "object cannot be checked now"),
            }
            drop((turn, begun));
        });
    }
}

/// What an object has for a digest.
async fn digest_of(objects: &dyn Objects, key: &Key, algorithm: Algorithm) -> Result<(Meta, Digest)> {
    let mut hasher = Hasher::new(algorithm);
    let (meta, mut bytes) = objects.get(key, 0..u64::MAX).await?;
    while let Some(piece) = bytes.try_next().await.map_err(|error: objects::Error| Error::from(error))? {
        let hashing = tokio::task::spawn_blocking(move || {
            hasher.update(&piece);
            hasher
        });
        hasher = hashing.await?;
    }
    Ok((meta, hasher.finish()))
}
