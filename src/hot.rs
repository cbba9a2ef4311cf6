//! The hot layer: immutable bytes in bounded memory, each fetched once however many ask at once.
//!
//! Invariant: only bytes that can never change under their key are kept. There is no invalidation, only [`Hot::forget`].
//! Invariant: a reader that stops reading holds up nobody. A flight is a future shared by its waiters, and whichever of
//! them is polled drives it; `moka`'s own `try_get_with` would leave it to the first.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::metrics::Metrics;
use crate::objects::Key;

/// What an entry costs beside its bytes: key, node and tables.
const ENTRY_BYTES: usize = 256;
/// Flights whose waiters have all gone are swept when so many new ones have started.
const SWEEP_EVERY: usize = 1024;

type WeakFlight<E> = WeakShared<BoxFuture<'static, Result<Bytes, E>>>;
type Flight<E> = Shared<BoxFuture<'static, Result<Bytes, E>>>;

/// Bytes by key, and the fetches under way. `E` is what a fetch can fail with; every waiter gets a clone.
pub struct Hot<E> {
    cache: Cache<Key, Bytes>,
    flights: Mutex<Flights<E>>,
    metrics: Arc<Metrics>,
}

struct Flights<E> {
    /// Each with its number: a key may be forgotten and asked for again while its first flight is still under way.
    by_key: HashMap<Key, (usize, WeakFlight<E>)>,
    started: usize,
}

impl<E: Clone + Send + Sync + 'static> Hot<E> {
    /// A layer that holds at most `bytes` bytes, tables included.
    pub fn new(bytes: u64, metrics: Arc<Metrics>) -> Hot<E> {
        let cache = Cache::builder()
            .max_capacity(bytes)
            .weigher(|key: &Key, value: &Bytes| {
                u32::try_from(key.as_str().len() + value.len() + ENTRY_BYTES).unwrap_or(u32::MAX)
            })
            // Not the default: TinyLFU turns away what was seen once, and that is what the next builder asks for.
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Hot { cache, flights: Mutex::new(Flights { by_key: HashMap::new(), started: 0 }), metrics }
    }

    /// The bytes, when they are here.
    pub fn peek(&self, key: &Key) -> Option<Bytes> {
        let found = self.cache.get(key);
        match found {
            Some(_) => self.metrics.hot_hits.inc(),
            None => self.metrics.hot_misses.inc(),
        }
        found
    }

    /// Keeps what was just written or verified.
    pub fn insert(&self, key: Key, bytes: Bytes) {
        // A slice of a large buffer would keep all of it alive: the budget counts what is held, not what is shown.
        self.cache.insert(key, Bytes::copy_from_slice(&bytes));
        // Without this the cache runs over its bound until it finds the time: nine times over, measured.
        self.cache.run_pending_tasks();
        self.metrics.hot_bytes.set(i64::try_from(self.cache.weighted_size()).unwrap_or(i64::MAX));
    }

    /// Drops the bytes, and the fetch under way: what it brings is given to those who wait, but not kept.
    pub fn forget(&self, key: &Key) {
        let mut flights = self.flights();
        flights.by_key.remove(key);
        self.cache.invalidate(key);
    }

    fn flights(&self) -> MutexGuard<'_, Flights<E>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes from memory, or from one `fetch` shared by all who ask meanwhile.
    pub async fn get<F>(self: &Arc<Self>, key: &Key, fetch: impl FnOnce() -> F) -> Result<Bytes, E>
    where
        F: Future<Output = Result<Bytes, E>> + Send + 'static,
    {
        if let Some(bytes) = self.peek(key) {
            return Ok(bytes);
        }
        self.join(key, fetch).await
    }

    /// # Hidden contract
    /// `fetch` is called under the lock and must only make its future, not run it.
    fn join<F>(self: &Arc<Self>, key: &Key, fetch: impl FnOnce() -> F) -> Flight<E>
    where
        F: Future<Output = Result<Bytes, E>> + Send + 'static,
    {
        let mut flights = self.flights();
        if let Some(flight) = flights.by_key.get(key).and_then(|(_, flight)| flight.upgrade()) {
            return flight;
        }
        flights.started += 1;
        let number = flights.started;
        let (hot, owned, fetching) = (self.clone(), key.clone(), fetch());
        let flight = async move {
            let fetched = fetching.await;
            let mut flights = hot.flights();
            // Under the lock, so that `forget` comes before or after, not in between.
            if flights.by_key.get(&owned).is_some_and(|(registered, _)| *registered == number) {
                flights.by_key.remove(&owned);
                if let Ok(bytes) = &fetched {
                    hot.insert(owned.clone(), bytes.clone());
                }
            }
            drop(flights);
            fetched
        };
        let flight = flight.boxed().shared();
        if number.is_multiple_of(SWEEP_EVERY) {
            flights.by_key.retain(|_, (_, flight)| flight.upgrade().is_some());
        }
        if let Some(weak) = flight.downgrade() {
            flights.by_key.insert(key.clone(), (number, weak));
        }
        flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::oneshot;

    fn hot(bytes: u64) -> Arc<Hot<&'static str>> {
        Arc::new(Hot::new(bytes, Arc::new(Metrics::default())))
    }

    #[tokio::test]
    async fn many_readers_cost_one_fetch_and_a_reader_that_went_away_holds_nobody_up() {
        let (hot, key) = (hot(1 << 20), Key::new("k"));
        let fetches = Arc::new(AtomicUsize::new(0));
        let (send, receive) = oneshot::channel::<Bytes>();
        let mut receive = Some(receive);
        let mut leader = Box::pin(hot.get(&key, || {
            fetches.fetch_add(1, Ordering::SeqCst);
            let receive = receive.take().unwrap();
            async move { receive.await.map_err(|_| "gone") }
        }));
        // The first reader starts the fetch and is never polled again.
        assert!(futures::poll!(&mut leader).is_pending());
        let readers = futures::future::join_all((0..64).map(|_| hot.get(&key, || async { panic!("fetched twice") })));
        let readers = readers.map(|all| all.into_iter().filter(Result::is_ok).count());
        let mut readers = Box::pin(readers);
        assert!(futures::poll!(&mut readers).is_pending());
        send.send("bytes".into()).unwrap();
        assert_eq!(readers.await, 64);
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
        assert_eq!(hot.peek(&key), Some("bytes".into()));
    }

    #[tokio::test]
    async fn a_failed_fetch_is_not_remembered() {
        let (hot, key) = (hot(1 << 20), Key::new("k"));
        assert_eq!(hot.get(&key, || async { Err("no") }).await, Err("no"));
        assert_eq!(hot.get(&key, || async { Ok("yes".into()) }).await, Ok("yes".into()));
    }

    #[tokio::test]
    async fn what_is_forgotten_while_it_is_fetched_is_not_kept() {
        let (hot, key) = (hot(1 << 20), Key::new("k"));
        let (send, receive) = oneshot::channel::<Bytes>();
        let mut reader = Box::pin(hot.get(&key, || async move { receive.await.map_err(|_| "gone") }));
        assert!(futures::poll!(&mut reader).is_pending());
        hot.forget(&key);
        send.send("old".into()).unwrap();
        assert_eq!(reader.await, Ok("old".into()));
        assert_eq!(hot.peek(&key), None);
    }

    #[tokio::test]
    async fn memory_stays_within_its_bound() {
        let hot = hot(1 << 20);
        for i in 0..2_000 {
            hot.insert(Key::new(format!("k{i}")), Bytes::from(vec![0; 4096]));
            assert!(hot.cache.weighted_size() <= 1 << 20);
        }
        // The newest are what the next reader wants.
        assert!(hot.peek(&Key::new("k1999")).is_some());
    }
}
