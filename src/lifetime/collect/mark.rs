//! What is named, and by whom: one pass over the lists of the store and over the manifests that are not known yet.

mod decide;
mod held;
mod index;
mod room;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::{StreamExt, TryStreamExt, stream};

use crate::calls::FAN_OUT;
use crate::config::GRAIN;
use crate::content::condemned::{Kind, Snapshot, fingerprint};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout;
use crate::layout::Place;
use crate::lifetime::collect::batches::{Batch, Publisher};
use crate::lifetime::collect::policy::{Decision, Reason};
use crate::lifetime::collect::{Candidate, Collector, Report, passed};
use crate::names::{RepoName, Tag, Tenant};
use crate::objects::Key;
use crate::refs::tags::Pointer;
use held::Held;
use index::Index;
pub(super) use index::Names;

/// Objects listed between two looks at the clock that throttles.
const THROTTLE_STEP: u64 = 1000;

/// What leads to manifests.
#[derive(Clone, Copy)]
enum Namer<'a> {
    /// A tag, and whether it stays.
    Tag(&'a Tag, bool),
    /// Nothing as yet: they were pushed by digest a while ago at most.
    Young,
}

impl Namer<'_> {
    fn stays(self) -> bool {
        !matches!(self, Namer::Tag(_, false))
    }

    /// When a manifest was last pushed, as far as that counts against making room. A cache is pushed by a record, which names
    /// one manifest: views name what they find, and push nothing. Any other tag is pushed by its pointer, though all that it
    /// leads to may have been there for long. An image counts as pushed `now` for as long as it has its tag: it goes as a
    /// whole, and the batch with its tag may have been left to a collector that stopped.
    fn pushed(&self, index: &Index, digest: &Digest, names: &Names, now: SystemTime) -> Option<SystemTime> {
        match self {
            Namer::Tag(tag, _) => match index.pushes.get(*tag) {
                Some(pushes) => pushes.iter().filter(|(id, ..)| id.manifest == *digest).map(|(_, at, _)| *at).max(),
                None if !names.cache => Some(now),
                None => index.tags.get(*tag).map(|listed| listed.at),
            },
            Namer::Young if names.cache => None,
            Namer::Young => index.manifests.get(digest).map(|(at, _)| *at),
        }
    }
}

/// A tag with what it serves.
struct Root {
    tag: Tag,
    manifests: Vec<Digest>,
    /// What was pushed to it last.
    pointed: Digest,
    /// What it serves when that is not what was pushed.
    view: Option<Digest>,
    /// It was pushed to since its records were listed: it may name what none of these names.
    is_newer: bool,
}

/// A layer that makes room: there may be a million of them.
#[derive(Clone, Copy)]
struct EvictedLayer {
    /// The place of a tag that names it among the losers.
    loser: u32,
    /// Since it was used.
    seconds: u64,
}

/// What something names that is there.
#[derive(Clone, Copy)]
struct Live {
    /// Named by something that no policy lets go.
    stays: bool,
}

/// A mark under way, and what it found.
pub(super) struct Mark<'a> {
    collector: &'a Collector,
    now: SystemTime,
    /// The disk needs room soon.
    low: bool,
    known: Arc<Snapshot>,
    /// By the fingerprint of the key.
    live: HashMap<u64, Live>,
    /// When something was last pushed that names what is about to be evicted.
    watched: HashMap<u64, SystemTime>,
    evicted_layers: HashMap<u64, EvictedLayer>,
    /// Tags that name them.
    losers: Vec<(RepoName, Tag)>,
    /// What tenants with a limit hold: listed before the choice of what goes, and kept until that is condemned.
    held: HashMap<Tenant, Held>,
    garbage: Vec<Candidate>,
    /// Tags that go: their pointers, each with its records.
    evicted: Vec<Vec<Candidate>>,
    hints: Vec<Key>,
    throttle: Throttle,
}

impl<'a> Mark<'a> {
    pub fn new(collector: &'a Collector, now: SystemTime, low: bool, due: &[Batch], known: Arc<Snapshot>) -> Mark<'a> {
        let evicted = due.iter().filter(|batch| batch.list.kind == Kind::Evict).flat_map(|batch| &batch.list.keys);
        let watched = evicted.map(|key| (fingerprint(key), SystemTime::UNIX_EPOCH)).collect();
        Mark {
            collector,
            now,
            low,
            known,
            live: HashMap::new(),
            watched,
            evicted_layers: HashMap::new(),
            losers: Vec::new(),
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

    /// Notes about tags that are gone.
    pub fn take_hints(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.hints)
    }

    /// Marks what the repositories of a tenant name, and decides what of them goes.
    pub async fn tenant(&mut self, tenant: &Tenant, report: &mut Report) -> Result<()> {
        let mut repos = BTreeMap::<RepoName, Index>::new();
        let mut listed = self.collector.refs.objects().list(&layout::repos_prefix(tenant), None);
        while let Some(meta) = listed.try_next().await? {
            report.objects += 1;
            self.throttle.step().await;
            if let Some(Place::Repo { repo, item, .. }) = layout::parse(meta.key.as_str()) {
                repos.entry(repo).or_default().add(item, meta);
            }
        }
        let mut facts = Vec::new();
        for (repo, index) in &repos {
            let found = report.tenants.entry(tenant.to_string()).or_default();
            found.tags += index.tags.len() as u64;
            found.manifests += index.manifests.len() as u64;
            let roots = self.roots(tenant, repo, index, report).await?;
            for root in roots {
                facts.push((repo.clone(), root));
            }
        }
        let gone = self.decide(tenant, &repos, &facts, report).await?;
        // What stays first: what is named by both stays.
        for stays in [true, false] {
            for (at, (repo, root)) in facts.iter().enumerate() {
                if gone.contains(&at) != stays {
                    self.mark_root(tenant, repo, &repos[repo], root, stays, report).await?;
                }
            }
            if stays {
                for (repo, index) in &repos {
                    self.mark_young(tenant, repo, index, report).await?;
                }
            }
        }
        for (repo, index) in &repos {
            self.sweep(tenant, repo, index);
        }
        Ok(())
    }

    /// The tags of a repository with the manifests that they serve.
    async fn roots(&self, tenant: &Tenant, repo: &RepoName, index: &Index, report: &mut Report) -> Result<Vec<Root>> {
        let collector = self.collector;
        let reads = index.tags.iter().map(|(tag, listed)| async move {
            let (pointer, is_read) = collector.pointer(&layout::tag(tenant, repo, tag), listed).await?;
            let (view, is_hint_read) = match index.views.get(tag) {
                Some(listed) => collector.hinted(layout::view(tenant, repo, tag), listed).await?,
                None => (None, false),
            };
            Ok::<_, Error>((tag, pointer, view, u64::from(is_read) + u64::from(is_hint_read)))
        });
        let mut reads = stream::iter(reads.collect::<Vec<_>>()).buffered(FAN_OUT);
        let mut roots = Vec::new();
        while let Some((tag, pointer, view, read)) = reads.try_next().await? {
            report.reads += read;
            let Some(pointer) = pointer else { continue };
            let pointer: &Pointer = &pointer;
            let mut manifests = pointer.manifests();
            manifests.extend(index.pushes.get(tag).into_iter().flatten().map(|(id, ..)| id.manifest));
            let (view, noted) = view.unzip();
            manifests.extend(view);
            manifests.sort_unstable();
            manifests.dedup();
            let listed = index.pushes.get(tag).map_or(&[][..], Vec::as_slice);
            let is_newer = noted.is_some_and(|at| at + GRAIN >= self.now)
                || pointer.push.is_some_and(|push| !listed.iter().any(|(id, ..)| *id == push));
            roots.push(Root { tag: tag.clone(), manifests, pointed: pointer.digest, view, is_newer });
        }
        Ok(roots)
    }

    async fn mark_root(
        &mut self,
        tenant: &Tenant,
        repo: &RepoName,
        index: &Index,
        root: &Root,
        stays: bool,
        report: &mut Report,
    ) -> Result<()> {
        self.mark(layout::tag(tenant, repo, &root.tag).as_str(), stays);
        for (id, ..) in index.pushes.get(&root.tag).into_iter().flatten() {
            self.mark(layout::push(tenant, repo, &root.tag, id).as_str(), stays);
        }
        self.mark_closure(tenant, repo, index, &root.manifests, Namer::Tag(&root.tag, stays), report).await
    }

    /// Manifests that were pushed by digest a while ago at most: what names them may still come.
    async fn mark_young(&mut self, tenant: &Tenant, repo: &RepoName, index: &Index, report: &mut Report) -> Result<()> {
        self.mark_closure(tenant, repo, index, &self.young(tenant, index), Namer::Young, report).await
    }

    fn young(&self, tenant: &Tenant, index: &Index) -> Vec<Digest> {
        let config = &self.collector.refs.config().collect;
        let wait = self.collector.wait(tenant, self.low);
        let young = wait + config.lease.get().min(wait);
        let manifests = index.manifests.iter().filter(|(_, (at, _))| !passed(*at, self.now, young));
        manifests.map(|(digest, _)| *digest).collect()
    }

    async fn mark_closure(
        &mut self,
        tenant: &Tenant,
        repo: &RepoName,
        index: &Index,
        from: &[Digest],
        namer: Namer<'_>,
        report: &mut Report,
    ) -> Result<()> {
        let stays = namer.stays();
        let mut found = Vec::new();
        let mut referrers = Vec::new();
        self.collector
            .closure(tenant, repo, index, from, report, |digest, names| {
                found.push((*digest, names.clone()));
                for (referrer, ..) in index.referrers.get(digest).into_iter().flatten() {
                    referrers.push(layout::referrer(tenant, repo, digest, referrer));
                }
            })
            .await?;
        for (digest, names) in found {
            let at = namer.pushed(index, &digest, &names, self.now);
            self.mark(layout::manifest(tenant, repo, &digest).as_str(), stays);
            if let Some(subject) = &names.subject {
                self.mark(layout::referrer(tenant, repo, subject, &digest).as_str(), stays);
            }
            for id in &names.blobs {
                self.live.entry(*id).or_insert(Live { stays }).stays |= stays;
                if let (Some(at), Some(newest)) = (at, self.watched.get_mut(id)) {
                    *newest = at.max(*newest);
                }
            }
        }
        referrers.into_iter().for_each(|key| self.mark(key.as_str(), stays));
        Ok(())
    }

    fn mark(&mut self, key: &str, stays: bool) {
        self.live.entry(fingerprint(key)).or_insert(Live { stays }).stays |= stays;
    }

    /// What of a repository nothing names that stays.
    fn sweep(&mut self, tenant: &Tenant, repo: &RepoName, index: &Index) {
        let (mut candidates, wait) = (Vec::new(), self.collector.wait(tenant, self.low));
        for (digest, (at, bytes)) in &index.manifests {
            candidates.push((layout::manifest(tenant, repo, digest), *at, *bytes));
        }
        for (tag, pushes) in index.pushes.iter().filter(|(tag, _)| !index.tags.contains_key(*tag)) {
            candidates.extend(pushes.iter().map(|(id, at, bytes)| (layout::push(tenant, repo, tag, id), *at, *bytes)));
        }
        for (subject, referrers) in &index.referrers {
            let key = |manifest| layout::referrer(tenant, repo, subject, manifest);
            candidates.extend(referrers.iter().map(|(manifest, at, bytes)| (key(manifest), *at, *bytes)));
        }
        for (key, at, bytes) in candidates {
            let stays = self.live.get(&fingerprint(key.as_str())).is_some_and(|live| live.stays);
            if !stays && passed(at, self.now, wait) {
                self.garbage.push(Candidate { key, bytes });
            }
        }
        // Notes: who misses one makes it again.
        let gone = index.views.keys().filter(|tag| !index.tags.contains_key(*tag));
        self.hints.extend(gone.map(|tag| layout::view(tenant, repo, tag)));
        let gone = index.used.iter().filter(|(tag, at)| !index.tags.contains_key(*tag) && passed(**at, self.now, wait));
        self.hints.extend(gone.map(|(tag, _)| layout::used(tenant, repo, tag)));
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
        let mut listed = self.collector.refs.objects().list(&layout::blobs_prefix(tenant), None);
        while let Some(meta) = listed.try_next().await? {
            report.objects += 1;
            self.throttle.step().await;
            if matches!(layout::parse(meta.key.as_str()), Some(Place::Blob { .. })) {
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
        let found = report.tenants.entry(tenant.to_string()).or_default();
        found.blobs.add(blob.bytes);
        if let Some(layer) = self.evicted_layers.get(&id) {
            let known = self.known.has_fingerprint(id);
            let reason = Reason::Room { seconds: layer.seconds };
            report.decide(tenant, reason.rule(), blob.bytes, known, || {
                let (repo, tag) = &self.losers[layer.loser as usize];
                let digest = blob.key.as_str().rsplit('/').next().map(str::to_string);
                Decision { layer: digest, bytes: blob.bytes, ..Decision::of_tag(tenant, repo, tag, reason, known) }
            });
            publisher.add(Kind::Evict, blob, report).await
        } else if self.live.get(&id).is_some_and(|live| live.stays) {
            found.live.add(blob.bytes);
            Ok(())
        } else if is_old {
            publisher.add(Kind::Garbage, blob, report).await
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
