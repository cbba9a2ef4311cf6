//! Room for what is written: the quota of its tenant, the free space of the disk, and what scopes may take of it
//! together.
//!
//! An upload takes its place before its body is read, where its length is known, so that what does not fit is refused
//! before it is sent; what was not announced is announced portion by portion (`reservation.rs`). Manifests and what
//! goes with them take room too. They may use half of the reserve, and a tenth more than a tenant's quota: a build
//! fails without them after all of its layers were sent. The other half is for what makes room.
//!
//! Scopes stand in the way of scopes only. They leave a second reserve, in which eviction makes room for the tenants;
//! what they have announced does not count against tenants; together they hold no more than their share of the disk;
//! and what they have staged, or are sending, goes first when the disk is short of room. Where nobody but a scope is to
//! blame for a store that is full, tenants wait for a round of eviction all the same.
//!
//! While somebody makes room, uploads that do not fit wait for that, for a while: a build that is late is better than one
//! that fails. Nothing is remembered of a store that was full: every upload looks anew.

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

/// Eviction for the share of the scopes begins above so many percent of it, and goes down to so many.
const SHARE_HIGH_PERCENT: u64 = 90;
const SHARE_LOW_PERCENT: u64 = 80;
/// Manifests may take a tenant beyond its quota by one part of it in so many. Those of a scope may not.
const RECORDS_BEYOND_PART: u64 = 10;

/// How long an upload waits for room that is being made. Below the usual 60 s of proxies.
const WAIT: Duration = Duration::from_secs(40);
/// Rounds of eviction that it waits for: the first may have begun before the room was short.
const ROUNDS: usize = 2;
/// After a round that left something full, none is asked for and none is waited for: so long, and so many times what the
/// round took. What was condemned takes its time to go.
const FUTILE: Duration = Duration::from_secs(10);
const FUTILE_ROUNDS: u32 = 10;

/// Who has how much room.
pub struct Capacity {
    usage: Arc<Usage>,
    objects: Arc<dyn Objects>,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    events: Events,
    under_way: UnderWay,
    /// Bytes that tenants wait for which scopes could give them.
    awaited: AtomicU64,
    pressed: Notify,
    /// Somebody makes room when told to.
    relieved: AtomicBool,
    /// Tells that a round of eviction has ended.
    rounds: watch::Sender<Futile>,
}

/// Until when there is no use in another round, where the last left something full.
#[derive(Clone, Copy, Debug, Default)]
struct Futile {
    /// For tenants that are no scopes: a scope that has too much keeps none of them from waiting for room.
    tenants: Option<Instant>,
    scopes: Option<Instant>,
}

impl Futile {
    fn is_for(self, tenant: &Tenant) -> bool {
        let until = if tenant.is_scope() { self.scopes } else { self.tenants };
        until.is_some_and(|until| Instant::now() < until)
    }
}

/// What bytes are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Blobs, and parts of them.
    Content,
    /// Manifests, and what goes with them.
    Records,
}

/// Room that somebody asks for.
#[derive(Clone)]
struct Wanted {
    tenant: Tenant,
    account: Arc<Account>,
    purpose: Purpose,
    /// What the account is to take.
    bytes: u64,
    /// What the client says that it sends, in bytes.
    told: u64,
}

/// A round of eviction. Dropped, it has ended, and those who wait for room look again.
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

    /// A place for an upload, now or when it has been made, with so many bytes `beside` it. Without a `size` it takes
    /// what an object takes at least, and the rest as it comes.
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

    /// As [`Capacity::wait`], for `bytes` of manifests and what goes with them, as the account counts them.
    pub async fn wait_for_records(self: &Arc<Self>, tenant: &Tenant, bytes: u64) -> Result<Reservation> {
        self.wait_for(&self.records(tenant, bytes)).await
    }

    /// As [`Capacity::wait_for_records`], for what can be left: nobody waits for it.
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

    /// Tells of what is refused.
    fn refusing<T>(&self, wanted: &Wanted, taken: Result<T>) -> Result<T> {
        if taken.is_err() {
            self.events.emit(Event::Refused(Refused::Upload { tenant: &wanted.tenant }));
        }
        taken
    }

    /// What `take` takes, now or when a round of eviction has made room for it.
    async fn when_there_is_room<T>(&self, wanted: &Wanted, mut take: impl FnMut() -> Result<T>) -> Result<T> {
        let _awaited = Awaited::new(self, wanted);
        // Before the look: a round that ends just behind it is not missed.
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
            // In vain or not, what the last look found counts.
            let _ = tokio::time::timeout(WAIT, waiting).await;
        }
        taken
    }

    /// Asks for a round of eviction when the backend had no room for the object `key`.
    pub fn noticing<T>(&self, key: &Key, done: Result<T>) -> Result<T> {
        if let Err(Error::Full | Error::Short { .. } | Error::ShortOfInodes { .. }) = &done
            && let Some(tenant) = layout::tenant_of(key.as_str())
        {
            self.press(&tenant);
        }
        done
    }

    /// Follows deletes of objects that were known to have so many bytes, where the backend does not tell of them.
    pub fn deleted<'a>(&self, objects: impl IntoIterator<Item = (&'a Key, u64)>) {
        if self.objects.traits().remote {
            objects.into_iter().for_each(|(key, size)| self.usage.follow_delete(key, size));
        }
    }

    /// Ends the upload of a scope to which nothing has come for longest, and for `idle` at least, so that what it has
    /// written goes. Returns whether there was one.
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

    /// Whether the disk takes no uploads of tenants, or something of theirs should have been condemned that was not.
    fn is_full(&self) -> bool {
        let mut tenants = self.usage.accounts().into_iter().filter(|(tenant, _)| !tenant.is_scope());
        self.shortage() > 0 || self.is_below(1) || tenants.any(|(tenant, _)| self.excess(&tenant) > 0)
    }

    /// The same for what scopes have.
    fn are_scopes_full(&self) -> bool {
        let mut scopes = self.usage.accounts().into_iter().filter(|(tenant, _)| tenant.is_scope());
        self.excess_of_scopes() > 0 || scopes.any(|(tenant, _)| self.excess(&tenant) > 0)
    }

    /// Whether a tenant has more than its quota wants, with what is being sent to it; of a scope, also whether all of
    /// them together have more than they may, or than others leave them.
    pub fn is_over(&self, tenant: &Tenant) -> bool {
        let account = self.usage.account(tenant);
        let used = account.live().saturating_add(account.arriving());
        let is_over = self.config.quota(tenant).high.is_some_and(|high| used > high);
        is_over || tenant.is_scope() && self.are_scopes_pressed()
    }

    /// Whether what scopes have is to go soon, also what of it has been condemned.
    fn are_scopes_pressed(&self) -> bool {
        let held = self.usage.of_scopes();
        let is_above_share = self.share_of_scopes().is_some_and(|share| held > percent(share, SHARE_HIGH_PERCENT));
        held > 0 && (is_above_share || self.lacking() > 0 || self.is_below(SCOPES_LOW_RESERVES))
    }

    /// Whether the disk needs room soon, also that of what has been condemned.
    pub fn is_low(&self) -> bool {
        self.shortage() > 0 || self.is_below(LOW_RESERVES)
    }

    /// Whether uploads of scopes are to go: the disk needs room soon, or tenants wait for what scopes have.
    pub fn is_low_for_scopes(&self) -> bool {
        self.is_low() || self.lacking() > 0
    }

    /// Bytes of a tenant that should go for its quota.
    pub fn excess(&self, tenant: &Tenant) -> u64 {
        let (quota, live) = (self.config.quota(tenant), self.usage.account(tenant).live());
        match (quota.high, quota.low) {
            (Some(high), Some(low)) if live > high => live - low,
            _ => 0,
        }
    }

    /// Bytes of scopes that should go, of whichever: for their share of the disk, and for the room that tenants may
    /// need before what is condemned from then on has gone.
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
            true if shortage == 0 && !self.are_scopes_pressed() => return 0,
            true => (shortage.max(self.excess_of_scopes()).min(scopes), scopes),
            false => (shortage.saturating_sub(scopes), sum(false)),
        };
        let live = self.usage.account(tenant).live();
        let part = u128::from(due.min(all)) * u128::from(live) / u128::from(all.max(1));
        u64::try_from(part).unwrap_or(live).min(live)
    }

    fn take(self: &Arc<Self>, wanted: &Wanted) -> Result<Reservation> {
        // Announced first and looked at then: of two that fit only alone, one at least sees the other.
        let place = Reservation::new(self, wanted.clone());
        self.fits(wanted, 0).map(|()| place)
    }

    /// Whether there is room for what has been announced, and for `unwritten` bytes that are about to be written.
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

/// What a tenant waits for that scopes could give it. A wish that all of theirs would not fulfil is nobody's concern.
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
