//! Memory for parts in flight to the bucket: one budget for all uploads.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::{Error, Result};
use crate::names::Tenant;
use crate::turns::{Class, Turn, Turns};

/// Unit of the budget, in bytes: a semaphore counts no further than some billions.
const UNIT_BYTES: u64 = 64 << 10;
/// Rate in bytes per second, since the buffer was taken, below which a buffer may be taken away when others have waited
/// for `WAIT`. Such a client has sent part of a layer: it sends the whole layer again after the refusal.
const SLOWEST: u64 = 128 << 10;
/// Age below which no buffer is taken away.
const GRACE: Duration = Duration::from_secs(30);
/// Time that a caller waits before slow buffers are taken away.
const WAIT: Duration = Duration::from_secs(5);

/// A budget of bytes. A caller that wants a buffer waits until it fits, however large; of those who wait, the tenant
/// that holds least goes first, and scopes hold half of it at most, all together.
///
/// No caller waits for a second buffer while it holds one that is given back only after the second: a part is sent as
/// soon as it is full, by a task of its own, whether or not the upload gets its next buffer.
///
/// A client that sends slowly loses its buffer when others want it: otherwise a few such clients would end all uploads.
/// The rate since the buffer was taken decides, not the time of the last byte: a client that sends a little now and
/// then could hold a buffer for ever. So no caller waits behind a buffer that fills for longer than [`GRACE`] and its
/// size at [`SLOWEST`] take, 64 s for 8 MiB, and a part in flight has time-outs of its own. While no caller waits, a
/// client may be as slow as it likes.
///
/// Buffers of the usual size are reused: given back to the allocator and taken anew, they leave holes in each of its
/// arenas, some 50 MiB for a budget of 64, measured.
///
/// Memory in small pieces, as bytes come, would hold less for slow clients. But then many uploads would each hold part
/// of a part and wait for the rest, and all would end one after the other: with whole buffers, as many uploads proceed
/// as there is memory for.
#[derive(Clone)]
pub(super) struct Pool {
    units: Turns<Option<Tenant>>,
    bytes: u64,
    /// Usual size of a buffer, in bytes.
    usual: u64,
    /// Idle buffers of the usual size.
    idle: Arc<Mutex<Vec<BytesMut>>>,
    /// Buffers that are being filled.
    filling: Arc<Mutex<Vec<Weak<Mutex<Filling>>>>>,
}

impl Pool {
    /// A budget of `bytes` bytes, from which mostly buffers of `usual` bytes are taken.
    pub(super) fn new(bytes: u64, usual: u64) -> Pool {
        let units = (bytes / UNIT_BYTES).max(1);
        let units = Turns::new(units, units / 2);
        Pool { units, bytes, usual, idle: Arc::default(), filling: Arc::default() }
    }

    /// Size of the whole budget in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes a buffer for `bytes` bytes of an object of this tenant, at most the whole budget.
    pub(super) async fn take(&self, owner: Option<Tenant>, bytes: u64) -> Result<PartBuffer> {
        // A part of more than half the usual size gets a usual buffer, which can be reused.
        let is_usual = bytes <= self.usual && bytes > self.usual / 2;
        let held_bytes = if is_usual { self.usual } else { bytes };
        let units = held_bytes.min(self.bytes).div_ceil(UNIT_BYTES).min(self.bytes / UNIT_BYTES).max(1);
        let failed = || Error::Backend("cannot get memory for an upload".into());
        let class = owner.as_ref().map_or(Class::First, Class::of);
        let mut wanted = Box::pin(self.units.take(class, owner, units));
        let held = loop {
            match timeout(WAIT, &mut wanted).await {
                Ok(held) => break held,
                Err(_) => self.take_from_slow(units),
            }
        };
        let capacity = usize::try_from(bytes).map_err(|_| failed())?;
        let fresh = usize::try_from(held_bytes).map_err(|_| failed())?;
        let bytes = self.idle_buffer(is_usual).unwrap_or_else(|| BytesMut::with_capacity(fresh));
        let filling = Arc::new(Mutex::new(Filling { memory: Some((bytes, held)), since: Instant::now() }));
        let mut all = self.filling.lock();
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&filling));
        Ok(PartBuffer { pool: self.clone(), filling, capacity })
    }

    /// Takes an idle buffer, if one is `wanted`. Idle buffers that the budget has no space for are freed.
    fn idle_buffer(&self, wanted: bool) -> Option<BytesMut> {
        let room = self.units.free() * UNIT_BYTES;
        let mut idle = self.idle.lock();
        let buffer = if wanted { idle.pop() } else { None };
        idle.truncate(usize::try_from(room / self.usual.max(1)).unwrap_or(usize::MAX));
        buffer
    }

    /// Takes the slowest buffers away, until `units` are free.
    fn take_from_slow(&self, units: u64) {
        let all: Vec<_> = self.filling.lock().iter().filter_map(Weak::upgrade).collect();
        let rated = all.into_iter().filter_map(|filling| {
            let rate = filling.lock().rate()?;
            Some((rate, filling))
        });
        let mut slow: Vec<_> = rated.filter(|(rate, _)| *rate < SLOWEST).collect();
        slow.sort_by_key(|(rate, _)| *rate);
        let mut freed = 0;
        for (rate, filling) in slow {
            if freed >= units {
                return;
            }
            if let Some((_, held)) = filling.lock().memory.take() {
                freed += held.units();
                tracing::info!(rate, "a slow upload loses its memory to waiting uploads, and fails");
            }
        }
    }
}

/// Memory from the budget, being filled.
pub(super) struct PartBuffer {
    pool: Pool,
    filling: Arc<Mutex<Filling>>,
    capacity: usize,
}

struct Filling {
    /// The memory, with its turn; absent when it was taken away.
    memory: Option<(BytesMut, Turn<Option<Tenant>>)>,
    /// Time at which the buffer was taken.
    since: Instant,
}

impl Filling {
    /// Bytes per second since the buffer was taken; nothing while it is younger than [`GRACE`], or when it has no
    /// memory to take away.
    fn rate(&self) -> Option<u64> {
        let (bytes, _) = self.memory.as_ref()?;
        let age = self.since.elapsed();
        (age >= GRACE).then(|| bytes.len() as u64 / age.as_secs().max(1))
    }
}

fn taken_away() -> Error {
    Error::Busy("upload was too slow, and other uploads needed its memory".into())
}

impl PartBuffer {
    /// Copies as much of `piece` as fits, and returns the rest.
    pub(super) fn fill(&mut self, mut piece: Bytes) -> Result<Bytes> {
        let mut filling = self.filling.lock();
        let (bytes, _) = filling.memory.as_mut().ok_or_else(taken_away)?;
        let taken = piece.split_to(piece.len().min(self.capacity - bytes.len()));
        bytes.extend_from_slice(&taken);
        Ok(piece)
    }

    pub(super) fn is_full(&self) -> bool {
        self.filling.lock().memory.as_ref().is_some_and(|(bytes, _)| bytes.len() == self.capacity)
    }

    /// The filled bytes.
    pub(super) fn freeze(self) -> Result<PooledPart> {
        let (bytes, held) = self.filling.lock().memory.take().ok_or_else(taken_away)?;
        Ok(PooledPart { pool: self.pool, bytes: bytes.freeze(), _held: held })
    }
}

/// Bytes in memory of the budget. The memory is given back when the last holder of the bytes drops them.
pub(super) struct PooledPart {
    pool: Pool,
    bytes: Bytes,
    _held: Turn<Option<Tenant>>,
}

impl PooledPart {
    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl Drop for PooledPart {
    fn drop(&mut self) {
        // A connection that was given up may hold the bytes a little longer: then the buffer is freed with them.
        if let Ok(mut buffer) = std::mem::take(&mut self.bytes).try_into_mut()
            && buffer.capacity() as u64 == self.pool.usual
        {
            buffer.clear();
            self.pool.idle.lock().push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    use crate::names::ScopeName;

    #[tokio::test]
    async fn memory_is_given_as_far_as_it_goes() {
        let pool = Pool::new(1 << 20, 8 << 20);
        let mut first = pool.take(None, 768 << 10).await.unwrap();
        assert!(pool.take(None, 512 << 10).now_or_never().is_none());
        assert_eq!(first.fill(Bytes::from(vec![1; 1 << 20])).unwrap().len(), 256 << 10);
        assert!(first.is_full());
        let part = first.freeze().unwrap();
        assert_eq!(part.bytes().len(), 768 << 10);
        drop(part);
        assert!(pool.take(None, 1 << 20).now_or_never().is_some());
    }

    #[tokio::test]
    async fn usual_buffers_are_used_again_and_count_when_they_are_not() {
        let pool = Pool::new(4 << 20, 1 << 20);
        let idle = || pool.idle.lock().len();
        let part = |bytes: u64| {
            let mut buffer = pool.take(None, bytes).now_or_never().unwrap().unwrap();
            buffer.fill(vec![1; bytes as usize].into()).unwrap();
            buffer.freeze().unwrap()
        };
        let (first, second) = (part(1 << 20), part(600 << 10));
        let (at, kept) = (first.bytes().as_ptr(), second.bytes().clone());
        drop((first, second));
        assert_eq!(idle(), 1, "somebody has the bytes of the second");
        drop(kept);
        let again = part(700 << 10);
        assert_eq!((again.bytes().as_ptr(), again.bytes().len(), idle()), (at, 700 << 10, 0));
        drop(again);
        // The idle buffer is no memory beside the budget.
        let all = part(4 << 20);
        assert_eq!(idle(), 0);
        drop(all);
        assert_eq!(idle(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stalls_with_a_part_half_filled_does_not_end_all_uploads() {
        let pool = Pool::new(4 << 20, 8 << 20);
        let mut stalled = Vec::new();
        for _ in 0..4 {
            let mut buffer = pool.take(None, 1 << 20).await.unwrap();
            buffer.fill("the beginning".into()).unwrap();
            stalled.push(buffer);
        }
        // No more idle buffers are freed than needed.
        let _fresh = pool.take(None, 2 << 20).await.unwrap();
        let mut refused = 0;
        for buffer in &mut stalled {
            refused += usize::from(matches!(buffer.fill("more".into()), Err(Error::Busy(_))));
        }
        assert_eq!(refused, 2);
    }

    #[tokio::test]
    async fn pull_requests_leave_memory_to_main() {
        let pool = Pool::new(4 << 20, 8 << 20);
        let scope = || Some(Tenant::default_tenant().scope(&ScopeName::of("pull request 1")));
        let (_first, _second) =
            (pool.take(scope(), 1 << 20).await.unwrap(), pool.take(scope(), 1 << 20).await.unwrap());
        assert!(pool.take(scope(), 1 << 20).now_or_never().is_none());
        assert!(pool.take(Some(Tenant::default_tenant()), 2 << 20).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_sends_a_little_now_and_then_does_not_end_all_uploads() {
        let pool = Pool::new(32 << 20, 8 << 20);
        let mut slow = Vec::new();
        for _ in 0..3 {
            slow.push(pool.take(None, 8 << 20).await.unwrap());
        }
        let mut fast = pool.take(None, 8 << 20).await.unwrap();
        let asked = Instant::now();
        let waiting = tokio::spawn({
            let pool = pool.clone();
            async move { pool.take(None, 24 << 20).await.map(drop) }
        });
        let (little, much) = (Bytes::from(vec![1; 512 << 10]), Bytes::from(vec![1; 660 << 10]));
        let mut refused = 0;
        for second in 0..60 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if second % 20 == 0 {
                slow.retain_mut(|buffer| buffer.fill(little.clone()).is_ok());
                refused = 3 - slow.len();
            }
            // A client that sends faster keeps its buffer, even if most of the time is a pause.
            if second % 5 == 0 {
                fast.fill(much.clone()).unwrap();
            }
        }
        waiting.await.unwrap().unwrap();
        assert!(asked.elapsed() <= Duration::from_secs(70), "{:?}", asked.elapsed());
        assert_eq!(refused, 3);
    }
}
