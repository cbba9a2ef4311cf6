//! The collector: deletes unreferenced objects, and those selected for eviction, while builds run.
//!
//! There is no lock, no leader and no read-only mode. Any number of servers may collect at once, and each of them may
//! stop at any point, for any time or for ever.
//!
//! # A collection
//!
//! 1. It writes an object and reads its modification time: the beginning, T. Every time here is the backend's.
//! 2. It reads all references: tags, push records, views, young manifests, and their closure (`mark`).
//! 3. It publishes in batches the unreferenced objects that are old enough, and those that policies select (`policy`).
//!    A batch is a write-once list; C is the list's own modification time. The age of an object is only a reason to
//!    condemn it: so the blobs of some tenants may be listed before the mark.
//! 4. A batch whose list is as old as the wait W at T is judged by this mark, which began after that: objects that are
//!    referenced now stay. An object selected for eviction stays if a reference to it was written since C − X.
//! 5. It claims the batch: a create that fails if a claim exists. There is one claim of a batch, ever.
//! 6. It lists the batch. If the list is gone, another collector has been here: it removes its own claim. Spared
//!    objects stay.
//! 7. It deletes the rest by one request dated at its claim, which the backend refuses if it arrives late.
//! 8. If that was answered, it removes the list and the spares, then the claim. If not, it leaves everything: once the
//!    claim is older than any late request may be, any collector removes it in the same order, deleting nothing else.
//!
//! # Why no answer is broken
//!
//! A server that answers a client pins a snapshot of the lists, dated at the moment before its read began, and gives
//! the answer only while the snapshot is at most X old ([`crate::content::condemned`]). Take an answer at A that says
//! that an object exists.
//!
//! *The snapshot did not list it.* Then the list came later: C > A − X, and the object stays until C + W > A + W − X.
//! The client has that long to push a reference to it. A manifest that was accepted at A by such a server is in the
//! store by C + X, and the mark of step 4 begins after C + W: it sees the manifest. The order of writes is content,
//! record, pointer: a mark that sees the pointer finds what it references.
//!
//! *The snapshot listed it.* Then the server wrote a spare before it listed the batch, and the collector wrote its
//! claim before it listed the batch. Both orders of the two lists are harmless:
//!
//! ```text
//! collector: claim        list -> spare: stays       server: spare   list -> claim: waits until it is gone
//! ```
//!
//! Or the batch was claimed, deleted and cleared before the spare was written. Then the server's list shows neither
//! spare nor claim, and only the object itself tells: so the server looks it up after the list, and not in its memory.
//!
//! *Its memory* of existing objects loses every object of a new snapshot, and all objects if there was no snapshot for
//! X: a batch may have come and gone unseen.
//!
//! *Between judging and deleting* the collector may stop for any time. From C + X on, a server that begins to rely on
//! the object knows of the batch and leaves a spare, so "unreferenced and not spared" stays true once it is.
//!
//! *Two collectors* cannot both delete a batch: there is one claim. If the claim were removed before the list, a second
//! collector could claim a deleted batch, and delete objects that were written since. A live batch, too, is cleared
//! under a claim only: otherwise the collector that decided so might remove the list while another one deletes.
//!
//! *A delete that was sent* cannot be called back, and a writer that finds no claim will not look again. So the claim
//! stays for as long as the backend may still do the delete, and the date of the request bounds that.
//!
//! *Leases.* The content that a tag referenced when it was served stays for the lease, even if the tag is replaced or
//! deleted: every answer uses a snapshot that is at most X old, and W is at least the lease and X.
//!
//! # Tags
//!
//! A tag that expires by a policy is condemned like all objects: its pointer and its push records, in a batch of their
//! own, and at the same time, as garbage, the content that only they reference. The pointers of due batches are deleted
//! first; then the mark is made. So the content of a tag is deleted only when the tag is gone, and serving the tag or
//! pushing to it before spares all of it. If another collector has claimed the batch of the pointer, and stopped, then
//! the mark sees the tag, and the content of an image that still has its tag stays.
//!
//! A tag that belongs to a manifest, as a signature does, is condemned as garbage together with that manifest, and
//! judged like it after the mark (`mark/subjects`). The content that such a tag references stays until the tag is gone.
//!
//! # Assumptions
//!
//! A request other than a delete is refused when its signature is 15 minutes old, so no write lands later than that;
//! between the check of the snapshot's age and the signature of a tag's PUT no time is assumed to pass. A backend that
//! executes a request later than it accepted it, by more than [`crate::content::condemned::CLAIM_SLACK`], breaks the
//! argument.

mod batches;
mod mark;
pub mod policy;
mod staged;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prometheus::IntGauge;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::calls::Calls;
use crate::config::Config;
use crate::content::condemned::{CondemnedKind, ListedBatch, list_batches};
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::events::{Event, EvictedSum, Eviction, Rule};
use crate::layout;
use crate::names::{BatchId, Tenant};
use crate::objects::Key;
use crate::refs::Refs;
use crate::refs::graph::ManifestGraph;
use batches::{Batch, Publisher};
use mark::Mark;

/// Maximum number of decisions in a report. A store without free space may evict a million layers.
pub const DECISIONS_MAX: usize = 10_000;

/// The collector of one store. Any number of them may run, in any number of processes.
pub struct Collector {
    refs: Refs,
    /// References of manifests, remembered from one collection to the next.
    graph: ManifestGraph,
    /// Held during a collection: one at a time in this process.
    running: tokio::sync::Mutex<()>,
    last: Mutex<Option<Arc<Report>>>,
}

/// Options of a collection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// Report the objects that would be condemned, and change nothing.
    pub dry: bool,
}

/// Result of a collection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    pub dry: bool,
    /// Beginning, by the backend's clock.
    pub began: Option<jiff::Timestamp>,
    pub seconds: f64,
    /// Number of listed objects.
    pub objects: u64,
    /// Number of manifests and pointers that were read.
    pub reads: u64,
    pub tenants: BTreeMap<String, TenantReport>,
    /// Newly condemned objects.
    pub condemned: Sum,
    /// Objects deleted from due batches.
    pub deleted: Sum,
    /// Objects of due batches that stay: referenced again, or relied on.
    pub kept: u64,
    pub spared: u64,
    /// Batches that another collector has claimed, that are not due, or whose delete was not answered.
    pub batches_left: u64,
    /// Tags and layers removed by each rule, and the bytes that are freed with them.
    pub going: BTreeMap<Rule, Sum>,
    /// The first [`DECISIONS_MAX`] decisions.
    pub decisions: Vec<policy::Decision>,
    /// The part of `going` that no earlier collection has condemned.
    #[serde(skip)]
    fresh: BTreeMap<(Tenant, Rule), Sum>,
    /// The reason why the collection did not run.
    pub skipped: Option<String>,
}

/// Position of a decision in [`Report::decisions`], from 1 on.
#[derive(Clone, Copy)]
struct DecisionId(NonZeroU32);

/// Counts of one tenant in a collection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TenantReport {
    pub tags: u64,
    pub manifests: u64,
    pub blobs: Sum,
    /// Blobs referenced by a root that stays.
    pub live: Sum,
    /// Unreferenced blobs too young to be condemned.
    pub young: Sum,
    /// Excess of the tenant over its limit, and why it was not evicted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shortfall: Option<policy::Shortfall>,
}

/// Number of objects, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    pub objects: u64,
    pub bytes: u64,
}

impl Sum {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

impl Report {
    /// Counts a removal by a rule. Returns the position of its decision, if the report has it. `bytes` are those of a
    /// layer.
    fn decide(
        &mut self,
        tenant: &Tenant,
        rule: Rule,
        bytes: u64,
        known: bool,
        why: impl FnOnce() -> policy::Decision,
    ) -> Option<DecisionId> {
        self.going.entry(rule).or_default().add(bytes);
        if !known {
            self.fresh.entry((tenant.clone(), rule)).or_default().add(bytes);
        }
        if self.decisions.len() >= DECISIONS_MAX {
            return None;
        }
        self.decisions.push(why());
        NonZeroU32::new(self.decisions.len() as u32).map(DecisionId)
    }

    /// Counts an object that is freed by a decision about a root.
    fn add_freed(&mut self, tenant: &Tenant, decision: DecisionId, bytes: u64) {
        let Some(decision) = self.decisions.get_mut(decision.0.get() as usize - 1) else { return };
        decision.bytes += bytes;
        let rule = decision.reason.rule();
        self.going.entry(rule).or_default().bytes += bytes;
        if !decision.known {
            self.fresh.entry((tenant.clone(), rule)).or_default().bytes += bytes;
        }
    }
}

impl Collector {
    pub fn new(refs: Refs) -> Collector {
        let graph = ManifestGraph::new(&refs);
        Collector { refs, graph, running: tokio::sync::Mutex::new(()), last: Mutex::default() }
    }

    /// Report of the last collection of this process.
    pub fn last(&self) -> Option<Arc<Report>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Clears the claims of a process that died while it deleted, if none of its requests can be in flight. Runs before
    /// the first answer, so that no request waits for those claims.
    pub async fn recover(&self) -> Result<()> {
        if self.refs.objects().fence().is_some_and(|fence| fence.dies_with_process) {
            for (id, batch) in self.list().await? {
                if batch.claim.is_some() {
                    self.clear(&id, &batch).await?;
                }
            }
        }
        Ok(())
    }

    /// Runs one collection.
    pub async fn run(&self, wish: Wish) -> Result<Arc<Report>> {
        self.run_by(wish, self.refs.config()).await
    }

    /// Says what a collection would condemn by the policies of another configuration. Changes nothing.
    pub async fn try_policies(&self, policies: &Config) -> Result<Arc<Report>> {
        self.run_by(Wish { dry: true }, policies).await
    }

    async fn run_by(&self, wish: Wish, policies: &Config) -> Result<Arc<Report>> {
        let _turn = self.running.lock().await;
        let _shown = InProgress::new(&self.refs.metrics().collecting);
        let began = Instant::now();
        let mut report = Report { dry: wish.dry, ..Report::default() };
        if let Some(reason) = self.reason_not_to_delete()
            && !wish.dry
        {
            report.skipped = Some(reason);
        } else {
            let failed = |_: &Error| self.refs.metrics().collections_failed.inc_by(u64::from(!wish.dry));
            self.collect(wish, policies, &mut report).await.inspect_err(failed)?;
        }
        report.seconds = began.elapsed().as_secs_f64();
        self.count(&report);
        self.tell_accounts(&report);
        let report = Arc::new(report);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(report.clone());
        Ok(report)
    }

    fn reason_not_to_delete(&self) -> Option<String> {
        if let Err(left_behind) = self.refs.content().format().may_change() {
            return Some(left_behind.to_string());
        }
        let allowed = self.refs.objects().fence().is_some() || self.refs.config().collect.without_fence;
        let reason = "the bucket does not refuse late requests or conditional creates; with exactly one collecting server, \
                      set [collect] without_fence = true";
        (!allowed).then(|| reason.to_string())
    }

    async fn collect(&self, wish: Wish, policies: &Config, report: &mut Report) -> Result<()> {
        let config = &self.refs.config().collect;
        // Before the usage of tenants is judged: condemned objects do not count.
        self.refs.condemned().snapshot(Deadline::of_each_call()).await?;
        let mut low = self.refs.room().is_low();
        let now = if wish.dry { SystemTime::now() } else { self.now().await? };
        report.began = jiff::Timestamp::try_from(now).ok();
        if !wish.dry && self.refs.room().is_low_for_scopes() && self.drop_uploads_of_scopes(now).await? > 0 {
            low = self.refs.room().is_low();
        }
        self.graph.take_reads();
        let mut due = Vec::new();
        if !wish.dry {
            due = self.due(now, low, report).await?;
        }
        // Roots first, then the mark, then the content of the roots.
        let (of_roots, content): (Vec<Batch>, Vec<Batch>) = due.into_iter().partition(Batch::is_of_roots);
        for batch in of_roots {
            let keep = self.roots_in_use(&batch).await?;
            self.settle(batch, keep, report).await?;
        }
        let pin = self.refs.condemned().refresh(Deadline::of_each_call()).await?;
        let mut mark = Mark::new((self, policies), now, low, &content, pin.clone());
        let tenants = self.refs.tenants().await?;
        for tenant in &tenants {
            mark.tenant(tenant, report).await?;
        }
        for batch in content {
            let keep = batch.kept_by(&mark, config);
            self.settle(batch, keep, report).await?;
        }
        let mut publisher = Publisher::new(self, now, wish.dry, pin);
        for candidate in mark.take_garbage() {
            publisher.add(CondemnedKind::Garbage, candidate, report).await?;
        }
        for keys in mark.take_evicted() {
            publisher.add_root(keys, report).await?;
        }
        publisher.flush().await?;
        for tenant in &tenants {
            mark.blobs(tenant, &mut publisher, report).await?;
        }
        publisher.flush().await?;
        if !wish.dry {
            let hints = mark.take_hints();
            if !hints.is_empty() {
                self.refs.content().format().confirm().await?;
                self.refs.content().delete(&hints, Deadline::of_each_call()).await?;
            }
            self.refs.condemned().refresh(Deadline::of_each_call()).await?;
        }
        Ok(())
    }

    /// How long what a tenant has must have been of no use before it is condemned, and must have been condemned before it
    /// is deleted: the shortest time that is allowed while the tenant holds too much, or the disk is short of room.
    pub fn wait(&self, tenant: &Tenant, disk_is_low: bool) -> Duration {
        self.refs.config().collect.wait(disk_is_low || self.refs.room().is_over(tenant))
    }

    /// Reads the backend's time.
    async fn now(&self) -> Result<SystemTime> {
        let (key, calls) = (layout::clock(), Calls::of(&**self.refs.objects()));
        calls.put(&key, Bytes::new()).await?;
        let written = calls.head(&key).await?.ok_or_else(|| Error::Internal("the clock object is missing".into()))?;
        self.refs.content().clock().set(written.modified);
        Ok(written.modified)
    }

    async fn list(&self) -> Result<BTreeMap<BatchId, ListedBatch>> {
        self.list_below(layout::CONDEMNED).await
    }

    async fn list_below(&self, prefix: &str) -> Result<BTreeMap<BatchId, ListedBatch>> {
        let objects = self.refs.objects();
        Ok(Deadline::of_each_call().retry(|| list_batches(&**objects, prefix)).await?)
    }

    fn count(&self, report: &Report) {
        let metrics = self.refs.metrics();
        if report.dry {
            return;
        }
        if report.skipped.is_some() {
            metrics.collections_skipped.inc();
            return;
        }
        metrics.collections.inc();
        metrics.collection_seconds.observe(report.seconds);
        metrics.collection_last.set(report.began.map_or(0, jiff::Timestamp::as_second));
        metrics.condemned_objects.inc_by(report.condemned.objects);
        metrics.condemned_bytes.inc_by(report.condemned.bytes);
        metrics.deleted_objects.inc_by(report.deleted.objects);
        metrics.deleted_bytes.inc_by(report.deleted.bytes);
        metrics.spared_objects.inc_by(report.spared + report.kept);
        self.tell_evictions(report);
    }

    /// Stores the time of the next possible eviction in each account: refused uploads tell it.
    fn tell_accounts(&self, report: &Report) {
        if report.dry || report.skipped.is_some() {
            return;
        }
        for (tenant, found) in &report.tenants {
            if let Ok(tenant) = tenant.parse() {
                let next = found.shortfall.as_ref().and_then(|shortfall| shortfall.next);
                self.refs.usage().account(&tenant).set_next_eviction(next);
            }
        }
    }

    fn tell_evictions(&self, report: &Report) {
        let sum = |((tenant, rule), sum): (&(Tenant, Rule), &Sum)| EvictedSum {
            tenant: tenant.clone(),
            rule: *rule,
            count: sum.objects,
            bytes: sum.bytes,
        };
        let eviction = |decision: &policy::Decision| {
            Some(Eviction {
                at: report.began.unwrap_or_default(),
                tenant: decision.tenant.parse().ok()?,
                repo: decision.repo.clone(),
                tag: decision.tag.clone(),
                layer: decision.layer.clone(),
                bytes: decision.bytes,
                reason: decision.why.clone(),
            })
        };
        let sums: Vec<EvictedSum> = report.fresh.iter().map(sum).collect();
        if sums.is_empty() {
            return;
        }
        let fresh = report.decisions.iter().filter(|decision| !decision.known);
        let which: Vec<Eviction> = fresh.filter_map(eviction).collect();
        self.refs.events().emit(Event::Evicted { sums: &sums, which: &which });
    }
}

/// A run of the collector that a gauge counts until it is dropped.
struct InProgress<'a>(&'a IntGauge);

impl InProgress<'_> {
    fn new(gauge: &IntGauge) -> InProgress<'_> {
        gauge.inc();
        InProgress(gauge)
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Tells whether two of the backend's times are at least `span` apart.
fn passed(from: SystemTime, to: SystemTime, span: Duration) -> bool {
    to.duration_since(from).is_ok_and(|age| age >= span)
}

/// An object that may be condemned.
struct Candidate {
    key: Key,
    bytes: u64,
}
