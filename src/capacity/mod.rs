//! Admission of writes: the quota of the tenant, the free space of the disk, and the share of it that scopes may use.
//!
//! An upload of known length reserves its bytes before its body is read, so that it is refused before it is sent; one
//! of unknown length reserves portion by portion (`reservation.rs`). Manifests and their records need space too. They
//! may use half of the reserve, and a tenth more than a tenant's quota: a build fails without them after all of its
//! layers were sent. The other half is for the deletes of eviction.
//!
//! Scopes compete only with scopes. They leave a second reserve, in which eviction frees space for the tenants; the
//! bytes that they have announced do not count against tenants; together they use no more than their share of the disk;
//! and their staged chunks and uploads in flight are dropped first when free space is low. If only a scope is to blame
//! for a full store, tenants still wait for a round of eviction.
//!
//! During a round of eviction, uploads that do not fit wait for it, for a limited time: a late build is better than a
//! failed one. A full store is not remembered: every upload checks anew.

mod disk;
mod reservation;
pub mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

pub use reservation::{LAPSE, Reservation};

use crate::capacity::reservation::UnderWay;
use crate::capacity::usage::{Account, OBJECT_FLOOR, Usage};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::events::{Event, Events, Refused};
use crate::layout;
use crate::metrics::Metrics;
use crate::names::Tenant;
use crate::objects::{Key, Objects};
use disk::{LOW_RESERVES, SCOPES_ENOUGH_RESERVES, SCOPES_LOW_RESERVES};

/// Usage of the scopes' share at which eviction begins, and at which it ends. Percent.
const SHARE_HIGH_PERCENT: u64 = 90;
const SHARE_LOW_PERCENT: u64 = 80;
/// Part of its quota, one in so many, by which manifests may exceed a tenant's quota. A scope's may not.
const RECORDS_BEYOND_PART: u64 = 10;

/// Longest wait of an upload for eviction. Below the usual 60 s of proxies.
const WAIT: Duration = Duration::from_secs(40);
/// Number of rounds of eviction that an upload waits for: the first may have begun before space was short.
const ROUNDS: usize = 2;
/// Time after a round that left something full in which no round is asked for or waited for: at least this, and at
/// least so many times the duration of the round. Condemned objects are deleted later.
const FUTILE: Duration = Duration::from_secs(10);
const FUTILE_ROUNDS: u32 = 10;

/// Admission of all writes of a server.
pub struct Capacity {
    usage: Arc<Usage>,
    objects: Arc<dyn Objects>,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    events: Events,
    under_way: UnderWay,
    /// Bytes for which tenants wait and which scopes could free.
    awaited: AtomicU64,
    pressed: Notify,
    /// Set once a task waits for calls to evict.
    relieved: AtomicBool,
    /// Notified at the end of each round of eviction.
    rounds: watch::Sender<Futile>,
}

/// Time until which another round is useless, if the last left something full.
#[derive(Clone, Copy, Debug, Default)]
struct Futile {
    /// For tenants that are no scopes: a scope over its limit does not keep them from waiting.
    tenants: Option<Instant>,
    scopes: Option<Instant>,
}

impl Futile {
    fn is_for(self, tenant: &Tenant) -> bool {
        let until = if tenant.is_scope() { self.scopes } else { self.tenants };
        until.is_some_and(|until| Instant::now() < until)
    }
}

/// Purpose of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Blobs, and parts of them.
    Content,
    /// Manifests and their records.
    Records,
}

/// A request for a reservation.
#[derive(Clone)]
struct Wanted {
    tenant: Tenant,
    account: Arc<Account>,
    purpose: Purpose,
    /// Bytes to add to the account.
    bytes: u64,
    /// Length that the client announced, in bytes.
    told: u64,
}

/// A round of eviction. It ends when dropped; then waiting uploads check again.
pub struct Round {
    room: Arc<Capacity>,
    began: Instant,
}

impl Drop for Round {
    fn drop(&mut self) {
        let until = Instant::now() + FUTILE.max(self.began.elapsed() * FUTILE_ROUNDS);
        let tenants = self.room.is_full().then_some(until);
        let scopes = if self.room.are_scopes_full() { Some(until) } else { tenants };
        self.room.rounds.send_replace(Futile { tenants, scopes });
    }
}

impl Capacity {
    pub fn new(objects: Arc<dyn Objects>, config: Arc<Config>, metrics: Arc<Metrics>, events: Events) -> Capacity {
        let usage = Arc::new(Usage::new(metrics.clone()));
        let follows = usage.clone();
        objects.watch(Arc::new(move |key, change| follows.follow(key, change)));
        let (pressed, relieved, rounds) = (Notify::new(), AtomicBool::new(false), watch::Sender::default());
        let (under_way, awaited) = (UnderWay::new(), AtomicU64::new(0));
        Capacity { usage, objects, config, metrics, events, under_way, awaited, pressed, relieved, rounds }
    }

    /// Resolves when space is short, now or since the last call: the caller evicts at once, and drops the round at its
    /// end. Must be called again for as long as the server runs: uploads wait for it.
    pub async fn pressed(self: &Arc<Self>) -> Round {
        self.relieved.store(true, Relaxed);
        self.pressed.notified().await;
        Round { room: self.clone(), began: Instant::now() }
    }

    /// The accounts of all tenants.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Reserves space for an upload, now or after a round of eviction, with `beside` additional bytes. Without a `size`
    /// it reserves the minimum of an object, and the rest as it arrives.
    ///
    /// # Errors
    ///
    /// [`Error::OverQuota`], [`Error::Short`] of the disk, and [`Error::ScopesFull`].
    pub async fn wait(self: &Arc<Self>, tenant: &Tenant, size: Option<u64>, beside: u64) -> Result<Reservation> {
        let told = size.unwrap_or(0);
        let bytes = told.max(OBJECT_FLOOR).saturating_add(beside);
        let (account, purpose) = (self.usage.account(tenant), Purpose::Content);
        self.wait_for(&Wanted { tenant: tenant.clone(), account, purpose, bytes, told }).await
    }

    /// As [`Capacity::wait`], for manifests and their records, of `bytes` as the account counts them.
    pub async fn wait_for_records(self: &Arc<Self>, tenant: &Tenant, bytes: u64) -> Result<Reservation> {
        self.wait_for(&self.records(tenant, bytes)).await
    }

    /// As [`Capacity::wait_for_records`], for records that are dispensable: returns at once.
    pub fn take_for_records(self: &Arc<Self>, tenant: &Tenant, bytes: u64) -> Result<Reservation> {
        self.take(&self.records(tenant, bytes))
    }

    fn records(&self, tenant: &Tenant, bytes: u64) -> Wanted {
        let (account, purpose) = (self.usage.account(tenant), Purpose::Records);
        Wanted { tenant: tenant.clone(), account, purpose, bytes, told: bytes }
    }

    async fn wait_for(self: &Arc<Self>, wanted: &Wanted) -> Result<Reservation> {
        let mut taken = self.take(wanted);
        if taken.is_err() {
            taken = self.when_there_is_room(wanted, || self.take(wanted)).await;
        }
        self.refusing(wanted, taken)
    }

    /// Emits an event for a refused reservation.
    fn refusing<T>(&self, wanted: &Wanted, taken: Result<T>) -> Result<T> {
        if taken.is_err() {
            self.events.emit(Event::Refused(Refused::Upload { tenant: &wanted.tenant }));
        }
        taken
    }

    /// Result of `take`, now or after a round of eviction has freed space.
    async fn when_there_is_room<T>(&self, wanted: &Wanted, mut take: impl FnMut() -> Result<T>) -> Result<T> {
        let _awaited = Awaited::new(self, wanted);
        // Before the check: so a round that ends right after it is not missed.
        let mut rounds = self.rounds.subscribe();
        let mut taken = take();
        if taken.is_err() && self.relieved.load(Relaxed) {
            let waiting = async {
                for _ in 0..ROUNDS {
                    if taken.is_ok() || self.is_futile(&wanted.tenant) || rounds.changed().await.is_err() {
                        return;
                    }
                    taken = take();
                }
            };
            // With or without a time-out, the result of the last check counts.
            let _ = tokio::time::timeout(WAIT, waiting).await;
        }
        taken
    }

    /// Asks for a round of eviction if the backend had no space for the object `key`.
    pub fn noticing<T>(&self, key: &Key, done: Result<T>) -> Result<T> {
        if let Err(Error::Full | Error::Short { .. } | Error::ShortOfInodes { .. }) = &done
            && let Some(tenant) = layout::tenant_of(key.as_str())
        {
            self.press(&tenant);
        }
        done
    }

    /// Counts deletes of objects of known sizes in bytes, if the backend does not report them.
    pub fn deleted<'a>(&self, objects: impl IntoIterator<Item = (&'a Key, u64)>) {
        if self.objects.traits().remote {
            objects.into_iter().for_each(|(key, size)| self.usage.follow_delete(key, size));
        }
    }

    /// Ends the upload of a scope that has been idle longest, and for `idle` at least, so that its written bytes are
    /// freed. Returns whether there was one.
    pub async fn end_idle_of_scopes(&self, idle: Duration) -> bool {
        self.under_way.end_idle_of_scopes(idle).await
    }

    fn press(&self, tenant: &Tenant) {
        if !self.is_futile(tenant) {
            self.pressed.notify_one();
        }
    }

    fn is_futile(&self, tenant: &Tenant) -> bool {
        self.rounds.borrow().is_for(tenant)
    }

    /// Tells whether the disk refuses uploads of tenants, or is short of space or a tenant over its quota after
    /// condemning.
    fn is_full(&self) -> bool {
        let mut tenants = self.usage.accounts().into_iter().filter(|(tenant, _)| !tenant.is_scope());
        self.shortage() > 0 || self.is_below(1) || tenants.any(|(tenant, _)| self.excess(&tenant) > 0)
    }

    /// The same for scopes.
    fn are_scopes_full(&self) -> bool {
        let mut scopes = self.usage.accounts().into_iter().filter(|(tenant, _)| tenant.is_scope());
        self.excess_of_scopes() > 0 || scopes.any(|(tenant, _)| self.excess(&tenant) > 0)
    }

    /// Tells whether a tenant's usage with its announced bytes is above its high watermark; for a scope, also whether
    /// all scopes together use more than their share, or than the tenants leave them.
    pub fn is_over(&self, tenant: &Tenant) -> bool {
        let account = self.usage.account(tenant);
        let used = account.live().saturating_add(account.arriving());
        let is_over = self.config.quota(tenant).high.is_some_and(|high| used > high);
        is_over || tenant.is_scope() && self.are_scopes_pressed()
    }

    /// Tells whether scopes must free space soon. Condemned bytes count as used.
    fn are_scopes_pressed(&self) -> bool {
        let held = self.usage.of_scopes();
        let is_above_share = self.share_of_scopes().is_some_and(|share| held > percent(share, SHARE_HIGH_PERCENT));
        held > 0 && (is_above_share || self.lacking() > 0 || self.is_below(SCOPES_LOW_RESERVES))
    }

    /// Tells whether the disk needs free space soon. Condemned bytes count as used.
    pub fn is_low(&self) -> bool {
        self.shortage() > 0 || self.is_below(LOW_RESERVES)
    }

    /// Tells whether to drop uploads of scopes: the disk needs free space soon, or tenants wait for space that scopes
    /// use.
    pub fn is_low_for_scopes(&self) -> bool {
        self.is_low() || self.lacking() > 0
    }

    /// Bytes of a tenant to condemn for its quota.
    pub fn excess(&self, tenant: &Tenant) -> u64 {
        let (quota, live) = (self.config.quota(tenant), self.usage.account(tenant).live());
        match (quota.high, quota.low) {
            (Some(high), Some(low)) if live > high => live - low,
            _ => 0,
        }
    }

    /// Bytes of any scope to condemn: for their share of the disk, and for the space that tenants may need before
    /// objects condemned from then on are deleted.
    fn excess_of_scopes(&self) -> u64 {
        let scopes = self.usage.accounts().into_iter().filter(|(tenant, _)| tenant.is_scope());
        let condemned: u64 = scopes.map(|(_, account)| account.stored() - account.live()).sum();
        let held = self.usage.of_scopes().saturating_sub(condemned);
        if held == 0 {
            return 0;
        }
        let of_share = match self.share_of_scopes() {
            Some(share) if held > percent(share, SHARE_HIGH_PERCENT) => held - percent(share, SHARE_LOW_PERCENT),
            _ => 0,
        };
        of_share.max(self.shortage_below(SCOPES_LOW_RESERVES, SCOPES_ENOUGH_RESERVES)).max(self.lacking())
    }

    /// Bytes of a tenant to condemn while the disk's free space is low. Scopes give all their content before any tenant
    /// gives some: pushes of pull requests evict only their own kind. Within each of the two groups, each gives in
    /// proportion to its usage; content that is not counted yet is not evicted.
    pub fn part(&self, tenant: &Tenant) -> u64 {
        let shortage = self.shortage();
        let accounts = self.usage.accounts();
        let sum = |scopes: bool| -> u64 {
            let alike = accounts.iter().filter(|(tenant, _)| tenant.is_scope() == scopes);
            alike.map(|(_, account)| account.live()).sum()
        };
        let scopes = sum(true);
        let (due, all) = match tenant.is_scope() {
            true if shortage == 0 && !self.are_scopes_pressed() => return 0,
            true => (shortage.max(self.excess_of_scopes()).min(scopes), scopes),
            false => (shortage.saturating_sub(scopes), sum(false)),
        };
        let live = self.usage.account(tenant).live();
        let part = u128::from(due.min(all)) * u128::from(live) / u128::from(all.max(1));
        u64::try_from(part).unwrap_or(live).min(live)
    }

    fn take(self: &Arc<Self>, wanted: &Wanted) -> Result<Reservation> {
        // Announced first, then checked: of two that fit only alone, at least one sees the other.
        let place = Reservation::new(self, wanted.clone());
        self.fits(wanted, 0).map(|()| place)
    }

    /// Tells whether there is space for all announced bytes, and for `unwritten` bytes that are about to be written.
    fn fits(&self, wanted: &Wanted, unwritten: u64) -> Result<()> {
        let looked = self.fits_now(wanted, unwritten);
        let fits = if looked.is_err() && self.under_way.lapse() { self.fits_now(wanted, unwritten) } else { looked };
        if fits.is_err() {
            self.press(&wanted.tenant);
        }
        fits
    }

    fn fits_now(&self, wanted: &Wanted, unwritten: u64) -> Result<()> {
        self.fits_quota(wanted)?;
        let Some(space) = self.space() else { return Ok(()) };
        self.fits_share(wanted, space)?;
        self.fits_disk(wanted, space, unwritten)?;
        self.fits_inodes(wanted, space)
    }

    fn fits_quota(&self, wanted: &Wanted) -> Result<()> {
        let (tenant, quota) = (&wanted.tenant, self.config.quota(&wanted.tenant));
        let stored = wanted.account.live();
        let used = stored.saturating_add(wanted.account.arriving());
        if quota.high.is_some_and(|high| used > high) {
            self.press(tenant);
        }
        let beyond = match wanted.purpose {
            Purpose::Records if !tenant.is_scope() => RECORDS_BEYOND_PART,
            _ => u64::MAX,
        };
        match quota.max {
            Some(max) if used > max.saturating_add(max / beyond) => {
                let next = wanted.account.next_eviction();
                Err(Error::OverQuota { tenant: tenant.clone(), stored, max, size: wanted.told, next })
            }
            _ => Ok(()),
        }
    }
}

fn percent(of: u64, percent: u64) -> u64 {
    of / 100 * percent
}

/// Bytes for which a tenant waits and which scopes could free. Zero if all bytes of scopes would not suffice.
struct Awaited<'a> {
    room: &'a Capacity,
    bytes: u64,
}

impl Awaited<'_> {
    fn new<'a>(room: &'a Capacity, wanted: &Wanted) -> Awaited<'a> {
        let could_be_had = room.space().is_some_and(|space| {
            let needed = room.config.store.reserve(space.total).saturating_add(room.under_way.coming());
            needed.saturating_add(wanted.bytes) <= space.free.saturating_add(room.usage.of_scopes())
        });
        let bytes = if could_be_had && !wanted.tenant.is_scope() { wanted.bytes } else { 0 };
        room.awaited.fetch_add(bytes, Relaxed);
        Awaited { room, bytes }
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.room.awaited.fetch_sub(self.bytes, Relaxed);
    }
}
