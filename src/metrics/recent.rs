//! Recent imports, exports and evictions, and the history of counters, for display.
//!
//! All of it is in memory, bounded, and of this server since its start.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use moka::sync::Cache;
use parking_lot::Mutex;
use serde::Serialize;

use super::tenant::{Reading, Tenants};
use crate::digest::Digest;
use crate::events::{BuildAction, BuildId, Eviction, LayerSum};
use crate::names::{RepoName, Tag, Tenant};

/// Imports and exports that are remembered.
const BUILDS_MAX: usize = 200;
/// Evictions that are remembered.
const EVICTIONS_MAX: usize = 1000;
/// Time between two readings of the counters.
pub const READ_EVERY: Duration = Duration::from_secs(300);
/// Readings that are remembered: a day.
const READINGS_MAX: usize = 288;
/// Builds whose beginning is remembered, and for how long at most.
const BEGUN_MAX: u64 = 10_000;
const BEGUN_AGE_MAX: Duration = Duration::from_secs(3600);
/// Received blobs that no export has referenced yet and that are remembered, and for how long at most.
const RECEIVED_MAX: u64 = 50_000;
const RECEIVED_AGE_MAX: Duration = Duration::from_secs(3600);

/// An import or an export that has ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Build {
    pub at: Timestamp,
    pub tenant: Tenant,
    pub repo: RepoName,
    /// An import reads a config by its digest: of a tag that this server has not counted it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    #[serde(rename = "deed")]
    pub action: BuildAction,
    /// Of an import, whether there was a cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<bool>,
    /// The caller, if callers need credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub who: Option<Box<str>>,
    /// The layers that an import was offered, or that an export references.
    #[serde(flatten)]
    pub layers: BuildLayers,
    /// From its first request to its last, where the builder says which requests are one build's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// The layers of an import or an export, as far as this server knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BuildLayers {
    /// All that are referenced.
    #[serde(rename = "layers", skip_serializing_if = "Option::is_none")]
    pub all: Option<LayerSum>,
    /// Of an export, those that this server received within the last hour and that no export had referenced since. The
    /// others were there before, or came by another server.
    #[serde(rename = "new_layers", skip_serializing_if = "Option::is_none")]
    pub new: Option<LayerSum>,
}

/// The counters of a tenant at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Step {
    pub at: Timestamp,
    #[serde(flatten)]
    pub reading: Reading,
}

/// Recent events.
pub struct Recent {
    builds: Mutex<VecDeque<Build>>,
    evictions: Mutex<VecDeque<Eviction>>,
    history: Mutex<BTreeMap<Tenant, History>>,
    /// Time of the first request of a build, by build and hash of the repository.
    begun: Cache<(BuildId, u64, BuildAction), Instant>,
    /// Blobs that were received since their last export, by the hash of tenant and digest.
    received: Cache<u64, ()>,
    pub began: Timestamp,
}

#[derive(Default)]
struct History {
    last: Reading,
    steps: VecDeque<Step>,
}

impl Default for Recent {
    fn default() -> Self {
        Recent {
            builds: Mutex::default(),
            evictions: Mutex::default(),
            history: Mutex::default(),
            begun: Cache::builder().max_capacity(BEGUN_MAX).time_to_live(BEGUN_AGE_MAX).build(),
            received: Cache::builder().max_capacity(RECEIVED_MAX).time_to_live(RECEIVED_AGE_MAX).build(),
            began: Timestamp::now(),
        }
    }
}

fn keep<T>(ring: &Mutex<VecDeque<T>>, new: T, max: usize) {
    let mut ring = ring.lock();
    if ring.len() >= max {
        ring.pop_front();
    }
    ring.push_back(new);
}

/// Stands for a repository, or a blob of a tenant.
fn hash(place: (&Tenant, impl Hash)) -> u64 {
    BuildHasherDefault::<DefaultHasher>::new().hash_one(place)
}

impl Recent {
    pub(super) fn build(&self, build: Build) {
        keep(&self.builds, build, BUILDS_MAX);
    }

    pub(super) fn eviction(&self, eviction: Eviction) {
        keep(&self.evictions, eviction, EVICTIONS_MAX);
    }

    /// The newest first.
    pub fn builds(&self) -> Vec<Build> {
        self.builds.lock().iter().rev().cloned().collect()
    }

    /// The newest first.
    pub fn evictions(&self) -> Vec<Eviction> {
        self.evictions.lock().iter().rev().cloned().collect()
    }

    /// A request of a build that is on its way to `action`: the first one counts.
    pub fn begin(&self, build: BuildId, place: (&Tenant, &RepoName), action: BuildAction) {
        let key = (build, hash(place), action);
        // A look costs less than the lock of an insert, and a build has many requests.
        if !self.begun.contains_key(&key) {
            self.begun.entry(key).or_insert_with(Instant::now);
        }
    }

    /// The action is done: since its first request. What comes then is of the next one.
    pub(super) fn end(&self, build: BuildId, place: (&Tenant, &RepoName), action: BuildAction) -> Option<Duration> {
        Some(self.begun.remove(&(build, hash(place), action))?.elapsed())
    }

    /// A client has sent a blob.
    pub fn received(&self, tenant: &Tenant, blob: &Digest) {
        self.received.insert(hash((tenant, blob)), ());
    }

    /// The layers of an export that has just ended. Those that were received for it are of no later one.
    pub(super) fn exported(&self, tenant: &Tenant, layers: &[(Digest, u64)]) -> BuildLayers {
        let (mut all, mut new) = (LayerSum::default(), LayerSum::default());
        for (digest, bytes) in layers {
            all.add(*bytes);
            if self.received.remove(&hash((tenant, digest))).is_some() {
                new.add(*bytes);
            }
        }
        BuildLayers { all: Some(all), new: Some(new) }
    }

    /// The caller that pushed a cache to a tag last, as far as this server remembers.
    pub fn last_export(&self, tenant: &Tenant, repo: &RepoName, tag: &Tag) -> Option<Build> {
        let is_it = |build: &&Build| {
            build.action == BuildAction::Export
                && build.tag.as_ref() == Some(tag)
                && build.repo == *repo
                && build.tenant == *tenant
        };
        self.builds.lock().iter().rev().find(is_it).cloned()
    }

    /// Reads the counters of all tenants: every [`READ_EVERY`].
    pub fn read(&self, tenants: &Tenants, now: Timestamp) {
        let mut history = self.history.lock();
        for (tenant, numbers) in tenants.all() {
            let (reading, history) = (numbers.reading(), history.entry(tenant).or_default());
            if history.steps.len() >= READINGS_MAX {
                history.steps.pop_front();
            }
            history.steps.push_back(Step { at: now, reading: reading.since(&history.last) });
            history.last = reading;
        }
    }

    /// Steps of the counters of these tenants, oldest first; the last one is since the last reading.
    pub fn history(&self, tenants: &Tenants, of: impl Fn(&Tenant) -> bool, now: Timestamp) -> Vec<Step> {
        let history = self.history.lock();
        let mut sum = BTreeMap::<Timestamp, Reading>::new();
        for (tenant, numbers) in tenants.all().into_iter().filter(|(tenant, _)| of(tenant)) {
            let known = history.get(&tenant);
            let last = known.map_or(Reading::default(), |known| known.last);
            let open = Step { at: now, reading: numbers.reading().since(&last) };
            for step in known.iter().flat_map(|known| &known.steps).copied().chain([open]) {
                let total = sum.entry(step.at).or_default();
                *total = total.plus(&step.reading);
            }
        }
        sum.into_iter().map(|(at, reading)| Step { at, reading }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::super::tenant::Asked;
    use super::*;

    #[test]
    fn history_shows_what_came_in_each_step_and_since() {
        let metrics = Metrics::default();
        let tenant = Tenant::default_tenant();
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let ask = |times: usize, found: bool| {
            (0..times).for_each(|_| metrics.tenants.of(&tenant).asked(Asked::Blob, found));
        };
        ask(3, true);
        metrics.recent.read(&metrics.tenants, at(1));
        ask(1, false);
        metrics.recent.read(&metrics.tenants, at(2));
        ask(2, true);
        let history = metrics.recent.history(&metrics.tenants, |_| true, at(3));
        let seen: Vec<(u64, u64)> = history.iter().map(|step| (step.reading.hits, step.reading.misses)).collect();
        assert_eq!(seen, [(3, 0), (0, 1), (2, 0)]);
        assert!(metrics.recent.history(&metrics.tenants, |_| false, at(3)).is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let metrics = Metrics::default();
        let build = Build {
            at: Timestamp::UNIX_EPOCH,
            tenant: Tenant::default_tenant(),
            repo: "a".parse().unwrap(),
            tag: None,
            action: BuildAction::Import,
            found: Some(true),
            who: None,
            layers: BuildLayers::default(),
            seconds: None,
        };
        (0..BUILDS_MAX * 2).for_each(|_| metrics.recent.build(build.clone()));
        assert_eq!(metrics.recent.builds().len(), BUILDS_MAX);
        metrics.tenants.of(&Tenant::default_tenant());
        (0..READINGS_MAX as i64 * 2).for_each(|second| {
            metrics.recent.read(&metrics.tenants, Timestamp::from_second(second).unwrap());
        });
        let history = metrics.recent.history(&metrics.tenants, |_| true, Timestamp::now());
        assert_eq!(history.len(), READINGS_MAX + 1);
    }

    #[test]
    fn an_action_lasts_from_its_first_request() {
        let (recent, build) = (Recent::default(), BuildId(1));
        let (tenant, repo, other) = (Tenant::default_tenant(), "a".parse().unwrap(), "b".parse().unwrap());
        assert!(recent.end(build, (&tenant, &repo), BuildAction::Export).is_none());
        recent.begin(build, (&tenant, &repo), BuildAction::Export);
        assert!(recent.end(build, (&tenant, &repo), BuildAction::Import).is_none());
        assert!(recent.end(build, (&tenant, &other), BuildAction::Export).is_none());
        assert!(recent.end(build, (&tenant, &repo), BuildAction::Export).is_some());
        assert!(recent.end(build, (&tenant, &repo), BuildAction::Export).is_none());
    }
}
