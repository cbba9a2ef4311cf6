//! Eviction: how many bytes of a tenant to free, and which of its layers and tags free them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use futures::TryStreamExt;

use crate::buildkit::CacheConfig;
use crate::capacity::usage::{OBJECT_FLOOR, weight, weight_of};
use crate::config::{Config, GRAIN};
use crate::content::condemned::fingerprint;
use crate::digest::Digest;
use crate::error::Result;
use crate::layout;
use crate::layout::Place;
use crate::lifetime::collect::mark::Mark;
use crate::lifetime::collect::mark::blobs::BlobInventory;
use crate::lifetime::collect::mark::decide::GoneRoots;
use crate::lifetime::collect::policy;
use crate::lifetime::collect::policy::{EvictionPlan, Shortfall};
use crate::lifetime::collect::{Collector, Report, passed};
use crate::names::{RepoName, Tenant};
use crate::objects::READ_BYTES_MAX;
use crate::refs::graph::{ContentNames, VerifiedRead};
use crate::refs::listing::{RepoListing, walk};
use crate::refs::root::{Evictable, NamedBlob, Root};

/// Maximum number of configs read per tenant and collection. Usually one or two decide.
const CONFIGS_MAX: usize = 64;

/// Limits of a tenant's usage, in bytes.
#[derive(Clone, Copy)]
pub(super) struct QuotaLimits {
    /// Usage above `high` is brought below `low`.
    high: u64,
    low: u64,
    /// The tenant's part of the disk's shortage, whatever its quota.
    part: u64,
}

impl Collector {
    pub(super) fn limits(&self, tenant: &Tenant, policies: &Config) -> Option<QuotaLimits> {
        let quota = policies.quota(tenant);
        let high = quota.high.unwrap_or(u64::MAX);
        let low = quota.low.unwrap_or(high);
        let part = self.refs.room().part(tenant);
        // The quota also needs space for announced uploads. The shortage of the disk includes them already.
        let coming = self.refs.usage().account(tenant).arriving();
        let limits = QuotaLimits { high: high.saturating_sub(coming), low: low.saturating_sub(coming), part };
        (high < u64::MAX || part > 0).then_some(limits)
    }
}

/// The objects of a tenant, for the choice of evictions.
struct Scene<'a> {
    tenant: &'a Tenant,
    repos: &'a BTreeMap<RepoName, RepoListing>,
    roots: &'a [Root],
    /// Positions of the roots that are condemned in any case.
    gone: &'a GoneRoots,
}

impl Scene<'_> {
    /// The roots that may stay, with their positions.
    fn staying(&self) -> impl Iterator<Item = (usize, &RepoListing, &Root)> {
        let staying = self.roots.iter().enumerate().filter(|(at, _)| !self.gone.contains_key(at));
        staying.map(|(at, root)| (at, &self.repos[&root.id.repo], root))
    }
}

impl Mark<'_> {
    /// Lists the blobs of a tenant. The list is kept until they are condemned, so that nothing is listed twice.
    /// `of_repos` is the usage in bytes of all its other objects.
    pub(super) async fn list_held(
        &mut self,
        tenant: &Tenant,
        of_repos: u64,
        report: &mut Report,
    ) -> Result<BlobInventory> {
        let wait = self.collector.wait(tenant, self.low);
        let mut held = BlobInventory::default();
        held.others = of_repos;
        let objects = &**self.collector.refs.objects();
        let mut listed = walk(objects, &layout::blobs_prefix(tenant));
        while let Some((place, meta)) = listed.try_next().await? {
            report.objects += 1;
            self.throttle.step().await;
            if let Some(Place::Blob { digest, .. }) = place {
                held.add(&meta, digest, passed(meta.modified, self.now, wait));
            }
        }
        let mut listed = walk(objects, &layout::uploads_prefix(tenant));
        while let Some((place, meta)) = listed.try_next().await? {
            report.objects += 1;
            self.throttle.step().await;
            let weight = place.map_or(0, |place| weight(&place, meta.size));
            held.others = held.others.saturating_add(weight);
        }
        held.sort();
        Ok(held)
    }

    /// Plans the evictions that bring the tenant within its limits. Keeps the list of blobs.
    pub(super) async fn plan(
        &mut self,
        tenant: &Tenant,
        repos: &BTreeMap<RepoName, RepoListing>,
        roots: &mut [Root],
        gone: &GoneRoots,
        mut held: BlobInventory,
        limits: QuotaLimits,
    ) -> Result<EvictionPlan> {
        let scene = Scene { tenant, repos, roots, gone };
        self.note_named(&scene, &mut held).await?;
        let excess = self.excess(&held, limits);
        let mut plan = EvictionPlan::default();
        if excess > 0 {
            let contents = self.contents(&scene, &held).await?;
            contents.into_iter().for_each(|(at, content)| roots[at].content = content);
            let scene = Scene { tenant, repos, roots, gone };
            plan = self.plan_of(&scene, &held, excess).await?;
        }
        self.held.insert(tenant.clone(), held);
        Ok(plan)
    }

    /// Plans the eviction of at least `excess` bytes.
    async fn plan_of(&self, scene: &Scene<'_>, held: &BlobInventory, excess: u64) -> Result<EvictionPlan> {
        let protected = |root: &Root| self.is_protected(scene.tenant, root);
        let floor = self.collector.refs.config().collect.in_use();
        let mut layers = policy::idle_layers(scene.roots, &protected, floor, self.now);
        let undecided: HashSet<u64> = policy::undecided(&layers, excess).iter().map(|layer| layer.id).collect();
        if !undecided.is_empty() {
            let depths = self.depths(scene, held, &undecided).await?;
            for layer in &mut layers {
                layer.depth = depths.get(&layer.id).copied().unwrap_or(layer.depth);
            }
        }
        let mut plan = policy::make_room(scene.roots, layers, &protected, excess, floor, self.now);
        let missing = excess.saturating_sub(plan.bytes);
        if missing > 0 {
            let stays = |(at, _, root): (usize, _, _)| (!plan.roots.contains(&at)).then_some(root);
            let staying = scene.staying().filter_map(stays);
            plan.shortfall = Some(Shortfall::of(staying, &protected, missing, floor, self.now));
        }
        Ok(plan)
    }

    /// Notes which blobs are referenced by roots that may stay, and by young manifests.
    async fn note_named(&self, scene: &Scene<'_>, held: &mut BlobInventory) -> Result<()> {
        let graph = &self.collector.graph;
        for (_, repo, root) in scene.staying() {
            root.visit(graph, repo, |_, node| note(&mut *held, node, false)).await?;
        }
        for repo in scene.repos.values() {
            // The push of an index that references a young image must not fail because its layers were evicted.
            graph.closure(repo, &self.young(repo), |_, node| note(&mut *held, node, true)).await?;
        }
        Ok(())
    }

    /// Bytes to evict, beyond those that are condemned already, or by this collection as garbage. Unreferenced blobs
    /// too young for that count as used.
    fn excess(&self, held: &BlobInventory, limits: QuotaLimits) -> u64 {
        let (mut stays, mut goes) = (held.others, 0_u64);
        for blob in held.iter().filter(|blob| !self.known.has_fingerprint(blob.id)) {
            let sum = if blob.is_old && !blob.is_named { &mut goes } else { &mut stays };
            *sum = sum.saturating_add(blob.bytes.max(OBJECT_FLOOR));
        }
        let of_quota = if stays > limits.high { stays - limits.low } else { 0 };
        of_quota.max(limits.part.saturating_sub(goes))
    }

    /// Depths of these layers in the caches that reference them, by the configs of the newest such pushes. Configs are
    /// read only for layers of one time, which one push or few referenced last.
    async fn depths(
        &self,
        scene: &Scene<'_>,
        held: &BlobInventory,
        undecided: &HashSet<u64>,
    ) -> Result<HashMap<u64, u32>> {
        let mut configs = BTreeMap::<(Reverse<SystemTime>, Digest), Vec<u64>>::new();
        for (_, repo, root) in scene.staying().filter(|(_, _, root)| root.evictable == Evictable::ByLayer) {
            let visit = |digest: Option<&Digest>, node: &Arc<ContentNames>| {
                let named: Vec<u64> = node.blobs.iter().copied().filter(|id| undecided.contains(id)).collect();
                let Some(config) = node.config.filter(|_| node.cache && !named.is_empty()) else { return };
                let (_, pushed) = root.times_of(digest);
                configs.entry((Reverse(pushed), config)).or_insert(named);
            };
            root.visit(&self.collector.graph, repo, visit).await?;
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
            for (blob, depth) in self.config_depths(scene.tenant, held, config).await? {
                let id = blob_id(scene.tenant, &blob);
                if undecided.contains(&id) {
                    let known = depths.entry(id).or_insert(depth);
                    *known = depth.min(*known);
                }
            }
        }
        Ok(depths)
    }

    /// Depths of the layers in a config; empty if it is missing or cannot be read.
    async fn config_depths(
        &self,
        tenant: &Tenant,
        held: &BlobInventory,
        config: Digest,
    ) -> Result<HashMap<Digest, u32>> {
        let is_small = |bytes: u64| bytes <= READ_BYTES_MAX;
        if !held.get(blob_id(tenant, &config)).is_some_and(|blob| is_small(blob.bytes)) {
            return Ok(HashMap::new());
        }
        // Not through the hot layer, which is for the reads of builds.
        let VerifiedRead::Right(bytes) = self.collector.graph.read(&layout::blob(tenant, &config), &config).await?
        else {
            return Ok(HashMap::new());
        };
        let placed = move || CacheConfig::parse(&bytes).map(|config| config.depths()).unwrap_or_default();
        Ok(tokio::task::spawn_blocking(placed).await?)
    }

    /// The blobs that the listed push records of a root reference.
    async fn recorded(&self, repo: &RepoListing, root: &Root) -> Result<HashSet<u64>> {
        let mut recorded = HashSet::new();
        for digest in root.history.pushes.keys() {
            recorded.extend(self.collector.graph.manifest(repo, *digest).await?.blobs.iter().copied());
        }
        Ok(recorded)
    }

    /// Content of each root that the tenant stores, each object once: referenced blobs, manifests, and the root's own
    /// objects.
    async fn contents(&self, scene: &Scene<'_>, held: &BlobInventory) -> Result<Vec<(usize, Vec<NamedBlob>)>> {
        let mut contents = Vec::new();
        for (at, repo, root) in scene.staying() {
            // The root may reference blobs that none of its listed records references.
            let is_newer = root.history.has_unlisted || root.history.view.is_some_and(|(_, at)| at + GRAIN >= self.now);
            let recorded = match is_newer && root.evictable == Evictable::ByLayer {
                true => Some(self.recorded(repo, root).await?),
                false => None,
            };
            let mut content = HashMap::<u64, NamedBlob>::new();
            let visit = |digest: Option<&Digest>, node: &Arc<ContentNames>| {
                let times = root.times_of(digest);
                let config = node.config.map(|config| blob_id(scene.tenant, &config));
                let there = node.blobs.iter().filter(|id| !self.known.has_fingerprint(**id));
                // The manifest itself is deleted with its roots.
                if let Some((digest, written)) = digest.and_then(|digest| Some((digest, repo.manifests.get(digest)?))) {
                    let id = fingerprint(repo.manifest_key(digest).as_str());
                    if !self.known.has_fingerprint(id) {
                        let (used, pushed) = times;
                        let bytes = written.bytes.max(OBJECT_FLOOR);
                        content.entry(id).or_insert(NamedBlob { id, bytes, used, pushed, fixed: true });
                    }
                }
                for blob in there.filter_map(|id| held.get(*id)) {
                    let fixed = blob.is_fixed || !node.cache || config == Some(blob.id);
                    // A blob that no listed record references has come with a later push.
                    let is_new = recorded.as_ref().is_some_and(|recorded| !recorded.contains(&blob.id));
                    let (used, pushed) = if is_new { (self.now, self.now) } else { times };
                    let bytes = blob.bytes.max(OBJECT_FLOOR);
                    let new = NamedBlob { id: blob.id, bytes, used, pushed, fixed };
                    let known = content.entry(blob.id).or_insert(new);
                    (known.used, known.pushed) = (known.used.max(used), known.pushed.max(pushed));
                    known.fixed |= fixed;
                }
            };
            root.visit(&self.collector.graph, repo, visit).await?;
            let own = root.keys().filter_map(|(key, bytes)| {
                let ((_, bytes), id) = (weight_of(key.as_str(), bytes)?, fingerprint(key.as_str()));
                Some((id, NamedBlob { id, bytes, used: root.used, pushed: root.pushed, fixed: true }))
            });
            content.extend(own);
            contents.push((at, content.into_values().collect()));
        }
        Ok(contents)
    }
}

fn blob_id(tenant: &Tenant, digest: &Digest) -> u64 {
    fingerprint(layout::blob(tenant, digest).as_str())
}

fn note(held: &mut BlobInventory, node: &ContentNames, is_young: bool) {
    for id in &node.blobs {
        if let Some(blob) = held.get_mut(*id) {
            blob.is_named = true;
            blob.is_fixed |= is_young && !node.cache;
        }
    }
}
