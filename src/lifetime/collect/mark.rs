//! What is named, and by whom: one pass over the lists of the store and over the manifests that are not known yet.

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

/// Objects listed between two looks at the clock that throttles.
const THROTTLE_STEP: u64 = 1000;

/// What becomes of a root.
#[derive(Clone, Copy)]
enum Fate {
    Stays,
    /// By this decision, when the report has it.
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

/// What leads to content.
#[derive(Clone, Copy)]
enum NamedBy<'a> {
    /// A root, and what becomes of it.
    Root(&'a Root, Fate),
    /// Nothing as yet: manifests that were pushed by digest a while ago at most.
    Young,
}

impl NamedBy<'_> {
    fn fate(self) -> Fate {
        match self {
            NamedBy::Root(_, fate) => fate,
            NamedBy::Young => Fate::Stays,
        }
    }

    /// When content was last pushed, as far as that counts against making room.
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

/// A layer that makes room: there may be a million of them.
#[derive(Clone, Copy)]
struct EvictedLayer {
    /// The place of a root that names it in [`Mark::evicted_from`].
    root: u32,
    /// Since it was used.
    seconds: u64,
}

/// What something names that is there.
#[derive(Clone, Copy)]
struct Live {
    /// Named by something that no policy lets go.
    stays: bool,
    /// Else the first decision because of which it goes.
    decision: Option<DecisionId>,
}

impl Live {
    fn merge(&mut self, other: Live) {
        self.stays |= other.stays;
        self.decision = self.decision.or(other.decision);
    }

    /// Because of which decision it goes.
    fn goes_by(&self) -> Option<DecisionId> {
        self.decision.filter(|_| !self.stays)
    }
}

/// A mark under way, and what it found.
pub(super) struct Mark<'a> {
    collector: &'a Collector,
    /// The configuration whose policies decide.
    policies: &'a Config,
    now: SystemTime,
    /// The disk needs room soon.
    low: bool,
    known: Arc<Snapshot>,
    /// By the fingerprint of the key.
    live: HashMap<u64, Live>,
    /// When something was last pushed that names what is about to be evicted.
    watched: HashMap<u64, SystemTime>,
    evicted_layers: HashMap<u64, EvictedLayer>,
    /// Roots that name them.
    evicted_from: Vec<RootId>,
    /// What tenants with a limit hold: listed before the choice of what goes, and kept until that is condemned.
    held: HashMap<Tenant, BlobInventory>,
    garbage: Vec<Candidate>,
    /// Roots that go: the keys of each, its own first.
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

    /// Whether anything names what has this key.
    pub fn names(&self, key: &str) -> bool {
        self.live.contains_key(&fingerprint(key))
    }

    /// Whether anything that was written since then names it.
    pub fn named_since(&self, key: &str, since: SystemTime) -> bool {
        self.watched.get(&fingerprint(key)).is_some_and(|at| *at >= since)
    }

    pub fn take_garbage(&mut self) -> Vec<Candidate> {
        std::mem::take(&mut self.garbage)
    }

    pub fn take_evicted(&mut self) -> Vec<Vec<Candidate>> {
        std::mem::take(&mut self.evicted)
    }

    /// Notes about roots that are gone.
    pub fn take_hints(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.hints)
    }

    /// Marks what the repositories of a tenant name, and decides what of them goes.
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
        // What stays first: what is named by both stays.
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

    /// Marks a root and what it leads to. Returns the manifests among that.
    async fn mark_root(&mut self, repo: &RepoListing, root: &Root, fate: Fate) -> Result<Vec<Digest>> {
        root.keys().for_each(|(key, _)| self.mark(key.as_str(), fate));
        if let Some(own) = &root.own {
            self.mark_blobs(own, NamedBy::Root(root, fate).pushed(repo, None, own, self.now), fate);
        }
        self.mark_closure(repo, &root.manifests, NamedBy::Root(root, fate)).await
    }

    /// Manifests that were pushed by digest a while ago at most: what names them may still come.
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

    /// What of a repository nothing names that stays.
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
        // Notes: who misses one makes it again.
        let stray = roots::stray_notes(repo).into_iter();
        self.hints
            .extend(stray.filter(|(_, used)| used.is_none_or(|at| passed(at, self.now, wait))).map(|(key, _)| key));
    }

    /// Condemns the blobs of a tenant that nothing names, and what was chosen of them.
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

/// Holds a walk to so many objects a second.
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
