//! Memory for parts on their way to the bucket: one budget for all uploads.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Error, Result};

/// What the budget is counted in: a semaphore counts no further than some billions.
const UNIT_BYTES: u64 = 64 << 10;

/// A budget of bytes. Whoever wants a buffer waits until it fits, first come first served, however large.
///
/// Nobody waits for a second buffer while it holds one that needs that second one to be given back: a part is sent as soon
/// as it is full, by a task of its own, whether or not the upload gets its next buffer.
#[derive(Clone)]
pub(super) struct Pool {
    units: Arc<Semaphore>,
    bytes: u64,
}

impl Pool {
    pub(super) fn new(bytes: u64) -> Pool {
        let units = usize::try_from(bytes / UNIT_BYTES).unwrap_or(Semaphore::MAX_PERMITS);
        Pool { units: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))), bytes }
    }

    /// Bytes of the whole budget.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A buffer for `bytes` bytes, at most the whole budget.
    pub(super) async fn take(&self, bytes: u64) -> Result<Buffer> {
        let units = bytes.min(self.bytes).div_ceil(UNIT_BYTES).min(self.bytes / UNIT_BYTES).max(1);
        let failed = || Error::Backend("memory for uploads cannot be had".into());
        let units = u32::try_from(units).map_err(|_| failed())?;
        let held = self.units.clone().acquire_many_owned(units).await.map_err(|_| failed())?;
        let capacity = usize::try_from(bytes).map_err(|_| failed())?;
        Ok(Buffer { bytes: BytesMut::with_capacity(capacity), capacity, held })
    }
}

/// Memory out of the budget.
pub(super) struct Buffer {
    bytes: BytesMut,
    capacity: usize,
    held: OwnedSemaphorePermit,
}

impl Buffer {
    /// Copies what fits of `piece`, and returns the rest.
    pub(super) fn fill(&mut self, mut piece: Bytes) -> Bytes {
        let taken = piece.split_to(piece.len().min(self.capacity - self.bytes.len()));
        self.bytes.extend_from_slice(&taken);
        piece
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() == self.capacity
    }

    /// The bytes, and what has to be kept for as long as they are.
    pub(super) fn freeze(self) -> (Bytes, OwnedSemaphorePermit) {
        (self.bytes.freeze(), self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn memory_is_given_as_far_as_it_goes() {
        let pool = Pool::new(1 << 20);
        let mut first = pool.take(768 << 10).await.unwrap();
        assert!(pool.take(512 << 10).now_or_never().is_none());
        assert_eq!(first.fill(Bytes::from(vec![1; 1 << 20])).len(), 256 << 10);
        assert!(first.is_full());
        let (bytes, held) = first.freeze();
        assert_eq!(bytes.len(), 768 << 10);
        drop(held);
        assert!(pool.take(1 << 20).now_or_never().is_some());
    }
}
