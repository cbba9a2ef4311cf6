//! One run of a piece of work for all who ask for it while it is under way.
//!
//! Invariant: a reader that stops reading holds up nobody. The work is a task of its own: it goes on whoever of its waiters
//! is polled, and ends when none is left. (`moka`'s `try_get_with` would leave it to the first.)

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared, ready};
use parking_lot::{Mutex, MutexGuard};
use tokio::task::{JoinError, JoinHandle};

use crate::trace;

/// Flights whose waiters have all gone are swept when so many new ones have started.
const SWEEP_EVERY: usize = 1024;

/// What a waiter awaits. Dropped by its last waiter, the work is aborted.
pub type Flight<V, E> = Shared<BoxFuture<'static, Result<V, E>>>;

/// Work under way, by key. Every waiter gets a clone of what it comes to.
pub struct Flights<K, V, E> {
    under_way: Mutex<FlightsUnderWay<K, V, E>>,
}

/// A flight that is there for as long as somebody waits for it.
type Watched<V, E> = WeakShared<BoxFuture<'static, Result<V, E>>>;

struct FlightsUnderWay<K, V, E> {
    /// Each with its number: a key may be forgotten and asked for again while its first flight is still under way.
    by_key: HashMap<K, (usize, Watched<V, E>)>,
    started: usize,
}

impl<K, V, E> Default for Flights<K, V, E> {
    fn default() -> Self {
        Flights { under_way: Mutex::new(FlightsUnderWay { by_key: HashMap::new(), started: 0 }) }
    }
}

/// A task that ends with its owner.
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

    /// Joins the flight for `key`, or starts it with `work`, unless what it would bring is `here`. What it brings is handed
    /// to `land`, unless the key was forgotten meanwhile.
    ///
    /// # Hidden contract
    /// All three are called under the lock, so that whoever finds neither flight nor bytes is the only one. `work` must only
    /// make its future, the others must not come back here.
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
            // Under the lock, so that `forget` comes before or after, not in between.
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

    /// What somebody waits for now under this key.
    pub fn under_way_for(&self, key: &K) -> Option<Flight<V, E>> {
        self.under_way().by_key.get(key).and_then(|(_, flight)| flight.upgrade())
    }

    /// What is under way for `key` is given to those who wait, but does not land. `also` happens at the same moment.
    pub fn forget(&self, key: &K, also: impl FnOnce()) {
        let mut under_way = self.under_way();
        under_way.by_key.remove(key);
        also();
    }
}
