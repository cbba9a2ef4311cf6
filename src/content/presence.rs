//! What this process has been told of objects in a store that is far: that they are there, and in which version.
//!
//! Filled by whatever tells it (writes, looks, reads), emptied by whatever tells the opposite (deletes, reads that find
//! nothing, wrong bytes). An answer may rest on it while it is younger than its age; a read of the bytes may try with it
//! however old it is, for the read itself tells whether it still holds. Absence is never remembered. A store that is near
//! is asked every time: it has no memory here.
//!
//! Invariant: what was asked before something was forgotten is not remembered after it. Whoever asks takes a [`Ticket`]
//! first; `forget` makes those of its key worthless, `clear` all of them. Otherwise a look that was under way during a delete
//! would bring the object back.

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

/// Objects remembered: some hundreds of bytes each.
const OBJECTS_MAX: u64 = 100_000;
/// Many: what is told of one key while another one of its stripe is forgotten is not remembered, and asked for again.
const STRIPES: usize = 4096;
/// Objects looked at again in the background at once, because what is known of them gets old.
const RENEWALS: usize = 8;

/// The memory.
pub struct Presence {
    /// Nothing, when the store is near.
    max_age: Option<Duration>,
    objects: Cache<Key, Arc<PresenceEntry>>,
    /// Raised by `clear`.
    epoch: AtomicU64,
    /// How often keys of a stripe were forgotten.
    forgotten: Box<[Mutex<u64>]>,
}

struct PresenceEntry {
    meta: Meta,
    told: Instant,
    epoch: u64,
    /// Somebody has been asked to look again.
    renewing: AtomicBool,
}

/// Says when something was asked.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    asked: Instant,
    epoch: u64,
    forgotten: u64,
}

/// What is remembered of an object.
#[derive(Clone, Debug)]
pub struct Remembered {
    pub meta: Meta,
    /// Young enough to answer with.
    pub valid: bool,
    /// It will not be valid for much longer: whoever got this, and nobody else, should look again.
    pub renew: bool,
}

impl Presence {
    pub fn new(max_age: Option<Duration>) -> Presence {
        let forgotten = (0..STRIPES).map(|_| Mutex::new(0)).collect();
        Presence { max_age, objects: lru(OBJECTS_MAX), epoch: AtomicU64::new(0), forgotten }
    }

    /// Whether anything is remembered here at all.
    pub fn is_kept(&self) -> bool {
        self.max_age.is_some()
    }

    fn forgotten(&self, key: &Key) -> MutexGuard<'_, u64> {
        self.forgotten[stripe_of(key, STRIPES)].lock()
    }

    /// To be taken before the store is asked for `key`, or written to.
    pub fn ticket(&self, key: &Key) -> Ticket {
        let forgotten = *self.forgotten(key);
        Ticket { asked: Instant::now(), epoch: self.epoch.load(Ordering::Acquire), forgotten }
    }

    /// The store said that the object is there. What was asked before something was forgotten is dropped.
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

    /// The object is gone, or is about to go, or not what it should be.
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
    /// Each with the number of snapshots before it: nobody joins a check that is older than what their answer rests on.
    pub(super) under_way: Arc<Flights<(Key, u64), Option<Meta>, Error>>,
    /// Turns to look again in the background.
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
        // Its time begins with the question.
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
