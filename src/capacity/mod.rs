//! Room for what is uploaded: the quota of its tenant, and the free space of the disk.
//!
//! An upload takes its place before its body is read, where its length is known, so that what does not fit is refused
//! before it is sent, and uploads at the same time do not take one room twice. Manifests, records and pointers are let
//! through: they are small, a build fails without them after all of its layers were sent, and what makes room must be able
//! to write too. That is what the reserve of the disk is for.
//!
//! While somebody makes room, uploads that do not fit wait for that, for a while: a build that is late is better than one
//! that fails. Nothing is remembered of a store that was full: every upload looks anew.

pub mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::capacity::usage::{Account, Usage};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::events::{Event, Events, Refused};
use crate::metrics::Metrics;
use crate::names::Tenant;
use crate::objects::{Objects, Space};

/// Eviction for the disk begins when less than so many reserves are free, and ends when so many are.
const LOW_RESERVES: u64 = 2;
const ENOUGH_RESERVES: u64 = 3;
/// The least that counts as a reserve for eviction, as a part of the disk: without one, eviction would begin when the
/// disk is full.
const EVICTION_PART: u64 = 100;

/// How long an upload waits for room that is being made. Below the usual 60 s of proxies.
const WAIT: Duration = Duration::from_secs(40);
/// Rounds of eviction that it waits for: the first may have begun before the room was short.
const ROUNDS: usize = 2;
/// After a round that left something full, none is asked for and none is waited for: so long, and so many times what the
/// round took. What was condemned takes its time to go.
const FUTILE: Duration = Duration::from_secs(10);
const FUTILE_ROUNDS: u32 = 10;

/// Who has how much room.
pub struct Room {
    usage: Usage,
    objects: Arc<dyn Objects>,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    events: Events,
    /// Bytes that uploads under way have announced and not yet written.
    coming: AtomicU64,
    pressed: Notify,
    /// Somebody makes room when told to.
    relieved: AtomicBool,
    /// Tells that a round of eviction has ended and, when it left something full, until when there is no use in another.
    rounds: watch::Sender<Option<Instant>>,
}

/// A round of eviction. Dropped, it has ended, and those who wait for room look again.
pub struct Round {
    room: Arc<Room>,
    began: Instant,
}

impl Drop for Round {
    fn drop(&mut self) {
        let pause = FUTILE.max(self.began.elapsed() * FUTILE_ROUNDS);
        self.room.rounds.send_replace(self.room.is_full().then(|| Instant::now() + pause));
    }
}

impl Room {
    pub fn new(objects: Arc<dyn Objects>, config: Arc<Config>, metrics: Arc<Metrics>, events: Events) -> Room {
        let usage = Usage::new(metrics.clone());
        let (pressed, relieved, rounds) = (Notify::new(), AtomicBool::new(false), watch::Sender::new(None));
        Room { usage, objects, config, metrics, events, coming: AtomicU64::new(0), pressed, relieved, rounds }
    }

    /// Resolves when room is short, now or since it was last asked: something should be evicted at once, before the round
    /// is dropped. Whoever asks goes on asking for as long as the server runs: uploads wait for it.
    pub async fn pressed(self: &Arc<Self>) -> Round {
        self.relieved.store(true, Relaxed);
        self.pressed.notified().await;
        Round { room: self.clone(), began: Instant::now() }
    }

    /// The accounts of all tenants.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// A place for an upload, now or when it has been made.
    pub async fn wait(self: &Arc<Self>, tenant: &Tenant, size: Option<u64>) -> Result<Reservation> {
        // Before the look: a round that ends just behind it is not missed.
        let mut rounds = self.rounds.subscribe();
        let mut taken = self.take(tenant, size);
        if taken.is_err() && self.relieved.load(Relaxed) {
            let waiting = async {
                for _ in 0..ROUNDS {
                    if taken.is_ok() || self.is_futile() || rounds.changed().await.is_err() {
                        return;
                    }
                    taken = self.take(tenant, size);
                }
            };
            // In vain or not, what the last look found counts.
            let _ = tokio::time::timeout(WAIT, waiting).await;
        }
        if taken.is_err() {
            self.events.emit(Event::Refused(Refused::Upload { tenant }));
        }
        taken
    }

    /// Asks for a round of eviction when the backend had no room.
    pub fn noticing<T>(&self, done: Result<T>) -> Result<T> {
        if let Err(Error::Full | Error::Short { .. }) = &done {
            self.press();
        }
        done
    }

    fn press(&self) {
        if !self.is_futile() {
            self.pressed.notify_one();
        }
    }

    fn is_futile(&self) -> bool {
        self.rounds.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Whether the disk takes no uploads, or something should have been condemned that was not.
    fn is_full(&self) -> bool {
        self.is_short() || self.is_below(1)
    }

    /// Whether something should go that has not been condemned yet.
    fn is_short(&self) -> bool {
        let mut accounts = self.usage.accounts().into_iter();
        self.shortage() > 0 || accounts.any(|(tenant, _)| self.excess(&tenant) > 0)
    }

    /// Whether a tenant has more than its quota wants, with what is being sent to it.
    pub fn is_over(&self, tenant: &Tenant) -> bool {
        let account = self.usage.account(tenant);
        let used = account.live().saturating_add(account.arriving());
        self.config.quota(tenant).high.is_some_and(|high| used > high)
    }

    /// Whether the disk needs room soon, also that of what has been condemned.
    pub fn is_low(&self) -> bool {
        self.shortage() > 0 || self.is_below(LOW_RESERVES)
    }

    /// Whether there is less than so many reserves beside what is being sent. Unlike an upload that finds it so, whoever
    /// collects does not ask for another collection.
    fn is_below(&self, reserves: u64) -> bool {
        self.space().is_some_and(|space| {
            let reserve = self.config.store.reserve(space.total).saturating_mul(reserves);
            space.free < reserve.saturating_add(self.coming.load(Relaxed))
        })
    }

    /// Bytes of a tenant that should go for its quota.
    pub fn excess(&self, tenant: &Tenant) -> u64 {
        let (quota, live) = (self.config.quota(tenant), self.usage.account(tenant).live());
        match (quota.high, quota.low) {
            (Some(high), Some(low)) if live > high => live - low,
            _ => 0,
        }
    }

    /// Bytes that should go, of whichever tenant, for the disk. What is condemned goes already.
    pub fn shortage(&self) -> u64 {
        let Some(space) = self.space() else { return 0 };
        let reserve = self.config.store.reserve(space.total).max(space.total / EVICTION_PART);
        let condemned: u64 = self.usage.accounts().iter().map(|(_, account)| account.stored() - account.live()).sum();
        let free = space.free.saturating_add(condemned).saturating_sub(self.coming.load(Relaxed));
        if free < LOW_RESERVES.saturating_mul(reserve) {
            ENOUGH_RESERVES.saturating_mul(reserve).saturating_sub(free)
        } else {
            0
        }
    }

    /// Bytes of a tenant that should go while the disk is short of room. Scopes give all that they have before any tenant
    /// gives some: what pull requests push evicts nothing but their own. Within each of the two, each gives as much as it has
    /// of all; of what nobody has counted yet, nothing goes.
    pub fn part(&self, tenant: &Tenant) -> u64 {
        let shortage = self.shortage();
        let accounts = self.usage.accounts();
        let sum = |scopes: bool| -> u64 {
            let alike = accounts.iter().filter(|(tenant, _)| tenant.is_scope() == scopes);
            alike.map(|(_, account)| account.live()).sum()
        };
        let scopes = sum(true);
        let (due, all) = match tenant.is_scope() {
            true => (shortage.min(scopes), scopes),
            false => (shortage.saturating_sub(scopes), sum(false)),
        };
        let live = self.usage.account(tenant).live();
        let part = u128::from(due.min(all)) * u128::from(live) / u128::from(all.max(1));
        u64::try_from(part).unwrap_or(live).min(live)
    }

    fn space(&self) -> Option<Space> {
        let space = self.objects.space()?;
        self.metrics.free_bytes.set(i64::try_from(space.free).unwrap_or(i64::MAX));
        Some(space)
    }

    /// A place for an upload of `size` bytes; without a size, for as long as there is room at all.
    fn take(self: &Arc<Self>, tenant: &Tenant, size: Option<u64>) -> Result<Reservation> {
        let (account, bytes) = (self.usage.account(tenant), size.unwrap_or(0));
        // Announced first and looked at then: of two that fit only alone, one at least sees the other.
        account.announce(bytes);
        self.coming.fetch_add(bytes, Relaxed);
        let mut place = Reservation { room: self.clone(), account, bytes, coming: bytes };
        let fits = self.fits_quota(tenant, &place).and_then(|()| self.fits_disk_for(tenant));
        if fits.is_err() {
            self.press();
            place.give_back();
        }
        fits.map(|()| place)
    }

    fn fits_quota(&self, tenant: &Tenant, place: &Reservation) -> Result<()> {
        let quota = self.config.quota(tenant);
        let stored = place.account.live();
        let used = stored.saturating_add(place.account.arriving());
        if quota.high.is_some_and(|high| used > high) {
            self.press();
        }
        match quota.max {
            // An upload that tells no size may begin while there is a byte left.
            Some(max) if used > max || used == max && place.bytes == 0 => {
                Err(Error::OverQuota { tenant: tenant.clone(), stored, max, size: place.bytes })
            }
            _ => Ok(()),
        }
    }

    /// Scopes do not take the room in which eviction makes some for the tenants.
    fn fits_disk_for(&self, tenant: &Tenant) -> Result<()> {
        self.fits_disk()?;
        if !tenant.is_scope() {
            return Ok(());
        }
        let Some(space) = self.space() else { return Ok(()) };
        let (reserve, coming) = (LOW_RESERVES * self.config.store.reserve(space.total), self.coming.load(Relaxed));
        if space.free < reserve.saturating_add(coming) {
            return Err(Error::Short { free: space.free, reserve, coming });
        }
        Ok(())
    }

    fn fits_disk(&self) -> Result<()> {
        let Some(space) = self.space() else { return Ok(()) };
        let (reserve, coming) = (self.config.store.reserve(space.total), self.coming.load(Relaxed));
        if space.free < LOW_RESERVES * reserve {
            self.press();
        }
        if space.free < reserve.saturating_add(coming) {
            return Err(Error::Short { free: space.free, reserve, coming });
        }
        Ok(())
    }
}

/// The room that one upload has, given back when it is dropped.
pub struct Reservation {
    room: Arc<Room>,
    account: Arc<Account>,
    /// Of the quota.
    bytes: u64,
    /// Of the disk, not yet written.
    coming: u64,
}

impl Reservation {
    /// So many bytes are about to be written.
    pub fn write(&mut self, bytes: u64) -> Result<()> {
        let announced = bytes.min(self.coming);
        self.room.coming.fetch_sub(announced, Relaxed);
        self.coming -= announced;
        // What told its length has been looked at.
        if announced == bytes { Ok(()) } else { self.room.fits_disk() }
    }

    /// The blob is stored.
    pub fn stored(self, bytes: u64) {
        self.account.received(bytes);
    }

    /// A part of a blob is stored.
    pub fn staged(self, bytes: u64) {
        self.account.staged(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn give_back(&mut self) {
        self.account.arrived(std::mem::take(&mut self.bytes));
        self.room.coming.fetch_sub(std::mem::take(&mut self.coming), Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.give_back();
    }
}
