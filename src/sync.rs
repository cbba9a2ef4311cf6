//! Helpers for state that tasks share: stripes of locks, caches with a bound.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

/// Number of locks that share all keys of a map.
pub const STRIPES: usize = 64;

/// The index of the lock for a key, out of [`STRIPES`].
pub fn stripe(key: &impl Hash) -> usize {
    stripe_of(key, STRIPES)
}

/// The index of the lock for a key, out of `stripes`.
pub fn stripe_of(key: &impl Hash, stripes: usize) -> usize {
    BuildHasherDefault::<DefaultHasher>::new().hash_one(key) as usize % stripes
}

/// A cache of at most `entries` entries that drops the least recently used one first. moka's own default turns new
/// entries away when it is full.
pub fn lru<K, V>(entries: u64) -> Cache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder().max_capacity(entries).eviction_policy(EvictionPolicy::lru()).build()
}
