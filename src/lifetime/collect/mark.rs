//! The mark: one pass over the lists of the store, and over the manifests whose references are not known yet.

mod blobs;
mod decide;
mod room;
mod subjects;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;

use crate::capacity::usage::weight;
use crate::config::Config;
use crate::content::condemned::{CondemnedKind, Snapshot, fingerprint};
use crate::digest::Digest;
use crate::error::Result;
use crate::layout;
use crate::layout::Place;
use crate::lifetime::collect::batches::{Batch, Publisher};
use crate::lifetime::collect::policy::{Decision, Reason};
use crate::lifetime::collect::{Candidate, Collector, DecisionId, Report, passed};
use crate::names::{RepoName, Tenant};
use crate::objects::Key;
use crate::refs::graph::ContentNames;
use crate::refs::listing::{RepoListing, walk};
use crate::refs::root::{Root, RootId};
use crate::refs::roots;
use blobs::BlobInventory;

/// Number of listed objects between two checks of the throttle.
const THROTTLE_STEP: u64 = 1000;

/// Outcome of a collection for a root.
#[derive(Clone, Copy)]
enum Fate {
    Stays,
    /// Condemned by this decision, if the report has it.
    Goes(Option<DecisionId>),
}

impl Fate {
    fn live(self) -> Live {
        match self {
            Fate::Stays => Live { stays: true, decision: None },
            Fate::Goes(decision) => Live { stays: false, decision },
        }
    }
}

/// The origin of a reference to content.
#[derive(Clone, Copy)]
enum NamedBy<'a> {
    /// A root, and its outcome.
    Root(&'a Root, Fate),
    /// No root as yet: manifests that were pushed by digest a short time ago.
    Young,
}

impl NamedBy<'_> {
    fn fate(self) -> Fate {
        match self {
            NamedBy::Root(_, fate) => fate,
            NamedBy::Young => Fate::Stays,
        }
    }

    /// Time of the last push of the content, if it counts against eviction.
    fn pushed(
        self,
        repo: &RepoListing,
        digest: Option<&Digest>,
        node: &ContentNames,
        now: SystemTime,
    ) -> Option<SystemTime> {
        match self {
            NamedBy::Root(root, _) => root.pushed_for_room(digest, node, now),
            NamedBy::Young if node.cache => None,
            NamedBy::Young => repo.manifests.get(digest?).map(|written| written.at),
        }
    }
}

/// A layer selected for eviction: there may be a million of them.
#[derive(Clone, Copy)]
struct EvictedLayer {
    /// Position in [`Mark::evicted_from`] of a root that references it.
    root: u32,
    /// Time since its last use, in seconds.
    seconds: u64,
}

/// References to an object.
#[derive(Clone, Copy)]
struct Live {
    /// Referenced by a root that stays.
    stays: bool,
    /// Otherwise the first decision by which the object is condemned.
    decision: Option<DecisionId>,
}

impl Live {
    fn merge(&mut self, other: Live) {
        self.stays |= other.stays;
        self.decision = self.decision.or(other.decision);
    }

    /// The decision by which the object is condemned.
    fn goes_by(&self) -> Option<DecisionId> {
        self.decision.filter(|_| !self.stays)
    }
}

/// A running mark and its results.
pub(super) struct Mark<'a> {
    collector: &'a Collector,
    /// The configuration whose policies decide.
    policies: &'a Config,
    now: SystemTime,
    /// Set if the disk has little free space.
    low: bool,
    known: Arc<Snapshot>,
    /// Referenced objects, by the fingerprint of the key.
    live: HashMap<u64, Live>,
    /// Time of the last push of a reference to each object of the due batches of evictions.
    watched: HashMap<u64, SystemTime>,
    evicted_layers: HashMap<u64, EvictedLayer>,
    /// Roots that reference the evicted layers.
    evicted_from: Vec<RootId>,
    /// Blobs of tenants with a limit: listed before the choice of evictions, and kept until they are condemned.
    held: HashMap<Tenant, BlobInventory>,
    garbage: Vec<Candidate>,
    /// Condemned roots: the keys of each, its own first.
    evicted: Vec<Vec<Candidate>>,
    hints: Vec<Key>,
    throttle: Throttle,
}

impl<'a> Mark<'a> {
    pub fn new(
        (collector, policies): (&'a Collector, &'a Config),
        now: SystemTime,
        low: bool,
        due: &[Batch],
        known: Arc<Snapshot>,
    ) -> Mark<'a> {
        let evicted =
            due.iter().filter(|batch| batch.list.kind == CondemnedKind::Evict).flat_map(|batch| &batch.list.keys);
        let watched = evicted.map(|key| (fingerprint(key), SystemTime::UNIX_EPOCH)).collect();
        Mark {
            collector,
            policies,
            now,
            low,
            known,
            live: HashMap::new(),
            watched,
            evicted_layers: HashMap::new(),
            evicted_from: Vec::new(),
            held: HashMap::new(),
            garbage: Vec::new(),
            evicted: Vec::new(),
            hints: Vec::new(),
            throttle: Throttle::new(collector.refs.config().collect.objects_per_second),
        }
    }

    /// Tells whether the object of this key is referenced.
    pub fn names(&self, key: &str) -> bool {
        self.live.contains_key(&fingerprint(key))
    }

    /// Tells whether a reference to the object was pushed at `since` or later.
    pub fn named_since(&self, key: &str, since: SystemTime) -> bool {
        self.watched.get(&fingerprint(key)).is_some_and(|at| *at >= since)
    }

    pub fn take_garbage(&mut self) -> Vec<Candidate> {
        std::mem::take(&mut self.garbage)
    }

    pub fn take_evicted(&mut self) -> Vec<Vec<Candidate>> {
        std::mem::take(&mut self.evicted)
    }

    /// Notes about roots that no longer exist.
    pub fn take_hints(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.hints)
    }

    /// Marks the references of a tenant's repositories, and decides which of its roots are condemned.
    pub async fn tenant(&mut self, tenant: &Tenant, report: &mut Report) -> Result<()> {
        let collector = self.collector;
        let mut repos = BTreeMap::<RepoName, RepoListing>::new();
        let mut listed = walk(&**collector.refs.objects(), &layout::repos_prefix(tenant));
        let mut bytes = 0_u64;
        while let Some((place, meta)) = listed.try_next().await? {
            report.objects += 1;
            self.throttle.step().await;
            if let Some(place) = place.as_ref().filter(|_| !self.known.has(&meta.key)) {
                bytes = bytes.saturating_add(weight(place, meta.size));
            }
            if let Some(Place::Repo { repo, item, .. }) = place {
                let listing = repos.entry(repo.clone()).or_insert_with(|| RepoListing::new(tenant, repo));
                listing.add(item, meta);
            }
        }
        let mut roots = Vec::new();
        for repo in repos.values() {
            let found = report.tenants.entry(tenant.to_string()).or_default();
            found.tags += repo.tags.len() as u64;
            found.manifests += repo.manifests.len() as u64;
            roots.extend(roots::roots(&collector.graph, repo).await?);
        }
        for root in &mut roots {
            root.subject = self.subject(&repos[&root.id.repo], root).await?;
        }
        let gone = self.decide(tenant, (&repos, bytes), &mut roots, report).await?;
        // Roots that stay first: an object that both kinds reference stays.
        for (at, root) in roots.iter().enumerate() {
            if !gone.contains_key(&at) && root.subject.is_none() {
                self.mark_root(&repos[&root.id.repo], root, Fate::Stays).await?;
            }
        }
        for repo in repos.values() {
            self.mark_closure(repo, &self.young(repo), NamedBy::Young).await?;
        }
        self.mark_with_subjects(tenant, &repos, &roots, &gone, report).await?;
        for (at, decision) in &gone {
            let root = &roots[*at];
            self.mark_root(&repos[&root.id.repo], root, Fate::Goes(*decision)).await?;
        }
        repos.values().for_each(|repo| self.sweep(repo, report));
        report.reads += collector.graph.take_reads();
        Ok(())
    }

    /// Marks a root and its closure. Returns the manifests of the closure.
    async fn mark_root(&mut self, repo: &RepoListing, root: &Root, fate: Fate) -> Result<Vec<Digest>> {
        root.keys().for_each(|(key, _)| self.mark(key.as_str(), fate));
        if let Some(own) = &root.own {
            self.mark_blobs(own, NamedBy::Root(root, fate).pushed(repo, None, own, self.now), fate);
        }
        self.mark_closure(repo, &root.manifests, NamedBy::Root(root, fate)).await
    }

    /// Manifests that were pushed by digest a short time ago: a reference to them may still come.
    fn young(&self, repo: &RepoListing) -> Vec<Digest> {
        let config = &self.collector.refs.config().collect;
        let wait = self.collector.wait(&repo.tenant, self.low);
        let young = wait + config.lease.get().min(wait);
        let manifests = repo.manifests.iter().filter(|(_, written)| !passed(written.at, self.now, young));
        manifests.map(|(digest, _)| *digest).collect()
    }

    async fn mark_closure(&mut self, repo: &RepoListing, from: &[Digest], by: NamedBy<'_>) -> Result<Vec<Digest>> {
        let mut found = Vec::new();
        let visit = |digest: &Digest, node: &Arc<ContentNames>| found.push((*digest, node.clone()));
        self.collector.graph.closure(repo, from, visit).await?;
        let (fate, mut reached) = (by.fate(), Vec::with_capacity(found.len()));
        for (digest, node) in found {
            reached.push(digest);
            self.mark(repo.manifest_key(&digest).as_str(), fate);
            if let Some(subject) = &node.subject {
                self.mark(repo.referrer_key(subject, &digest).as_str(), fate);
            }
            for referrer in repo.referrers_of(&digest) {
                self.mark(repo.referrer_key(&digest, &referrer).as_str(), fate);
            }
            self.mark_blobs(&node, by.pushed(repo, Some(&digest), &node, self.now), fate);
        }
        Ok(reached)
    }

    fn mark_blobs(&mut self, node: &ContentNames, pushed: Option<SystemTime>, fate: Fate) {
        for id in &node.blobs {
            self.live.entry(*id).or_insert(fate.live()).merge(fate.live());
            if let (Some(at), Some(newest)) = (pushed, self.watched.get_mut(id)) {
                *newest = at.max(*newest);
            }
        }
    }

    fn mark(&mut self, key: &str, fate: Fate) {
        self.live.entry(fingerprint(key)).or_insert(fate.live()).merge(fate.live());
    }

    /// Adds the unreferenced objects of a repository to the garbage.
    fn sweep(&mut self, repo: &RepoListing, report: &mut Report) {
        let wait = self.collector.wait(&repo.tenant, self.low);
        for (key, written) in roots::nameable(repo) {
            let live = self.live.get(&fingerprint(key.as_str()));
            if let Some(decision) = live.and_then(Live::goes_by) {
                report.add_freed(&repo.tenant, decision, written.bytes);
            }
            if !live.is_some_and(|live| live.stays) && passed(written.at, self.now, wait) {
                self.garbage.push(Candidate { key, bytes: written.bytes });
            }
        }
        // Notes are deleted at once: a server that misses one writes it again.
        let stray = roots::stray_notes(repo).into_iter();
        self.hints
            .extend(stray.filter(|(_, used)| used.is_none_or(|at| passed(at, self.now, wait))).map(|(key, _)| key));
    }

    /// Condemns the unreferenced blobs of a tenant, and those selected for eviction.
    pub async fn blobs(&mut self, tenant: &Tenant, publisher: &mut Publisher<'_>, report: &mut Report) -> Result<()> {
        if let Some(held) = self.held.remove(tenant) {
            for blob in held.iter() {
                let candidate = Candidate { key: layout::blob(tenant, &blob.digest()), bytes: blob.bytes };
                self.judge(tenant, (blob.id, blob.is_old), candidate, publisher, report).await?;
            }
            return Ok(());
        }
        let wait = self.collector.wait(tenant, self.low);
        let mut listed = walk(&**self.collector.refs.objects(), &layout::blobs_prefix(tenant));
        while let Some((place, meta)) = listed.try_next().await? {
            report.objects += 1;
            self.throttle.step().await;
            if matches!(place, Some(Place::Blob { .. })) {
                let blob = (fingerprint(meta.key.as_str()), passed(meta.modified, self.now, wait));
                let candidate = Candidate { key: meta.key, bytes: meta.size };
                self.judge(tenant, blob, candidate, publisher, report).await?;
            }
        }
        Ok(())
    }

    async fn judge(
        &self,
        tenant: &Tenant,
        (id, is_old): (u64, bool),
        blob: Candidate,
        publisher: &mut Publisher<'_>,
        report: &mut Report,
    ) -> Result<()> {
        let live = self.live.get(&id);
        let layer = self.evicted_layers.get(&id);
        if let Some(decision) = live.and_then(Live::goes_by).filter(|_| layer.is_none()) {
            report.add_freed(tenant, decision, blob.bytes);
        }
        let found = report.tenants.entry(tenant.to_string()).or_default();
        found.blobs.add(blob.bytes);
        if let Some(layer) = layer {
            let known = self.known.has_fingerprint(id);
            let reason = Reason::Room { seconds: layer.seconds };
            let _ = report.decide(tenant, reason.rule(), blob.bytes, known, || {
                let root = &self.evicted_from[layer.root as usize];
                let digest = blob.key.as_str().rsplit('/').next().map(str::to_string);
                Decision { layer: digest, bytes: blob.bytes, ..Decision::of(tenant, root, reason, known) }
            });
            publisher.add(CondemnedKind::Evict, blob, report).await
        } else if live.is_some_and(|live| live.stays) {
            found.live.add(blob.bytes);
            Ok(())
        } else if is_old {
            publisher.add(CondemnedKind::Garbage, blob, report).await
        } else {
            found.young.add(blob.bytes);
            Ok(())
        }
    }
}

/// Limits a walk to a number of objects per second.
struct Throttle {
    per_second: u32,
    done: u64,
    began: tokio::time::Instant,
}

impl Throttle {
    fn new(per_second: u32) -> Throttle {
        Throttle { per_second, done: 0, began: tokio::time::Instant::now() }
    }

    async fn step(&mut self) {
        self.done += 1;
        if self.done.is_multiple_of(THROTTLE_STEP) {
            let due = Duration::from_secs_f64(self.done as f64 / f64::from(self.per_second));
            tokio::time::sleep_until(self.began + due).await;
        }
    }
}
