//! The hot layer: immutable bytes in bounded memory, each fetched once for all concurrent requests.
//!
//! It holds small objects whole, and large ones in chunks. Bytes that were read and bytes that were only pushed have
//! budgets of their own, so that a push cannot flush the bytes that builds read; the first read of pushed bytes moves
//! them over.
//!
//! Invariant: only bytes that can never change under their name are kept. There is no invalidation, only
//! [`Hot::forget`].
//! Invariant: chunks of two versions of an object never mix. The version is part of a chunk's name.

mod ahead;
pub mod flights;
mod kept;

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryFutureExt;
use futures::future::{Either, Ready, ready};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;

use crate::metrics::Metrics;
use crate::objects::{Key, Version};
use flights::{Flight, Flights};

/// Cost of an entry beside its bytes: key, node and tables.
const ENTRY_BYTES: usize = 256;
/// Size in bytes of a chunk of a large object. Smaller ones would cost a call for few bytes, larger ones memory for
/// each transfer.
pub const CHUNK_BYTES: u64 = 1 << 20;
/// Divisor of the budget: the share of bytes that were pushed and not read yet.
const PUSHED_SHARE: u64 = 4;
/// Bytes of fetches in flight, for all readers. A reader that waits for one needs no memory meanwhile.
const FETCHING_BYTES_MAX: u64 = 32 << 20;
/// Bytes of read-ahead chunks that their readers have not reached. Never more than a quarter of the layer.
const AHEAD_BYTES_MAX: u64 = 32 << 20;
/// Bytes that are gathered of all blobs kept while they are pushed: a chunk of each or, of a small one, the whole.
const PUSHING_BYTES_MAX: u64 = 16 << 20;

/// The name of bytes in the layer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// A whole object, named by its digest.
    Whole(Key),
    /// A chunk of one version of an object, by its index.
    Chunk(Key, Version, u64),
}

impl Slot {
    fn len(&self) -> usize {
        match self {
            Slot::Whole(key) => key.as_str().len(),
            Slot::Chunk(key, version, _) => key.as_str().len() + version.0.len(),
        }
    }
}

/// Bytes with a checksum that tells whether others are the same: it detects flipped bits, not malice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotPiece {
    pub bytes: Bytes,
    pub sum: u64,
}

impl HotPiece {
    pub fn of(bytes: Bytes) -> HotPiece {
        HotPiece { sum: sum(&bytes), bytes }
    }
}

/// The checksum of a [`HotPiece`]. Every step is a bijection of the sum so far: a change of one word always shows.
pub fn sum(bytes: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |sum: u64, word: &[u8]| {
        let mut padded = [0; 8];
        padded[..word.len()].copy_from_slice(word);
        (sum ^ u64::from_le_bytes(padded)).wrapping_mul(ODD).rotate_left(29)
    };
    // Four lanes, because each step waits for the one before.
    let mut lanes = [1, 2, 3, bytes.len() as u64];
    let mut blocks = bytes.chunks_exact(32);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(8)) {
            *lane = mix(*lane, word);
        }
    }
    let rest = blocks.remainder().chunks(8).fold(0, mix);
    lanes.iter().fold(rest, |sum, lane| mix(sum, &lane.to_le_bytes()))
}

/// Bytes by name, and the fetches in flight. `E` is the error of a fetch; every waiter gets a clone.
pub struct Hot<E> {
    read: Cache<Slot, HotPiece>,
    pushed: Cache<Slot, HotPiece>,
    flights: Arc<Flights<Slot, HotPiece, E>>,
    chunk_bytes: u64,
    bytes: u64,
    fetching_bytes_max: u64,
    /// Units of one KiB.
    fetching: Arc<Semaphore>,
    ahead: Arc<Semaphore>,
    pushing: Arc<Semaphore>,
    kept: kept::KeptUntil,
    metrics: Arc<Metrics>,
}

fn segment(bytes: u64) -> Cache<Slot, HotPiece> {
    Cache::builder()
        .max_capacity(bytes)
        .weigher(|slot: &Slot, piece: &HotPiece| {
            u32::try_from(slot.len() + piece.bytes.len() + ENTRY_BYTES).unwrap_or(u32::MAX)
        })
        // Not the default: TinyLFU turns away entries that were seen once, and the next builder asks for exactly those.
        .eviction_policy(EvictionPolicy::lru())
        .build()
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

impl<E> Hot<E> {
    fn settle(&self, segment: &Cache<Slot, HotPiece>) {
        // Without this call a cache exceeds its bound until it runs its tasks by itself: nine times over, measured.
        segment.run_pending_tasks();
        let held = self.read.weighted_size() + self.pushed.weighted_size();
        self.metrics.hot_bytes.set(i64::try_from(held).unwrap_or(i64::MAX));
    }
}

impl<E: Clone + Send + Sync + From<JoinError> + 'static> Hot<E> {
    /// A layer that holds at most `bytes` bytes, tables included, large objects in chunks of `chunk_bytes`.
    pub fn new(bytes: u64, chunk_bytes: u64, metrics: Arc<Metrics>) -> Hot<E> {
        let fetching_bytes_max = FETCHING_BYTES_MAX.min(bytes / 4).max(chunk_bytes);
        metrics.hot_limit_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        let budget = |bytes: u64| Arc::new(Semaphore::new(kib(bytes.max(chunk_bytes)) as usize));
        Hot {
            read: segment(bytes - bytes / PUSHED_SHARE),
            pushed: segment(bytes / PUSHED_SHARE),
            flights: Arc::default(),
            chunk_bytes,
            bytes,
            fetching_bytes_max,
            fetching: budget(fetching_bytes_max),
            ahead: budget(AHEAD_BYTES_MAX.min(bytes / 4)),
            pushing: budget(PUSHING_BYTES_MAX.min(bytes / 4)),
            kept: kept::KeptUntil::default(),
            metrics,
        }
    }

    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// Largest object in bytes that is kept when pushed: half of the budget of all pushes.
    pub fn pushed_bytes_max(&self) -> u64 {
        self.bytes / PUSHED_SHARE / 2
    }

    /// The bytes, if they are in memory.
    pub fn peek(&self, slot: &Slot) -> Option<HotPiece> {
        let found = self.read.get(slot).or_else(|| {
            let pushed = self.pushed.remove(slot)?;
            self.keep(slot.clone(), pushed.clone());
            Some(pushed)
        });
        match found {
            Some(_) => self.metrics.hot_hits.inc(),
            None => self.metrics.hot_misses.inc(),
        }
        found
    }

    /// Whether the bytes are in memory. This does not count as use.
    pub fn has(&self, slot: &Slot) -> bool {
        self.read.contains_key(slot) || self.pushed.contains_key(slot)
    }

    fn is_coming(&self, slot: &Slot) -> bool {
        self.flights.under_way_for(slot).is_some()
    }

    fn place_ahead(&self) -> Option<OwnedSemaphorePermit> {
        self.ahead.clone().try_acquire_many_owned(kib(self.chunk_bytes)).ok()
    }

    fn keep(&self, slot: Slot, piece: HotPiece) {
        self.read.insert(slot, piece);
        self.settle(&self.read);
    }

    /// Keeps the bytes of an object that was just written. They are copied: a slice of a large buffer would keep all of
    /// it alive, and the budget counts the slice only.
    pub fn keep_pushed(&self, slot: Slot, bytes: &[u8]) {
        self.read.invalidate(&slot);
        self.pushed.insert(slot, HotPiece::of(Bytes::copy_from_slice(bytes)));
        self.settle(&self.pushed);
    }

    /// Removes the bytes, and detaches the fetch in flight: its waiters get its bytes, but they are not kept.
    pub fn forget(&self, slot: &Slot) {
        self.flights.forget(slot, || {
            self.read.invalidate(slot);
            self.pushed.invalidate(slot);
        });
    }

    /// Returns the bytes from memory, or from one `fetch` shared by all concurrent callers. The fetched bytes should
    /// not be a slice of a larger buffer.
    ///
    /// `expected` is their number, as far as it is known.
    pub async fn get<F>(self: &Arc<Self>, slot: &Slot, expected: u64, fetch: impl FnOnce() -> F) -> Result<Bytes, E>
    where
        F: Future<Output = Result<Bytes, E>> + Send + 'static,
    {
        Ok(self.join_of(slot, expected, || fetch().map_ok(HotPiece::of)).await?.bytes)
    }

    fn join<F>(
        self: &Arc<Self>,
        slot: &Slot,
        fetch: impl FnOnce() -> F,
    ) -> Either<Ready<Result<HotPiece, E>>, Flight<HotPiece, E>>
    where
        F: Future<Output = Result<HotPiece, E>> + Send + 'static,
    {
        self.join_of(slot, self.chunk_bytes, fetch)
    }

    fn join_of<F>(
        self: &Arc<Self>,
        slot: &Slot,
        expected: u64,
        fetch: impl FnOnce() -> F,
    ) -> Either<Ready<Result<HotPiece, E>>, Flight<HotPiece, E>>
    where
        F: Future<Output = Result<HotPiece, E>> + Send + 'static,
    {
        if let Some(piece) = self.peek(slot) {
            return Either::Left(ready(Ok(piece)));
        }
        let here = || self.read.get(slot).or_else(|| self.pushed.get(slot));
        let (hot, owned) = (self.clone(), slot.clone());
        let land = move |piece: &HotPiece| hot.keep(owned, piece.clone());
        let work = || {
            // A fetch larger than the whole budget has it alone.
            let kib = kib(expected.min(self.fetching_bytes_max));
            let (fetching, turn) = (fetch(), self.fetching.clone());
            async move {
                let _turn = turn.acquire_many_owned(kib).await.ok();
                fetching.await
            }
        };
        Either::Right(self.flights.join(slot, here, work, land))
    }

    /// Begins to keep an object of `bytes` bytes while it is pushed; nothing if it is too large, or too many are being
    /// kept.
    pub fn pushing(self: &Arc<Self>, key: &Key, bytes: u64, form: KeptForm) -> Option<Pushing<E>> {
        if bytes > self.pushed_bytes_max() {
            return None;
        }
        let version = Version(format!("pushing {:032x}", rand::random::<u128>()).into());
        let chunk_bytes = if form == KeptForm::Whole { bytes } else { self.chunk_bytes };
        let turn = self.pushing.clone().try_acquire_many_owned(kib(chunk_bytes.min(bytes))).ok()?;
        let (hot, key, gathered) = (self.clone(), key.clone(), Vec::new());
        Some(Pushing { hot, key, version, form, chunk_bytes, index: 0, gathered, left: bytes, _turn: turn })
    }
}

/// Form in which an object is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptForm {
    Whole,
    Chunks,
}

/// An object that is kept while it is pushed. Until it is committed, its chunks have a name that no reader knows;
/// dropped before, they are removed.
pub struct Pushing<E> {
    hot: Arc<Hot<E>>,
    key: Key,
    version: Version,
    form: KeptForm,
    chunk_bytes: u64,
    /// Number of complete chunks.
    index: u64,
    gathered: Vec<u8>,
    /// Bytes that are still expected.
    left: u64,
    _turn: OwnedSemaphorePermit,
}

impl<E> Pushing<E> {
    /// Adds the next bytes of the object.
    pub fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let whole = (self.gathered.len() as u64 + self.left).min(self.chunk_bytes) as usize;
            if self.gathered.capacity() == 0 {
                self.gathered.reserve_exact(whole);
            }
            let taken = bytes.len().min(whole - self.gathered.len());
            // More bytes than announced: the upload will be refused.
            if taken == 0 {
                return;
            }
            self.gathered.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            self.left -= taken as u64;
            if self.gathered.len() == whole {
                let piece = HotPiece::of(std::mem::take(&mut self.gathered).into());
                self.hot.pushed.insert(self.slot(&self.version, self.index), piece);
                self.hot.settle(&self.hot.pushed);
                self.index += 1;
            }
        }
    }

    fn slot(&self, version: &Version, index: u64) -> Slot {
        Slot::Chunk(self.key.clone(), version.clone(), index)
    }

    /// Makes the chunks readable: the object is stored, in this version.
    pub fn commit(self, version: &Version) {
        for index in 0..self.index {
            if let Some(piece) = self.hot.pushed.remove(&self.slot(&self.version, index)) {
                let slot = match self.form {
                    KeptForm::Whole => Slot::Whole(self.key.clone()),
                    KeptForm::Chunks => self.slot(version, index),
                };
                self.hot.pushed.insert(slot, piece);
            }
        }
        self.hot.settle(&self.hot.pushed);
    }
}

impl<E> Drop for Pushing<E> {
    fn drop(&mut self) {
        for index in 0..self.index {
            self.hot.pushed.invalidate(&self.slot(&self.version, index));
        }
    }
}

#[cfg(test)]
mod tests;
