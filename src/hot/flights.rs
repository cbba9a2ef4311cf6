//! Single flight: one run of a piece of work for all concurrent callers.
//!
//! Invariant: a reader that stops reading delays no other. The work is a task of its own: it continues whichever of its
//! waiters is polled, and ends when none is left. (`moka`'s `try_get_with` would leave the work to the first.)

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared, ready};
use parking_lot::{Mutex, MutexGuard};
use tokio::task::{JoinError, JoinHandle};

use crate::trace;

/// Number of new flights after which those without waiters are removed.
const SWEEP_EVERY: usize = 1024;

/// The future of a waiter. When its last waiter drops it, the work is aborted.
pub type Flight<V, E> = Shared<BoxFuture<'static, Result<V, E>>>;

/// Work in flight, by key. Every waiter gets a clone of the result.
pub struct Flights<K, V, E> {
    under_way: Mutex<FlightsUnderWay<K, V, E>>,
}

/// A flight that exists while a waiter holds it.
type Watched<V, E> = WeakShared<BoxFuture<'static, Result<V, E>>>;

struct FlightsUnderWay<K, V, E> {
    /// Flights with their numbers: a key may be forgotten and requested again while its first flight still runs.
    by_key: HashMap<K, (usize, Watched<V, E>)>,
    started: usize,
}

impl<K, V, E> Default for Flights<K, V, E> {
    fn default() -> Self {
        Flights { under_way: Mutex::new(FlightsUnderWay { by_key: HashMap::new(), started: 0 }) }
    }
}

/// A task that is aborted when its owner is dropped.
pub struct Owned<T>(JoinHandle<T>);

impl<T: Send + 'static> Owned<T> {
    pub fn spawn(work: impl Future<Output = T> + Send + 'static) -> Owned<T> {
        Owned(tokio::spawn(trace::carried(work)))
    }

    async fn join(mut self) -> Result<T, JoinError> {
        (&mut self.0).await
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<K, V, E> Flights<K, V, E>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    E: Clone + Send + Sync + From<JoinError> + 'static,
{
    fn under_way(&self) -> MutexGuard<'_, FlightsUnderWay<K, V, E>> {
        self.under_way.lock()
    }

    /// Joins the flight for `key`, or starts it with `work`, unless `here` has its result. The result is passed to
    /// `land`, unless the key was forgotten meanwhile.
    ///
    /// # Hidden contract
    /// All three are called under the lock, so that a caller that finds neither flight nor bytes is the only one.
    /// `work` must only make its future, and the others must not call this type.
    pub fn join<F>(
        self: &Arc<Self>,
        key: &K,
        here: impl FnOnce() -> Option<V>,
        work: impl FnOnce() -> F,
        land: impl FnOnce(&V) + Send + 'static,
    ) -> Flight<V, E>
    where
        F: Future<Output = Result<V, E>> + Send + 'static,
    {
        let mut under_way = self.under_way();
        if let Some(flight) = under_way.by_key.get(key).and_then(|(_, flight)| flight.upgrade()) {
            return flight;
        }
        if let Some(here) = here() {
            return ready(Ok(here)).boxed().shared();
        }
        under_way.started += 1;
        let number = under_way.started;
        let (flights, owned, working) = (self.clone(), key.clone(), work());
        let task = Owned::spawn(async move {
            let done = working.await;
            // Under the lock, so that `forget` happens before or after, not in between.
            let mut under_way = flights.under_way();
            if under_way.by_key.get(&owned).is_some_and(|(registered, _)| *registered == number) {
                under_way.by_key.remove(&owned);
                if let Ok(brought) = &done {
                    land(brought);
                }
            }
            drop(under_way);
            done
        });
        let flight = async move { task.join().await? }.boxed().shared();
        if number.is_multiple_of(SWEEP_EVERY) {
            under_way.by_key.retain(|_, (_, flight)| flight.upgrade().is_some());
        }
        if let Some(weak) = flight.downgrade() {
            under_way.by_key.insert(key.clone(), (number, weak));
        }
        flight
    }

    /// The flight in progress for this key.
    pub fn under_way_for(&self, key: &K) -> Option<Flight<V, E>> {
        self.under_way().by_key.get(key).and_then(|(_, flight)| flight.upgrade())
    }

    /// Detaches the flight for `key`: its waiters get the result, but it does not land. `also` runs under the same
    /// lock.
    pub fn forget(&self, key: &K, also: impl FnOnce()) {
        let mut under_way = self.under_way();
        under_way.by_key.remove(key);
        also();
    }
}
