//! How much each tenant stores: an account in memory, so that no request counts anything.
//!
//! It begins with a scan of the store in the background and then follows what this server writes and deletes. Each later
//! scan replaces it. It is an estimate: until the first scan is through it knows of nothing; what was written or deleted
//! during a scan may count twice; a blob that is sent although it was there counts again until the next scan; and in a
//! bucket each replica sees what the others do only when it scans. All of this is corrected by the next scan, and none of
//! it decides what is deleted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::Serialize;

use crate::metrics::Metrics;
use crate::metrics::tenant::TenantMetrics;
use crate::names::Tenant;
use crate::store::Store;

/// The accounts of all tenants.
pub struct Usage {
    accounts: RwLock<BTreeMap<Tenant, Arc<Account>>>,
    metrics: Arc<Metrics>,
}

/// What one tenant stores, as far as this server knows. Bytes are those of blobs, finished or staged.
pub struct Account {
    /// What the last scan found, less what had changed before it began: so the sum with `changed` is right.
    base: Count,
    changed: Count,
    /// Of what is stored, bytes that are about to be deleted.
    condemned: AtomicU64,
    /// Bytes announced by uploads under way.
    arriving: AtomicU64,
    scanned: Mutex<Option<Scanned>>,
    counted: Arc<TenantMetrics>,
    /// There is one for each pull request: they share their numbers, so that none can say how much there is in it.
    is_scope: bool,
}

#[derive(Default)]
struct Count {
    bytes: AtomicI64,
    blobs: AtomicI64,
}

/// What a scan of a tenant found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Scanned {
    pub bytes: u64,
    pub blobs: u64,
    pub repositories: BTreeMap<String, RepoUsage>,
    /// What its tags would take if nothing were shared: bytes that each names, summed.
    pub named_bytes: u64,
    /// When it was through.
    pub at: jiff::Timestamp,
}

/// What one repository has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepoUsage {
    pub manifests: u64,
    pub tags: u64,
    /// Bytes of the blobs that its manifests name, each counted once. They belong to the tenant: other repositories may
    /// name them too.
    pub bytes: u64,
}

/// Where an account stood when a scan began.
#[derive(Clone, Copy, Debug)]
pub struct Began {
    bytes: i64,
    blobs: i64,
}

impl Usage {
    pub fn new(metrics: Arc<Metrics>) -> Usage {
        Usage { accounts: RwLock::default(), metrics }
    }

    pub fn account(&self, tenant: &Tenant) -> Arc<Account> {
        let known = self.accounts.read().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned();
        known.unwrap_or_else(|| {
            let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
            let account = accounts
                .entry(tenant.clone())
                .or_insert_with(|| Arc::new(Account::new(self.metrics.tenants.of(tenant), tenant.is_scope())));
            account.clone()
        })
    }

    /// All accounts there are, by name.
    pub fn accounts(&self) -> Vec<(Tenant, Arc<Account>)> {
        let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
        accounts.iter().map(|(tenant, account)| (tenant.clone(), account.clone())).collect()
    }

    /// To be called before the tenants of the store are listed, for [`Usage::keep`] behind it.
    pub(crate) fn begin_scan(&self) -> Vec<(Tenant, Began)> {
        self.accounts().into_iter().map(|(tenant, account)| (tenant, account.begin_scan())).collect()
    }

    /// Empties the accounts of tenants that the store does not have any more, but for what has changed since. Those of scopes
    /// go when nobody uses them: there is one for each pull request.
    pub(crate) fn keep(&self, found: &[Tenant], known: Vec<(Tenant, Began)>) {
        for (tenant, began) in known.into_iter().filter(|(tenant, _)| !found.contains(tenant)) {
            let empty = Scanned { at: jiff::Timestamp::now(), ..Scanned::default() };
            self.account(&tenant).set_scanned(began, empty);
        }
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        accounts.retain(|tenant, account| {
            !tenant.is_scope() || found.contains(tenant) || account.stored() > 0 || Arc::strong_count(account) > 1
        });
    }
}

impl Account {
    fn new(counted: Arc<TenantMetrics>, is_scope: bool) -> Account {
        Account {
            base: Count::default(),
            changed: Count::default(),
            condemned: AtomicU64::default(),
            arriving: AtomicU64::default(),
            scanned: Mutex::default(),
            counted,
            is_scope,
        }
    }

    /// Bytes in the store.
    pub fn stored(&self) -> u64 {
        sum(&self.base.bytes, &self.changed.bytes)
    }

    /// Blobs in the store.
    pub fn blobs(&self) -> u64 {
        sum(&self.base.blobs, &self.changed.blobs)
    }

    /// Bytes that stay: what is about to be deleted counts for no quota.
    pub fn live(&self) -> u64 {
        self.stored().saturating_sub(self.condemned.load(Relaxed))
    }

    /// Bytes announced by uploads under way.
    pub fn arriving(&self) -> u64 {
        self.arriving.load(Relaxed)
    }

    /// What the last scan found.
    pub fn scanned(&self) -> Option<Scanned> {
        self.scanned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When the last scan was through, and what the tags that it found would take if nothing were shared.
    pub fn counted(&self) -> Option<(jiff::Timestamp, u64)> {
        let scanned = self.scanned.lock().unwrap_or_else(PoisonError::into_inner);
        scanned.as_ref().map(|scanned| (scanned.at, scanned.named_bytes))
    }

    /// What the last scan found of one repository.
    pub fn counted_repo(&self, repo: &str) -> Option<RepoUsage> {
        let scanned = self.scanned.lock().unwrap_or_else(PoisonError::into_inner);
        scanned.as_ref()?.repositories.get(repo).copied()
    }

    /// A blob was stored.
    pub fn added(&self, bytes: u64) {
        self.change(signed(bytes), 1);
    }

    /// Somebody sent a blob that was stored.
    pub(crate) fn received(&self, bytes: u64) {
        self.added(bytes);
        self.counted.stored_new_bytes.inc_by(bytes);
    }

    /// A blob was deleted.
    pub fn removed(&self, bytes: u64) {
        self.change(-signed(bytes), -1);
    }

    /// Bytes were staged by a chunked upload, or removed again.
    pub(crate) fn staged(&self, bytes: i64) {
        self.change(bytes, 0);
    }

    fn change(&self, bytes: i64, blobs: i64) {
        self.changed.bytes.fetch_add(bytes, Relaxed);
        self.changed.blobs.fetch_add(blobs, Relaxed);
        self.show();
    }

    pub(crate) fn announce(&self, bytes: u64) {
        self.arriving.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn arrived(&self, bytes: u64) {
        self.arriving.fetch_sub(bytes, Relaxed);
    }

    /// How many of the stored bytes are about to be deleted.
    pub fn set_condemned(&self, bytes: u64) {
        self.condemned.store(bytes, Relaxed);
        if let Some(gauges) = self.gauges() {
            gauges.condemned_bytes.set(signed(bytes));
        }
    }

    /// To be called before a scan, for [`Account::set_scanned`] behind it.
    pub fn begin_scan(&self) -> Began {
        Began { bytes: self.changed.bytes.load(Relaxed), blobs: self.changed.blobs.load(Relaxed) }
    }

    /// Replaces the account by what was found, with what has changed since.
    pub fn set_scanned(&self, began: Began, found: Scanned) {
        self.base.bytes.store(signed(found.bytes) - began.bytes, Relaxed);
        self.base.blobs.store(signed(found.blobs) - began.blobs, Relaxed);
        if let Some(gauges) = self.gauges() {
            let tags = found.repositories.values().map(|repo| repo.tags).sum();
            gauges.tags.set(signed(tags));
            gauges.repositories.set(signed(found.repositories.len() as u64));
            gauges.named_bytes.set(signed(found.named_bytes));
            gauges.counted_at.set(found.at.as_second());
        }
        *self.scanned.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        self.show();
    }

    fn gauges(&self) -> Option<&TenantMetrics> {
        (!self.is_scope).then_some(&*self.counted)
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

impl Store {
    /// What each tenant stores.
    pub fn usage(&self) -> &Usage {
        &self.room.usage
    }
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
            usage.account(tenant).added(7);
        }
        let (known, held) = (usage.begin_scan(), usage.account(&used));
        usage.account(&written).added(5);
        usage.keep(&[], known);
        let left: Vec<(Tenant, u64)> =
            usage.accounts().iter().map(|(of, account)| (of.clone(), account.stored())).collect();
        let mut expected = [(tenant.clone(), 0), (used.clone(), 0), (written.clone(), 5)];
        expected.sort();
        assert_eq!(left, expected);
        held.announce(3);
        assert_eq!(usage.account(&used).arriving(), 3);
    }

    #[test]
    fn a_scan_corrects_an_account_and_keeps_what_has_changed_since() {
        let metrics = Arc::new(Metrics::default());
        let usage = Usage::new(metrics.clone());
        let account = usage.account(&Tenant::default_tenant());
        account.added(10);
        account.added(10);
        let began = account.begin_scan();
        account.added(5);
        account.set_scanned(began, Scanned { bytes: 100, blobs: 7, ..Scanned::default() });
        assert_eq!((account.stored(), account.blobs()), (105, 8));
        account.removed(100);
        account.removed(100);
        assert_eq!((account.stored(), account.blobs()), (0, 6));
        account.added(200);
        account.set_condemned(50);
        assert_eq!((account.stored(), account.live()), (105, 55));
        assert!(metrics.render().contains("larder_stored_bytes{tenant=\"default\"} 105"));
    }
}
