//! Objects of a remote store that exist, as far as this process has been told, and their versions.
//!
//! Writes, lookups and reads fill this memory; deletes, reads that find nothing, and wrong bytes remove entries. An
//! answer may use an entry while it is younger than its age; a read of the bytes may try with an entry of any age,
//! because the read itself tells whether it still holds. Absence is never remembered. A local store is asked every
//! time: it has no memory here.
//!
//! Invariant: an answer that was requested before a forgetting is not remembered after it. A caller takes a [`Ticket`]
//! before it asks; `forget` invalidates those of its key, `clear` all of them. Otherwise a lookup in flight during a
//! delete would bring the object back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::error::Error;
use crate::hot::flights::Flights;
use crate::objects::{Key, Meta};
use crate::sync::{lru, stripe_of};

/// Maximum number of remembered objects: some hundreds of bytes each.
const OBJECTS_MAX: u64 = 100_000;
/// Stripes of keys. There are many, because an answer about one key is not remembered, and is requested again, if
/// another key of its stripe is forgotten meanwhile.
const STRIPES: usize = 4096;
/// Concurrent background lookups of objects whose entries are getting old.
const RENEWALS: usize = 8;

/// The memory of existing objects.
pub struct Presence {
    /// Age up to which an entry may be used in an answer. Absent if the store is local.
    max_age: Option<Duration>,
    objects: Cache<Key, Arc<PresenceEntry>>,
    /// Number of calls of `clear`.
    epoch: AtomicU64,
    /// For each stripe, how often keys of it were forgotten.
    forgotten: Box<[Mutex<u64>]>,
}

struct PresenceEntry {
    meta: Meta,
    told: Instant,
    epoch: u64,
    /// A caller has been asked to look again.
    renewing: AtomicBool,
}

/// The moment before a question to the store.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    asked: Instant,
    epoch: u64,
    forgotten: u64,
}

/// An entry of the memory.
#[derive(Clone, Debug)]
pub struct Remembered {
    pub meta: Meta,
    /// Young enough for an answer.
    pub valid: bool,
    /// The entry will expire soon: the caller that got this flag, and no other, should look again.
    pub renew: bool,
}

impl Presence {
    pub fn new(max_age: Option<Duration>) -> Presence {
        let forgotten = (0..STRIPES).map(|_| Mutex::new(0)).collect();
        Presence { max_age, objects: lru(OBJECTS_MAX), epoch: AtomicU64::new(0), forgotten }
    }

    /// Whether this memory is in use: the store is remote.
    pub fn is_kept(&self) -> bool {
        self.max_age.is_some()
    }

    fn forgotten(&self, key: &Key) -> MutexGuard<'_, u64> {
        self.forgotten[stripe_of(key, STRIPES)].lock()
    }

    /// Returns a ticket. To be taken before the store is asked for `key`, or written to.
    pub fn ticket(&self, key: &Key) -> Ticket {
        let forgotten = *self.forgotten(key);
        Ticket { asked: Instant::now(), epoch: self.epoch.load(Ordering::Acquire), forgotten }
    }

    /// Remembers that the object exists, unless it was forgotten since the ticket was taken.
    pub fn insert(&self, ticket: Ticket, meta: &Meta) {
        if self.max_age.is_none() {
            return;
        }
        let forgotten = self.forgotten(&meta.key);
        if *forgotten == ticket.forgotten && self.epoch.load(Ordering::Acquire) == ticket.epoch {
            let renewing = AtomicBool::new(false);
            let entry = PresenceEntry { meta: meta.clone(), told: ticket.asked, epoch: ticket.epoch, renewing };
            self.objects.insert(meta.key.clone(), Arc::new(entry));
        }
    }

    pub fn get(&self, key: &Key) -> Option<Remembered> {
        let max_age = self.max_age?;
        let entry = self.objects.get(key)?;
        if entry.epoch != self.epoch.load(Ordering::Acquire) {
            return None;
        }
        let age = entry.told.elapsed();
        let renew = age >= max_age * 3 / 4 && !entry.renewing.swap(true, Ordering::Relaxed);
        Some(Remembered { meta: entry.meta.clone(), valid: age < max_age, renew })
    }

    /// Forgets an object that is deleted, about to be deleted, or corrupt.
    pub fn forget(&self, key: &Key) {
        let mut forgotten = self.forgotten(key);
        *forgotten += 1;
        self.objects.invalidate(key);
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.objects.invalidate_all();
    }
}

/// The existence checks of one server.
pub(super) struct ExistenceChecks {
    /// Each check with the number of snapshots before it: no caller joins a check that is older than the snapshot of
    /// its answer.
    pub(super) under_way: Arc<Flights<(Key, u64), Option<Meta>, Error>>,
    /// Limits the lookups in the background.
    pub(super) renewals: Arc<Semaphore>,
}

impl Default for ExistenceChecks {
    fn default() -> ExistenceChecks {
        ExistenceChecks { under_way: Arc::default(), renewals: Arc::new(Semaphore::new(RENEWALS)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::Version;
    use std::time::SystemTime;

    fn meta(version: &str) -> Meta {
        let version = Version(version.into());
        Meta { key: Key::new("k"), size: 1, modified: SystemTime::UNIX_EPOCH, version }
    }

    fn presence() -> (Presence, Key) {
        (Presence::new(Some(Duration::from_secs(600))), Key::new("k"))
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_told_holds_for_its_time_and_one_is_asked_to_renew_it() {
        let (presence, key) = presence();
        assert!(presence.get(&key).is_none());
        let ticket = presence.ticket(&key);
        // The age counts from the question.
        tokio::time::advance(Duration::from_secs(10)).await;
        presence.insert(ticket, &meta("1"));
        let told = presence.get(&key).unwrap();
        assert!(told.valid && !told.renew);
        tokio::time::advance(Duration::from_secs(445)).await;
        assert!(presence.get(&key).unwrap().renew);
        assert!(!presence.get(&key).unwrap().renew);
        tokio::time::advance(Duration::from_secs(145)).await;
        assert!(!presence.get(&key).unwrap().valid);
        presence.insert(presence.ticket(&key), &meta("1"));
        assert!(presence.get(&key).unwrap().valid);
    }

    #[tokio::test]
    async fn what_was_asked_before_something_was_forgotten_does_not_come_back() {
        let (presence, key) = presence();
        for drop in [Presence::clear, |presence: &Presence| presence.forget(&Key::new("k"))] {
            let early = presence.ticket(&key);
            presence.insert(early, &meta("1"));
            drop(&presence);
            assert!(presence.get(&key).is_none());
            presence.insert(early, &meta("1"));
            assert!(presence.get(&key).is_none());
            presence.insert(presence.ticket(&key), &meta("2"));
            assert_eq!(presence.get(&key).unwrap().meta.version, meta("2").version);
        }
    }

    #[tokio::test]
    async fn a_store_that_is_near_is_not_remembered() {
        let (presence, key) = (Presence::new(None), Key::new("k"));
        presence.insert(presence.ticket(&key), &meta("1"));
        assert!(presence.get(&key).is_none());
    }
}
