//! Room: how much of a tenant has to go, and which of its layers and tags do.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use futures::TryStreamExt;

use crate::buildkit::CacheConfig;
use crate::content::condemned::fingerprint;
use crate::digest::Digest;
use crate::error::Result;
use crate::layout;
use crate::layout::{Place, UploadItem};
use crate::lifetime::collect::mark::held::Held;
use crate::lifetime::collect::mark::index::{Found, Index, Names};
use crate::lifetime::collect::mark::{Mark, Root};
use crate::lifetime::collect::policy;
use crate::lifetime::collect::policy::{Content, Room, TagFacts};
use crate::lifetime::collect::{Collector, Report, passed};
use crate::names::{RepoName, Tenant};
use crate::objects::READ_BYTES_MAX;

/// Configs read of one tenant in one collection, at most. One or two tell what goes.
const CONFIGS_MAX: usize = 64;

/// How much a tenant may hold. Bytes.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Over the first, it is brought below the second.
    high: u64,
    low: u64,
    /// Its part of what the disk is short of, whatever its quota.
    part: u64,
}

impl Collector {
    pub(super) fn limits(&self, tenant: &Tenant) -> Option<Limits> {
        let quota = self.refs.config().quota(tenant);
        let high = quota.high.unwrap_or(u64::MAX);
        let low = quota.low.unwrap_or(high);
        let part = self.refs.room().part(tenant);
        // For what is being uploaded there must be room as well. What the disk is short of has that in it.
        let coming = self.refs.usage().account(tenant).arriving();
        let limits = Limits { high: high.saturating_sub(coming), low: low.saturating_sub(coming), part };
        (high < u64::MAX || part > 0).then_some(limits)
    }
}

/// What a tenant has, for the choice of what goes.
pub(super) struct Scene<'a> {
    pub tenant: &'a Tenant,
    pub repos: &'a BTreeMap<RepoName, Index>,
    pub roots: &'a [(RepoName, Root)],
    /// Positions of the tags that go in any case.
    pub gone: &'a HashSet<usize>,
}

impl Scene<'_> {
    /// The tags that may stay, with their positions.
    fn staying(&self) -> impl Iterator<Item = (usize, &RepoName, &Index, &Root)> {
        let staying = self.roots.iter().enumerate().filter(|(at, _)| !self.gone.contains(at));
        staying.map(|(at, (repo, root))| (at, repo, &self.repos[repo], root))
    }
}

/// When the manifests of a tag were pushed and used last.
struct Times<'a> {
    facts: &'a TagFacts,
    root: &'a Root,
    /// Of its push records.
    pushed: HashMap<Digest, SystemTime>,
    /// What it serves was served, or pushed again.
    served: SystemTime,
}

impl<'a> Times<'a> {
    fn of(index: &Index, root: &'a Root, facts: &'a TagFacts) -> Times<'a> {
        let mut pushed = HashMap::new();
        for (id, at, _) in index.pushes.get(&root.tag).into_iter().flatten() {
            let newest = pushed.entry(id.manifest).or_insert(*at);
            *newest = (*newest).max(*at);
        }
        let served = index.used.get(&root.tag).copied().unwrap_or(SystemTime::UNIX_EPOCH);
        Times { facts, root, pushed, served }
    }

    /// When the layers of a manifest were used last, and when they were pushed. A push uses its own; the pulls of a cache
    /// use those that it serves.
    fn of_manifest(&self, digest: &Digest) -> (SystemTime, SystemTime) {
        if !self.facts.cache {
            return (self.facts.used, self.facts.pushed);
        }
        let pushed = match self.pushed.get(digest) {
            Some(at) => *at,
            // As it was sent last, though its record names it as it was sent before.
            None if *digest == self.root.pointed => self.facts.pushed,
            None => SystemTime::UNIX_EPOCH,
        };
        let is_served = *digest == self.root.pointed || self.root.view == Some(*digest);
        (if is_served { pushed.max(self.served) } else { pushed }, pushed)
    }
}

impl Mark<'_> {
    /// Lists what a tenant holds. It is kept until its blobs are condemned: no list is asked for twice.
    pub(super) async fn list_held(&mut self, tenant: &Tenant, report: &mut Report) -> Result<Held> {
        let (mut held, wait) = (Held::default(), self.collector.wait(tenant, self.low));
        let objects = &self.collector.refs.objects();
        let mut listed = objects.list(&layout::blobs_prefix(tenant), None);
        while let Some(meta) = listed.try_next().await? {
            report.objects += 1;
            self.throttle.step().await;
            if let Some(Place::Blob { digest, .. }) = layout::parse(meta.key.as_str()) {
                held.add(&meta, digest, passed(meta.modified, self.now, wait));
            }
        }
        let mut listed = objects.list(&layout::uploads_prefix(tenant), None);
        while let Some(meta) = listed.try_next().await? {
            report.objects += 1;
            self.throttle.step().await;
            if let Some(Place::Upload { item: UploadItem::Part { .. }, .. }) = layout::parse(meta.key.as_str()) {
                held.staged = held.staged.saturating_add(meta.size);
            }
        }
        held.sort();
        Ok(held)
    }

    /// What has to go so that the tenant is within its limits. Keeps what was listed.
    pub(super) async fn room(
        &mut self,
        scene: &Scene<'_>,
        facts: &mut [TagFacts],
        mut held: Held,
        limits: Limits,
        report: &mut Report,
    ) -> Result<Room> {
        self.note_named(scene, &mut held, report).await?;
        let excess = self.excess(&held, limits);
        let mut room = Room::default();
        if excess > 0 {
            self.fill_content(scene, &held, facts, report).await?;
            let config = self.collector.refs.config().clone();
            // Whoever writes to a scope chooses its tags.
            let protected = |facts: &TagFacts| {
                let rules = config.rule(&facts.repo).map_or(&[][..], |rule| &rule.retain);
                !scene.tenant.is_scope() && policy::is_protected(rules, &facts.tag)
            };
            let floor = config.collect.in_use();
            let mut layers = policy::idle_layers(facts, &protected, floor, self.now);
            let undecided: HashSet<u64> = policy::undecided(&layers, excess).iter().map(|layer| layer.id).collect();
            if !undecided.is_empty() {
                let depths = self.depths(scene, &held, facts, &undecided, report).await?;
                for layer in &mut layers {
                    layer.depth = depths.get(&layer.id).copied().unwrap_or(layer.depth);
                }
            }
            room = policy::make_room(facts, layers, &protected, excess, floor, self.now);
        }
        self.held.insert(scene.tenant.clone(), held);
        Ok(room)
    }

    /// Notes which blobs something names that stays so far.
    async fn note_named(&self, scene: &Scene<'_>, held: &mut Held, report: &mut Report) -> Result<()> {
        for (_, repo, index, root) in scene.staying() {
            let visit = |_: &Digest, names: &Arc<Names>| note(&mut *held, names, false);
            self.collector.closure(scene.tenant, repo, index, &root.manifests, report, visit).await?;
        }
        for (repo, index) in scene.repos {
            // An index that is to name a young image need not find its layers gone.
            let visit = |_: &Digest, names: &Arc<Names>| note(&mut *held, names, true);
            self.collector.closure(scene.tenant, repo, index, &self.young(scene.tenant, index), report, visit).await?;
        }
        Ok(())
    }

    /// Bytes that have to go beside what goes by itself: what is condemned, and what this collection condemns because
    /// nothing names it. What is too young for that counts as held.
    fn excess(&self, held: &Held, limits: Limits) -> u64 {
        let (mut stays, mut goes) = (held.staged, 0_u64);
        for blob in held.iter().filter(|blob| !self.known.has_fingerprint(blob.id)) {
            let sum = if blob.is_old && !blob.is_named { &mut goes } else { &mut stays };
            *sum = sum.saturating_add(blob.bytes);
        }
        let of_quota = if stays > limits.high { stays - limits.low } else { 0 };
        of_quota.max(limits.part.saturating_sub(goes))
    }

    /// How deep these layers are in the caches that name them, by the configs of the newest pushes that do. Configs are
    /// read for layers of one time only, which one push or few have named last.
    async fn depths(
        &self,
        scene: &Scene<'_>,
        held: &Held,
        facts: &[TagFacts],
        undecided: &HashSet<u64>,
        report: &mut Report,
    ) -> Result<HashMap<u64, u32>> {
        let mut configs = BTreeMap::<(Reverse<SystemTime>, Digest), Vec<u64>>::new();
        for (at, repo, index, root) in scene.staying().filter(|(at, ..)| facts[*at].cache) {
            let times = Times::of(index, root, &facts[at]);
            let visit = |digest: &Digest, names: &Arc<Names>| {
                let named: Vec<u64> = names.blobs.iter().copied().filter(|id| undecided.contains(id)).collect();
                let Some(config) = names.config.filter(|_| names.cache && !named.is_empty()) else { return };
                let (_, pushed) = times.of_manifest(digest);
                configs.entry((Reverse(pushed), config)).or_insert(named);
            };
            self.collector.closure(scene.tenant, repo, index, &root.manifests, report, visit).await?;
        }
        let mut depths = HashMap::<u64, u32>::new();
        let mut reads = 0;
        for ((_, config), named) in configs {
            if reads >= CONFIGS_MAX || depths.len() == undecided.len() {
                break;
            }
            if named.iter().all(|id| depths.contains_key(id)) {
                continue;
            }
            reads += 1;
            for (blob, depth) in self.config_depths(scene.tenant, held, config, report).await? {
                let id = blob_id(scene.tenant, &blob);
                if undecided.contains(&id) {
                    let known = depths.entry(id).or_insert(depth);
                    *known = depth.min(*known);
                }
            }
        }
        Ok(depths)
    }

    /// What a config places; nothing when it is not there, or cannot be read.
    async fn config_depths(
        &self,
        tenant: &Tenant,
        held: &Held,
        config: Digest,
        report: &mut Report,
    ) -> Result<HashMap<Digest, u32>> {
        let is_small = |bytes: u64| bytes <= READ_BYTES_MAX;
        if !held.get(blob_id(tenant, &config)).is_some_and(|blob| is_small(blob.bytes)) {
            return Ok(HashMap::new());
        }
        report.reads += 1;
        // Past the hot layer, which is for what builds read.
        let Found::Right(bytes) = self.collector.read(&layout::blob(tenant, &config), &config).await? else {
            return Ok(HashMap::new());
        };
        let placed = move || CacheConfig::parse(&bytes).map(|config| config.depths()).unwrap_or_default();
        Ok(tokio::task::spawn_blocking(placed).await?)
    }

    /// The blobs that the push records of a tag named when they were listed.
    async fn recorded(&self, tenant: &Tenant, repo: &RepoName, index: &Index, root: &Root) -> Result<HashSet<u64>> {
        let mut recorded = HashSet::new();
        for (id, ..) in index.pushes.get(&root.tag).into_iter().flatten() {
            let (names, _) = self.collector.manifest_names(tenant, repo, &id.manifest).await?;
            recorded.extend(names.blobs.iter().copied());
        }
        Ok(recorded)
    }

    /// What each tag names of what the tenant holds, each blob once.
    async fn fill_content(
        &self,
        scene: &Scene<'_>,
        held: &Held,
        facts: &mut [TagFacts],
        report: &mut Report,
    ) -> Result<()> {
        for (at, repo, index, root) in scene.staying() {
            let times = Times::of(index, root, &facts[at]);
            let recorded = match root.is_newer && facts[at].cache {
                true => Some(self.recorded(scene.tenant, repo, index, root).await?),
                false => None,
            };
            let mut content = HashMap::<u64, Content>::new();
            let visit = |digest: &Digest, names: &Arc<Names>| {
                let of_manifest = times.of_manifest(digest);
                let config = names.config.map(|config| blob_id(scene.tenant, &config));
                let there = names.blobs.iter().filter(|id| !self.known.has_fingerprint(**id));
                for blob in there.filter_map(|id| held.get(*id)) {
                    let fixed = blob.is_fixed || !names.cache || config == Some(blob.id);
                    // What no record named when they were listed has come with a push since.
                    let is_new = recorded.as_ref().is_some_and(|recorded| !recorded.contains(&blob.id));
                    let (used, pushed) = if is_new { (self.now, self.now) } else { of_manifest };
                    let new = Content { id: blob.id, bytes: blob.bytes, used, pushed, fixed };
                    let known = content.entry(blob.id).or_insert(new);
                    (known.used, known.pushed) = (known.used.max(used), known.pushed.max(pushed));
                    known.fixed |= fixed;
                }
            };
            self.collector.closure(scene.tenant, repo, index, &root.manifests, report, visit).await?;
            facts[at].content = content.into_values().collect();
        }
        Ok(())
    }
}

fn blob_id(tenant: &Tenant, digest: &Digest) -> u64 {
    fingerprint(layout::blob(tenant, digest).as_str())
}

fn note(held: &mut Held, names: &Names, is_young: bool) {
    for id in &names.blobs {
        if let Some(blob) = held.get_mut(*id) {
            blob.is_named = true;
            blob.is_fixed |= is_young && !names.cache;
        }
    }
}
