//! Usage of each tenant: an account in memory, so that no request has to count.
//!
//! An account begins with a scan of the store in the background and then follows the writes and deletes of this server
//! as the backend reports them. Both weigh an object alike ([`weight`]), so over files, which have one owner, an
//! account equals the next scan. Each scan replaces it: before the first ends it lacks all earlier objects, and writes
//! and deletes during a scan may count twice. In a bucket it is an estimate until the next scan: bytes that were sent
//! although the object existed count again, and changes by other replicas are not seen. No delete is decided by an
//! account.
//!
//! Invariant: every object of a tenant counts, with [`OBJECT_FLOOR`] at least: many small objects use up space like few
//! large ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use parking_lot::{Mutex, RwLock};
use serde::Serialize;

use crate::layout::{self, EntryItem, Place, RepoItem, UploadItem};
use crate::metrics::Metrics;
use crate::metrics::tenant::TenantMetrics;
use crate::names::Tenant;
use crate::objects::{Change, Held, Key};

/// The smallest weight of an object in bytes: the least that a file takes, with its name, its inode and its block.
pub const OBJECT_FLOOR: u64 = 4 << 10;

/// Weight of an object of `size` bytes in its tenant's account, in bytes. A root includes the note of its last use,
/// which is written by reads: a read is never refused for lack of space.
pub fn weight(place: &Place, size: u64) -> u64 {
    let bytes = size.max(OBJECT_FLOOR);
    match place {
        Place::Repo { item: RepoItem::Used(_) | RepoItem::Entry(_, EntryItem::Used), .. } => 0,
        Place::Repo { item: RepoItem::Tag(_) | RepoItem::Entry(_, EntryItem::Record), .. } => bytes + OBJECT_FLOOR,
        _ => bytes,
    }
}

/// As [`weight`], by the key; nothing if it is not the key of a tenant's object.
pub fn weight_of(key: &str, size: u64) -> Option<(Tenant, u64)> {
    let place = layout::parse(key)?;
    let weight = weight(&place, size);
    match place {
        Place::Blob { tenant, .. } | Place::Repo { tenant, .. } | Place::Upload { tenant, .. } => {
            Some((tenant, weight))
        }
        _ => None,
    }
}

/// Tells whether an object is counted only by scans: it is overwritten under its key, and each write would count if the
/// backend does not report the previous size. Objects of tenants wait for the next scan, so that no upload is refused
/// for them; those of scopes count each time, so that no scope exceeds its quota by them.
fn is_left_to_scans(place: &Place) -> bool {
    use RepoItem::{Push, Referrer, Tag, Used, View};
    match place {
        Place::Repo { tenant, item, .. } => {
            let is_rewritten = matches!(
                item,
                Tag(_) | View(_) | Used(_) | Push(..) | Referrer { .. } | RepoItem::Entry(_, EntryItem::Used)
            );
            is_rewritten && !tenant.is_scope()
        }
        // Written with each chunk, which counts.
        Place::Upload { item, .. } => *item == UploadItem::State,
        _ => false,
    }
}

/// The accounts of all tenants.
pub struct Usage {
    accounts: RwLock<BTreeMap<Tenant, Arc<Account>>>,
    metrics: Arc<Metrics>,
    of_scopes: Arc<Together>,
}

/// Sums over all scopes.
#[derive(Default)]
struct Together {
    stored: AtomicI64,
    arriving: AtomicU64,
}

/// Usage of one tenant, as far as this server knows. Bytes are the weights of all its objects ([`weight`]), including
/// those of unfinished uploads.
pub struct Account {
    /// Result of the last scan, less the changes before it began: so its sum with `changed` is right.
    base: Count,
    changed: Count,
    /// Stored bytes that are condemned.
    condemned: AtomicU64,
    /// Bytes announced by uploads in flight.
    arriving: AtomicU64,
    scanned: Mutex<Option<Scanned>>,
    /// Time of the next possible eviction, if the tenant is over its limit and nothing can be evicted now.
    next_eviction: Mutex<Option<jiff::Timestamp>>,
    counted: Arc<TenantMetrics>,
    /// Sums over all scopes, if this is a scope. There is one scope for each pull request: they share their metrics, so
    /// that none can tell its size.
    of_scopes: Option<Arc<Together>>,
}

#[derive(Default)]
struct Count {
    bytes: AtomicI64,
    blobs: AtomicI64,
}

/// Result of a scan of a tenant.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Scanned {
    pub bytes: u64,
    pub blobs: u64,
    pub repositories: BTreeMap<String, RepoUsage>,
    /// Bytes that each tag references, summed: the usage if nothing were shared.
    pub named_bytes: u64,
    /// End of the scan.
    pub at: jiff::Timestamp,
}

/// Usage of one repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepoUsage {
    pub manifests: u64,
    pub tags: u64,
    /// Bytes of the blobs that its manifests reference, each counted once. They belong to the tenant: other
    /// repositories may reference them too.
    pub bytes: u64,
}

/// State of an account when a scan began.
#[derive(Clone, Copy, Debug)]
pub struct Began {
    bytes: i64,
    blobs: i64,
}

impl Usage {
    pub fn new(metrics: Arc<Metrics>) -> Usage {
        Usage { accounts: RwLock::default(), metrics, of_scopes: Arc::default() }
    }

    pub fn account(&self, tenant: &Tenant) -> Arc<Account> {
        let known = self.accounts.read().get(tenant).cloned();
        known.unwrap_or_else(|| {
            let mut accounts = self.accounts.write();
            let account = accounts.entry(tenant.clone()).or_insert_with(|| {
                let of_scopes = tenant.is_scope().then(|| self.of_scopes.clone());
                Arc::new(Account::new(self.metrics.tenants.of(tenant), of_scopes))
            });
            account.clone()
        })
    }

    /// Bytes of all scopes: stored, condemned ones included, and announced by uploads in flight.
    pub fn of_scopes(&self) -> u64 {
        let stored = u64::try_from(self.of_scopes.stored.load(Relaxed)).unwrap_or(0);
        stored.saturating_add(self.of_scopes.arriving.load(Relaxed))
    }

    /// Counts a delete in a bucket, which does not report the size that it removed: an object known to have `size`
    /// bytes.
    pub fn follow_delete(&self, key: &Key, size: u64) {
        if layout::parse(key.as_str()).is_some_and(|place| !is_left_to_scans(&place)) {
            self.follow(key, Change { before: Held::Bytes(size), after: Held::Nothing });
        }
    }

    /// Counts a change of the store by this process.
    pub fn follow(&self, key: &Key, change: Change) {
        let Some(place) = layout::parse(key.as_str()) else { return };
        let (Place::Blob { tenant, .. } | Place::Repo { tenant, .. } | Place::Upload { tenant, .. }) = &place else {
            return;
        };
        let bytes = |held| match held {
            Held::Bytes(size) => Some(weight(&place, size)),
            Held::Nothing | Held::Unknown => None,
        };
        let (before, after) = match change {
            // The deleting code reports the size ([`Usage::follow_delete`]).
            Change { before: Held::Unknown, after: Held::Nothing } => return,
            Change { before: Held::Unknown, .. } if is_left_to_scans(&place) => return,
            Change { before, after } => (bytes(before), bytes(after)),
        };
        let blobs = match place {
            Place::Blob { .. } => i64::from(after.is_some()) - i64::from(before.is_some()),
            _ => 0,
        };
        self.account(tenant).change(signed(after.unwrap_or(0)) - signed(before.unwrap_or(0)), blobs);
    }

    /// All accounts, by name.
    pub fn accounts(&self) -> Vec<(Tenant, Arc<Account>)> {
        let accounts = self.accounts.read();
        accounts.iter().map(|(tenant, account)| (tenant.clone(), account.clone())).collect()
    }

    /// State of all accounts for [`Usage::keep`]. Called before the tenants of the store are listed.
    pub fn begin_scan(&self) -> Vec<(Tenant, Began)> {
        self.accounts().into_iter().map(|(tenant, account)| (tenant, account.begin_scan())).collect()
    }

    /// Empties the accounts of tenants that are no longer in the store, except for later changes. Accounts of scopes
    /// are removed when unused: there is one for each pull request.
    pub fn keep(&self, found: &[Tenant], known: Vec<(Tenant, Began)>) {
        for (tenant, began) in known.into_iter().filter(|(tenant, _)| !found.contains(tenant)) {
            let empty = Scanned { at: jiff::Timestamp::now(), ..Scanned::default() };
            self.account(&tenant).set_scanned(began, empty);
        }
        let mut accounts = self.accounts.write();
        accounts.retain(|tenant, account| {
            let stays =
                !tenant.is_scope() || found.contains(tenant) || account.stored() > 0 || Arc::strong_count(account) > 1;
            if !stays {
                self.of_scopes.stored.fetch_sub(account.raw_bytes(), Relaxed);
            }
            stays
        });
    }
}

impl Account {
    fn new(counted: Arc<TenantMetrics>, of_scopes: Option<Arc<Together>>) -> Account {
        Account {
            base: Count::default(),
            changed: Count::default(),
            condemned: AtomicU64::default(),
            arriving: AtomicU64::default(),
            scanned: Mutex::default(),
            next_eviction: Mutex::default(),
            counted,
            of_scopes,
        }
    }

    /// Stored bytes.
    pub fn stored(&self) -> u64 {
        sum(&self.base.bytes, &self.changed.bytes)
    }

    /// Number of stored blobs.
    pub fn blobs(&self) -> u64 {
        sum(&self.base.blobs, &self.changed.blobs)
    }

    /// Stored bytes without the condemned ones, which do not count for the quota.
    pub fn live(&self) -> u64 {
        self.stored().saturating_sub(self.condemned.load(Relaxed))
    }

    /// Bytes announced by uploads in flight.
    pub fn arriving(&self) -> u64 {
        self.arriving.load(Relaxed)
    }

    /// Result of the last scan.
    pub fn scanned(&self) -> Option<Scanned> {
        self.scanned.lock().clone()
    }

    /// End of the last scan, and the bytes that the tags it found would take if nothing were shared.
    pub fn counted(&self) -> Option<(jiff::Timestamp, u64)> {
        let scanned = self.scanned.lock();
        scanned.as_ref().map(|scanned| (scanned.at, scanned.named_bytes))
    }

    /// Usage of one repository in the last scan.
    pub fn counted_repo(&self, repo: &str) -> Option<RepoUsage> {
        let scanned = self.scanned.lock();
        scanned.as_ref()?.repositories.get(repo).copied()
    }

    fn change(&self, bytes: i64, blobs: i64) {
        self.changed.bytes.fetch_add(bytes, Relaxed);
        self.changed.blobs.fetch_add(blobs, Relaxed);
        if let Some(together) = &self.of_scopes {
            together.stored.fetch_add(bytes, Relaxed);
        }
        self.show();
    }

    fn raw_bytes(&self) -> i64 {
        self.base.bytes.load(Relaxed).saturating_add(self.changed.bytes.load(Relaxed))
    }

    /// Adds bytes that an upload has announced.
    pub fn announce(&self, bytes: u64) {
        self.arriving.fetch_add(bytes, Relaxed);
        if let Some(together) = &self.of_scopes {
            together.arriving.fetch_add(bytes, Relaxed);
        }
    }

    /// Removes announced bytes that are stored now, or will not arrive.
    pub fn arrived(&self, bytes: u64) {
        self.arriving.fetch_sub(bytes, Relaxed);
        if let Some(together) = &self.of_scopes {
            together.arriving.fetch_sub(bytes, Relaxed);
        }
    }

    /// Sets the number of stored bytes that are condemned.
    pub fn set_condemned(&self, bytes: u64) {
        self.condemned.store(bytes, Relaxed);
        if let Some(gauges) = self.gauges() {
            gauges.condemned_bytes.set(signed(bytes));
        }
    }

    /// Time of the next possible eviction, if the last collection of this server freed too little.
    pub fn next_eviction(&self) -> Option<jiff::Timestamp> {
        *self.next_eviction.lock()
    }

    /// Sets the time of the next possible eviction.
    pub fn set_next_eviction(&self, next: Option<jiff::Timestamp>) {
        *self.next_eviction.lock() = next;
    }

    /// State of the account for [`Account::set_scanned`]. Called before a scan.
    pub fn begin_scan(&self) -> Began {
        Began { bytes: self.changed.bytes.load(Relaxed), blobs: self.changed.blobs.load(Relaxed) }
    }

    /// Replaces the account by the result of a scan, with the changes since its beginning.
    pub fn set_scanned(&self, began: Began, found: Scanned) {
        let base = signed(found.bytes) - began.bytes;
        let before = self.base.bytes.swap(base, Relaxed);
        if let Some(together) = &self.of_scopes {
            together.stored.fetch_add(base - before, Relaxed);
        }
        self.base.blobs.store(signed(found.blobs) - began.blobs, Relaxed);
        if let Some(gauges) = self.gauges() {
            let tags = found.repositories.values().map(|repo| repo.tags).sum();
            gauges.tags.set(signed(tags));
            gauges.repositories.set(signed(found.repositories.len() as u64));
            gauges.named_bytes.set(signed(found.named_bytes));
            gauges.counted_at.set(found.at.as_second());
        }
        *self.scanned.lock() = Some(found);
        self.show();
    }

    fn gauges(&self) -> Option<&TenantMetrics> {
        self.of_scopes.is_none().then_some(&*self.counted)
    }

    fn show(&self) {
        if let Some(gauges) = self.gauges() {
            gauges.stored_bytes.set(signed(self.stored()));
            gauges.stored_blobs.set(signed(self.blobs()));
        }
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn sum(base: &AtomicI64, changed: &AtomicI64) -> u64 {
    u64::try_from(base.load(Relaxed).saturating_add(changed.load(Relaxed))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::ScopeName;

    #[test]
    fn accounts_of_scopes_that_are_gone_go_when_nobody_uses_them() {
        let (usage, tenant) = (Usage::new(Arc::new(Metrics::default())), Tenant::default_tenant());
        let scope = |name: &str| tenant.scope(&ScopeName::of(name));
        let [gone, used, written] = ["pr:1", "pr:2", "pr:3"].map(scope);
        for tenant in [&tenant, &gone, &used, &written] {
            usage.account(tenant).change(7, 1);
        }
        assert_eq!(usage.of_scopes(), 21);
        let (known, held) = (usage.begin_scan(), usage.account(&used));
        usage.account(&written).change(5, 1);
        usage.keep(&[], known);
        let left: Vec<(Tenant, u64)> =
            usage.accounts().iter().map(|(of, account)| (of.clone(), account.stored())).collect();
        let mut expected = [(tenant.clone(), 0), (used.clone(), 0), (written.clone(), 5)];
        expected.sort();
        assert_eq!(left, expected);
        held.announce(3);
        assert_eq!(usage.account(&used).arriving(), 3);
        assert_eq!(usage.of_scopes(), 5 + 3);
    }

    #[test]
    fn a_scan_corrects_an_account_and_keeps_what_has_changed_since() {
        let metrics = Arc::new(Metrics::default());
        let usage = Usage::new(metrics.clone());
        let account = usage.account(&Tenant::default_tenant());
        account.change(20, 2);
        let began = account.begin_scan();
        account.change(5, 1);
        account.set_scanned(began, Scanned { bytes: 100, blobs: 7, ..Scanned::default() });
        assert_eq!((account.stored(), account.blobs()), (105, 8));
        account.change(-200, -2);
        assert_eq!((account.stored(), account.blobs()), (0, 6));
        account.change(200, 1);
        account.set_condemned(50);
        assert_eq!((account.stored(), account.live()), (105, 55));
        assert!(metrics.render().contains("larder_stored_bytes{tenant=\"default\"} 105"));
    }

    #[test]
    fn whatever_is_written_and_deleted_leaves_an_account_as_it_was() {
        let usage = Usage::new(Arc::new(Metrics::default()));
        let (tenant, repo) = (Tenant::default_tenant(), "app".parse().unwrap());
        let digest = crate::digest::Digest::sha256(b"x");
        let account = usage.account(&tenant);
        for (key, taken) in [
            (layout::blob(&tenant, &digest), OBJECT_FLOOR),
            (layout::manifest(&tenant, &repo, &digest), OBJECT_FLOOR),
            (layout::tag(&tenant, &repo, &"v1".parse().unwrap()), 2 * OBJECT_FLOOR),
            (layout::used(&tenant, &repo, &"v1".parse().unwrap()), 0),
            (layout::clock(), 0),
        ] {
            usage.follow(&key, Change { before: Held::Nothing, after: Held::Bytes(1) });
            assert_eq!(account.stored(), taken, "{key}");
            // Overwritten, it counts once.
            usage.follow(&key, Change { before: Held::Bytes(1), after: Held::Bytes(OBJECT_FLOOR + 1) });
            assert_eq!(account.stored(), if taken > 0 { taken + 1 } else { 0 }, "{key}");
            usage.follow(&key, Change { before: Held::Bytes(OBJECT_FLOOR + 1), after: Held::Nothing });
            assert_eq!((account.stored(), account.blobs()), (0, 0), "{key}");
        }
    }
}
