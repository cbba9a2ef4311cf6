//! Fetches that go on for a while though everybody who waited has run out of patience.
//!
//! Whoever is told to come again comes back within seconds. Were his fetch given up meanwhile, it would begin again behind
//! all others, and with a queue that is longer than his patience he would never be served.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinError;
use tokio::time::{Instant, timeout_at};

use super::{Hot, Slot};

/// How long a place is kept for who was told to come again: more than twice the longest pause of BuildKit, 4 s.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// Places kept at once: what may be fetched for nobody, a chunk each.
const KEPT_MAX: usize = 256;

/// What is kept, each until when.
#[derive(Default)]
pub(super) struct KeptUntil(Mutex<HashMap<Slot, Instant>>);

impl KeptUntil {
    /// Until when the slot is kept now. Nothing when that is over: then it is not kept any more.
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
    /// Keeps the fetch under way, if there is one, for whoever asks again. To be called by one who still waits for it.
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
