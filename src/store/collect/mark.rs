//! What is named, and by whom: one pass over the lists of the store and over the manifests that are not known yet.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::{StreamExt, TryStreamExt, stream};

use super::batches::{Batch, Publisher};
use super::policy::{self, Content, Decision, Reason, TagFacts};
use super::{Candidate, Collector, Report, passed};
use crate::digest::Digest;
use crate::names::{RepoName, Tag, Tenant};
use crate::objects::{self, Key, Meta, Read};
use crate::store::condemned::{Kind, Snapshot, fingerprint};
use crate::store::layout::{self, Place, PushId, RepoItem};
use crate::store::manifests::Parsed;
use crate::store::patience::patiently;
use crate::store::tags::Pointer;
use crate::store::{Error, FAN_OUT, Result, views};

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
    /// leads to may have been there for long.
    fn pushed(&self, index: &Index, digest: &Digest, names: &Names) -> Option<SystemTime> {
        match self {
            Namer::Tag(tag, _) => match index.pushes.get(*tag) {
                Some(pushes) => pushes.iter().filter(|(id, ..)| id.manifest == *digest).map(|(_, at, _)| *at).max(),
                None => index.tags.get(*tag).copied(),
            },
            Namer::Young if names.cache => None,
            Namer::Young => index.manifests.get(digest).map(|(at, _)| *at),
        }
    }
}

/// What a manifest names, in few bytes.
pub(super) struct Names {
    /// Fingerprints of the blobs' keys, and their sizes as the manifest says.
    pub blobs: Box<[(u64, u64)]>,
    pub children: Box<[Digest]>,
    pub subject: Option<Digest>,
    /// The blob that is the config.
    pub config: Option<u64>,
    /// It is a cache manifest.
    pub cache: bool,
}

impl Names {
    pub fn weight(&self) -> u32 {
        u32::try_from(128 + self.blobs.len() * 16 + self.children.len() * size_of::<Digest>()).unwrap_or(u32::MAX)
    }
}

/// One repository, as its keys show it.
#[derive(Default)]
struct Index {
    manifests: BTreeMap<Digest, (SystemTime, u64)>,
    tags: BTreeMap<Tag, SystemTime>,
    pushes: BTreeMap<Tag, Vec<(PushId, SystemTime, u64)>>,
    /// By subject.
    referrers: BTreeMap<Digest, Vec<(Digest, SystemTime, u64)>>,
    used: BTreeMap<Tag, SystemTime>,
    views: BTreeMap<Tag, Key>,
}

/// A tag with what it serves.
struct Root {
    tag: Tag,
    manifests: Vec<Digest>,
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
    wait: Duration,
    known: Arc<Snapshot>,
    /// By the fingerprint of the key.
    live: HashMap<u64, Live>,
    /// When something was last pushed that names what is about to be evicted.
    watched: HashMap<u64, SystemTime>,
    evicted_layers: HashMap<u64, Decision>,
    garbage: Vec<Candidate>,
    /// Tags that go: their pointers, each with its records.
    evicted: Vec<Vec<Candidate>>,
    hints: Vec<Key>,
    throttle: Throttle,
}

impl<'a> Mark<'a> {
    pub fn new(
        collector: &'a Collector,
        now: SystemTime,
        wait: Duration,
        due: &[Batch],
        known: Arc<Snapshot>,
    ) -> Mark<'a> {
        let evicted = due.iter().filter(|batch| batch.list.kind == Kind::Evict).flat_map(|batch| &batch.list.keys);
        let watched = evicted.map(|key| (fingerprint(key), SystemTime::UNIX_EPOCH)).collect();
        Mark {
            collector,
            now,
            wait,
            known,
            live: HashMap::new(),
            watched,
            evicted_layers: HashMap::new(),
            garbage: Vec::new(),
            evicted: Vec::new(),
            hints: Vec::new(),
            throttle: Throttle::new(collector.store.config.collect.objects_per_second),
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
        let mut listed = self.collector.store.objects.list(&layout::repos_prefix(tenant), None);
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
        let store = &self.collector.store;
        let reads = index.tags.keys().map(|tag| async move {
            let pointer = store.pointer(&layout::tag(tenant, repo, tag)).await?.map(|(_, pointer)| pointer);
            let view = match index.views.get(tag) {
                Some(key) => views::hinted(store, key).await?,
                None => None,
            };
            Ok::<_, Error>((tag, pointer, view))
        });
        let mut reads = stream::iter(reads.collect::<Vec<_>>()).buffered(FAN_OUT);
        let mut roots = Vec::new();
        while let Some((tag, pointer, view)) = reads.try_next().await? {
            report.reads += 1;
            let Some(pointer) = pointer else { continue };
            let pointer: &Pointer = &pointer;
            let mut manifests = vec![pointer.digest];
            manifests.extend(pointer.push.map(|push| push.manifest));
            manifests.extend(index.pushes.get(tag).into_iter().flatten().map(|(id, ..)| id.manifest));
            manifests.extend(view);
            manifests.sort_unstable();
            manifests.dedup();
            roots.push(Root { tag: tag.clone(), manifests });
        }
        Ok(roots)
    }

    /// Positions of the tags that go.
    async fn decide(
        &mut self,
        tenant: &Tenant,
        repos: &BTreeMap<RepoName, Index>,
        roots: &[(RepoName, Root)],
        report: &mut Report,
    ) -> Result<HashSet<usize>> {
        let config = self.collector.store.config.clone();
        let rules = |repo: &RepoName| config.rule(repo).map_or(&[][..], |rule| &rule.retain);
        let mut facts = Vec::new();
        for (repo, root) in roots {
            let index = &repos[repo];
            let pushed = index.tags.get(&root.tag).copied().unwrap_or(self.now);
            let used = index.used.get(&root.tag).copied().unwrap_or(pushed).max(pushed);
            let cache = index.pushes.contains_key(&root.tag);
            let (repo, tag) = (repo.clone(), root.tag.clone());
            facts.push(TagFacts { repo, tag, pushed, used, cache, content: Vec::new() });
        }
        let mut gone = HashSet::new();
        if let Some(seconds) = self.abandoned(tenant, repos) {
            for (at, facts) in facts.iter().enumerate() {
                gone.insert(at);
                report.decisions.push(self.decision(tenant, facts, Reason::Unused { seconds }));
            }
        }
        let mut first = 0;
        while first < facts.len() {
            let same = facts[first..].iter().take_while(|next| next.repo == facts[first].repo).count();
            let group: Vec<&TagFacts> = facts[first..first + same].iter().collect();
            for (at, reason) in policy::retired(&group, rules(&facts[first].repo), self.now) {
                if gone.insert(first + at) {
                    report.decisions.push(self.decision(tenant, &facts[first + at], reason));
                }
            }
            first += same;
        }
        if let Some(excess) = self.excess(tenant, repos, roots, &gone, report).await? {
            self.fill_content(tenant, repos, roots, &mut facts, report).await?;
            // Whoever writes to a scope chooses its tags.
            let protected =
                |facts: &TagFacts| !tenant.is_scope() && policy::is_protected(rules(&facts.repo), &facts.tag);
            let floor = config.collect.in_use();
            let room = policy::make_room(&facts, &protected, excess, floor, self.now);
            for (id, at, used) in room.layers {
                let seconds = self.now.duration_since(used).unwrap_or_default().as_secs();
                let decision = self.decision(tenant, &facts[at], Reason::Room { seconds });
                self.evicted_layers.insert(id, decision);
            }
            for at in room.tags {
                let seconds = self.now.duration_since(facts[at].used).unwrap_or_default().as_secs();
                if gone.insert(at) {
                    report.decisions.push(self.decision(tenant, &facts[at], Reason::Room { seconds }));
                }
            }
        }
        let mut in_order: Vec<usize> = gone.iter().copied().collect();
        in_order.sort_unstable();
        for at in &in_order {
            let (facts, index) = (&facts[*at], &repos[&facts[*at].repo]);
            let key = layout::tag(tenant, &facts.repo, &facts.tag);
            let mut tag = vec![Candidate { key, bytes: 0 }];
            for (id, _, bytes) in index.pushes.get(&facts.tag).into_iter().flatten() {
                let key = layout::push(tenant, &facts.repo, &facts.tag, id);
                tag.push(Candidate { key, bytes: *bytes });
            }
            self.evicted.push(tag);
        }
        Ok(gone)
    }

    fn decision(&self, tenant: &Tenant, facts: &TagFacts, reason: Reason) -> Decision {
        Decision {
            tenant: tenant.to_string(),
            repo: facts.repo.to_string(),
            tag: facts.tag.to_string(),
            layer: None,
            bytes: 0,
            why: reason.to_string(),
            reason,
            known: self.known.has(&layout::tag(tenant, &facts.repo, &facts.tag)),
        }
    }

    /// How long a scope has not been used, in seconds, when that is long enough for all of it to go.
    fn abandoned(&self, tenant: &Tenant, repos: &BTreeMap<RepoName, Index>) -> Option<u64> {
        let newest = repos.values().flat_map(Index::times).max().filter(|_| tenant.is_scope())?;
        let max_age = self.collector.store.config.scopes.max_age.get();
        passed(newest, self.now, max_age).then(|| self.now.duration_since(newest).unwrap_or_default().as_secs())
    }

    /// Blobs of a scope itself: what else it names is its parents', and no part of what it may hold.
    async fn own_blobs(&self, tenant: &Tenant) -> Result<Option<HashSet<u64>>> {
        if !tenant.is_scope() {
            return Ok(None);
        }
        let listed = self.collector.store.objects.list(&layout::blobs_prefix(tenant), None);
        Ok(Some(listed.map_ok(|meta| fingerprint(meta.key.as_str())).try_collect().await?))
    }

    /// Bytes that the tenant holds beyond what it may, when it does. What is condemned counts as gone.
    async fn excess(
        &self,
        tenant: &Tenant,
        repos: &BTreeMap<RepoName, Index>,
        roots: &[(RepoName, Root)],
        gone: &HashSet<usize>,
        report: &mut Report,
    ) -> Result<Option<u64>> {
        let Some((high, low)) = self.collector.limits(tenant) else { return Ok(None) };
        let mut sizes = HashMap::<u64, u64>::new();
        for (_, (repo, root)) in roots.iter().enumerate().filter(|(at, _)| !gone.contains(at)) {
            self.closure(tenant, repo, &repos[repo], &root.manifests, report, |_, names| {
                sizes.extend(names.blobs.iter().copied());
            })
            .await?;
        }
        let own = self.own_blobs(tenant).await?;
        sizes.retain(|id, _| !self.known.has_fingerprint(*id) && own.as_ref().is_none_or(|own| own.contains(id)));
        let live: u64 = sizes.values().sum();
        Ok((live > high).then(|| live - low))
    }

    async fn fill_content(
        &self,
        tenant: &Tenant,
        repos: &BTreeMap<RepoName, Index>,
        roots: &[(RepoName, Root)],
        facts: &mut [TagFacts],
        report: &mut Report,
    ) -> Result<()> {
        let own = self.own_blobs(tenant).await?;
        for ((repo, root), facts) in roots.iter().zip(facts) {
            let index = &repos[repo];
            // A push names what its build used.
            let times: HashMap<Digest, SystemTime> =
                index.pushes.get(&root.tag).into_iter().flatten().map(|(id, at, _)| (id.manifest, *at)).collect();
            let (cache, default) = (facts.cache, facts.used);
            let mut content = Vec::new();
            self.closure(tenant, repo, index, &root.manifests, report, |digest, names| {
                let used = match times.get(digest) {
                    Some(at) => *at,
                    None if cache => SystemTime::UNIX_EPOCH,
                    None => default,
                };
                for (depth, (id, bytes)) in names.blobs.iter().enumerate() {
                    if !self.known.has_fingerprint(*id) && own.as_ref().is_none_or(|own| own.contains(id)) {
                        let fixed = !names.cache || names.config == Some(*id);
                        content.push(Content { id: *id, bytes: *bytes, used, depth: depth as u32, fixed });
                    }
                }
            })
            .await?;
            facts.content = content;
        }
        Ok(())
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
        let config = &self.collector.store.config.collect;
        let young = self.wait + config.lease.get().min(self.wait);
        let manifests = index.manifests.iter().filter(|(_, (at, _))| !passed(*at, self.now, young));
        let manifests: Vec<Digest> = manifests.map(|(digest, _)| *digest).collect();
        self.mark_closure(tenant, repo, index, &manifests, Namer::Young, report).await
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
        self.closure(tenant, repo, index, from, report, |digest, names| {
            found.push((*digest, names.clone()));
            for (referrer, ..) in index.referrers.get(digest).into_iter().flatten() {
                referrers.push(layout::referrer(tenant, repo, digest, referrer));
            }
        })
        .await?;
        for (digest, names) in found {
            let at = namer.pushed(index, &digest, &names);
            self.mark(layout::manifest(tenant, repo, &digest).as_str(), stays);
            if let Some(subject) = &names.subject {
                self.mark(layout::referrer(tenant, repo, subject, &digest).as_str(), stays);
            }
            for (id, _) in &names.blobs {
                self.live.entry(*id).or_insert(Live { stays }).stays |= stays;
                // An index that is to name this image need not find its layers gone.
                if matches!(namer, Namer::Young) && !names.cache {
                    self.evicted_layers.remove(id);
                }
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

    /// Visits all manifests that these lead to: themselves, their children, and what refers to them.
    async fn closure(
        &self,
        tenant: &Tenant,
        repo: &RepoName,
        index: &Index,
        from: &[Digest],
        report: &mut Report,
        mut visit: impl FnMut(&Digest, &Arc<Names>),
    ) -> Result<()> {
        let mut seen: HashSet<Digest> = from.iter().copied().collect();
        let mut wave: Vec<Digest> = from.to_vec();
        while !wave.is_empty() {
            let reads = wave.iter().map(|digest| async move {
                Ok::<_, Error>((*digest, self.collector.manifest_names(tenant, repo, digest).await?))
            });
            let found: Vec<_> = stream::iter(reads.collect::<Vec<_>>()).buffered(FAN_OUT).try_collect().await?;
            wave.clear();
            for (digest, (names, read)) in found {
                report.reads += u64::from(read);
                let referrers = index.referrers.get(&digest).into_iter().flatten().map(|(referrer, ..)| referrer);
                wave.extend(names.children.iter().chain(referrers).filter(|next| seen.insert(**next)));
                visit(&digest, &names);
            }
        }
        Ok(())
    }

    /// What of a repository nothing names that stays.
    fn sweep(&mut self, tenant: &Tenant, repo: &RepoName, index: &Index) {
        let mut candidates = Vec::new();
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
            if !stays && passed(at, self.now, self.wait) {
                self.garbage.push(Candidate { key, bytes });
            }
        }
        // Notes: who misses one makes it again.
        let gone = index.views.iter().filter(|(tag, _)| !index.tags.contains_key(*tag)).map(|(_, key)| key.clone());
        self.hints.extend(gone);
        let gone =
            index.used.iter().filter(|(tag, at)| !index.tags.contains_key(*tag) && passed(**at, self.now, self.wait));
        self.hints.extend(gone.map(|(tag, _)| layout::used(tenant, repo, tag)));
    }

    /// Lists the blobs of a tenant, and condemns those that nothing names.
    pub async fn blobs(&mut self, tenant: &Tenant, publisher: &mut Publisher<'_>, report: &mut Report) -> Result<()> {
        let mut listed = self.collector.store.objects.list(&layout::blobs_prefix(tenant), None);
        while let Some(meta) = listed.try_next().await? {
            report.objects += 1;
            self.throttle.step().await;
            if !matches!(layout::parse(meta.key.as_str()), Some(Place::Blob { .. })) {
                continue;
            }
            let found = report.tenants.entry(tenant.to_string()).or_default();
            found.blobs.add(meta.size);
            let id = fingerprint(meta.key.as_str());
            let candidate = Candidate { key: meta.key, bytes: meta.size };
            if let Some(decision) = self.evicted_layers.get(&id) {
                let digest = candidate.key.as_str().rsplit('/').next().map(str::to_string);
                let known = self.known.has(&candidate.key);
                report.decisions.push(Decision { layer: digest, bytes: meta.size, known, ..decision.clone() });
                publisher.add(Kind::Evict, candidate, report).await?;
            } else if self.live.get(&id).is_some_and(|live| live.stays) {
                found.live.add(meta.size);
            } else if passed(meta.modified, self.now, self.wait) {
                publisher.add(Kind::Garbage, candidate, report).await?;
            } else {
                found.young.add(meta.size);
            }
        }
        Ok(())
    }
}

impl Index {
    /// When anything of it was written or used.
    fn times(&self) -> impl Iterator<Item = SystemTime> {
        let pushes = self.pushes.values().flatten().map(|(_, at, _)| at);
        let manifests = self.manifests.values().map(|(at, _)| at);
        self.tags.values().chain(self.used.values()).chain(manifests).chain(pushes).copied()
    }

    fn add(&mut self, item: RepoItem, meta: Meta) {
        let (at, bytes) = (meta.modified, meta.size);
        match item {
            RepoItem::Manifest(digest) => drop(self.manifests.insert(digest, (at, bytes))),
            RepoItem::Tag(tag) => drop(self.tags.insert(tag, at)),
            RepoItem::Push(tag, id) => self.pushes.entry(tag).or_default().push((id, at, bytes)),
            RepoItem::View(tag) => drop(self.views.insert(tag, meta.key)),
            RepoItem::Used(tag) => drop(self.used.insert(tag, at)),
            RepoItem::Referrer { subject, manifest } => {
                self.referrers.entry(subject).or_default().push((manifest, at, bytes));
            }
        }
    }
}

impl Collector {
    /// What a manifest names, and whether it had to be read for that. Nothing when it is missing or damaged.
    async fn manifest_names(&self, tenant: &Tenant, repo: &RepoName, digest: &Digest) -> Result<(Arc<Names>, bool)> {
        let key = layout::manifest(tenant, repo, digest);
        let id = fingerprint(key.as_str());
        if let Some(names) = self.names.get(&id) {
            return Ok((names, false));
        }
        let objects = &self.store.objects;
        // Past the hot layer, which this would flush.
        let parsed = match patiently(|| objects.read(&key, None)).await {
            Ok(Read::Fresh(_, bytes)) => Parsed::parse(&bytes, None),
            Ok(Read::Same) | Err(objects::Error::NotFound) => Err(Error::ManifestUnknown(digest.to_string())),
            Err(error) => return Err(error.into()),
        };
        let Ok(parsed) = parsed else {
            let nothing = Names { blobs: [].into(), children: [].into(), subject: None, config: None, cache: false };
            return Ok((Arc::new(nothing), true));
        };
        let blobs = parsed.blobs.iter().zip(&parsed.sizes);
        let of = |blob: &Digest| fingerprint(layout::blob(tenant, blob).as_str());
        let names = Arc::new(Names {
            blobs: blobs.map(|(blob, size)| (of(blob), *size)).collect(),
            config: parsed.config.as_ref().map(of),
            children: parsed.children.into(),
            subject: parsed.subject,
            cache: parsed.cache,
        });
        self.names.insert(id, names.clone());
        Ok((names, true))
    }

    /// The marks between which a tenant is held: over the first, it is brought below the second. Bytes.
    fn limits(&self, tenant: &Tenant) -> Option<(u64, u64)> {
        let quota = self.store.config.quota(tenant);
        let high = quota.high.unwrap_or(u64::MAX);
        let low = quota.low.unwrap_or(high);
        // What the disk is short of, each tenant gives its part of.
        let share = self.store.room().share(tenant).unwrap_or(u64::MAX);
        let (high, low) = (high.min(share), low.min(share));
        // For what is being uploaded there must be room as well.
        let coming = self.store.usage().account(tenant).arriving();
        (high < u64::MAX).then(|| (high.saturating_sub(coming), low.saturating_sub(coming)))
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
