//! Detached fetches: they continue for a while after the deadline of all their waiters.
//!
//! A client whose deadline has passed retries within seconds. If its fetch were given up meanwhile, it would begin
//! again behind all others, and with a queue longer than the deadline the client would never be served.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinError;
use tokio::time::{Instant, timeout_at};

use super::{Hot, Slot};

/// Time for which a fetch continues for a client that will retry: more than twice the longest pause of BuildKit, 4 s.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// Maximum number of fetches kept without a waiter, a chunk each.
const KEPT_MAX: usize = 256;

/// The kept fetches, each with its end.
#[derive(Default)]
pub(super) struct KeptUntil(Mutex<HashMap<Slot, Instant>>);

impl KeptUntil {
    /// The time until which the slot is kept. Nothing when that is over; the slot is then removed.
    fn until(&self, slot: &Slot) -> Option<Instant> {
        let mut kept = self.0.lock();
        let until = kept.get(slot).copied().filter(|until| *until > Instant::now());
        if until.is_none() {
            kept.remove(slot);
        }
        until
    }
}

impl<E: Clone + Send + Sync + From<JoinError> + 'static> Hot<E> {
    /// Keeps the fetch in flight, if there is one, for a client that will retry. The caller must still wait for it.
    pub fn keep_place(self: &Arc<Self>, slot: &Slot) {
        let Some(flight) = self.flights.under_way_for(slot) else { return };
        let mut kept = self.kept.0.lock();
        if kept.len() >= KEPT_MAX && !kept.contains_key(slot) {
            return;
        }
        if kept.insert(slot.clone(), Instant::now() + KEPT_FOR).is_some() {
            return;
        }
        drop(kept);
        let (hot, slot) = (self.clone(), slot.clone());
        tokio::spawn(async move {
            while let Some(until) = hot.kept.until(&slot) {
                if timeout_at(until, flight.clone()).await.is_ok() {
                    hot.kept.0.lock().remove(&slot);
                    return;
                }
            }
        });
    }
}
