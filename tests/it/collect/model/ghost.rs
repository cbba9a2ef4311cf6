//! The promises of servers to clients, and whether they are kept. This observer sees the whole state at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use larder::digest::Digest;
use larder::lifetime::collect::Report;
use serde_json::Value;

use super::clients::CACHE;
use super::play::Setting;
use super::sim::{Deed, Object, Sim};

pub struct Ghost {
    sim: Sim,
    setting: Setting,
    /// The promises of each key.
    promised: HashMap<String, Vec<Promise>>,
    /// Promises so far.
    promises: usize,
    /// Writings of tags that were acknowledged, and when.
    acknowledged: HashMap<u64, SystemTime>,
    /// Caches that were acknowledged, and when, since anything of the cache tag was last removed.
    caches: BTreeMap<Digest, SystemTime>,
    /// Blobs that a client has deleted by digest, and that no answer has referenced since.
    deleted_by_client: BTreeSet<String>,
    /// How often anything of the cache tag was removed.
    pub records_removed: usize,
    pub violation: Option<String>,
    pub deleted: usize,
    pub spared: usize,
    pub said: Vec<String>,
}

struct Promise {
    /// Position among all promises.
    number: usize,
    until: SystemTime,
    how: String,
}

/// Caches that had been acknowledged when a request began, and the time of that.
pub struct Caches {
    acknowledged: BTreeMap<Digest, SystemTime>,
    records_removed: usize,
}

pub fn blob_key(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("t/default/blobs/sha256/{}/{hex}", &hex[..2])
}

pub fn manifest_key(repo: &str, digest: &Digest) -> String {
    format!("t/default/repos/{repo}/!/manifests/sha256/{}", digest.hex())
}

impl Ghost {
    pub fn new(sim: Sim, setting: Setting) -> Ghost {
        Ghost {
            sim,
            setting,
            promised: HashMap::new(),
            promises: 0,
            acknowledged: HashMap::new(),
            caches: BTreeMap::new(),
            deleted_by_client: BTreeSet::new(),
            records_removed: 0,
            violation: None,
            deleted: 0,
            spared: 0,
            said: Vec::new(),
        }
    }

    fn object(&self, key: &str) -> Option<Object> {
        self.sim.state.lock().unwrap().objects.get(key).cloned()
    }

    fn has(&self, key: &str) -> bool {
        self.sim.state.lock().unwrap().objects.contains_key(key)
    }

    fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// Time for which an answer must stay true.
    fn promise(&self) -> Duration {
        // While a tenant is over its limit, its content waits for an hour at most.
        let wait = self.setting.wait();
        let wait = if self.setting.room.is_some() { wait.min(Duration::from_secs(3600)) } else { wait };
        wait - self.setting.age - Duration::from_secs(2)
    }

    /// Records that a client was told that `key` exists.
    pub fn advertised(&mut self, key: &str, how: &str) {
        self.said.push(format!("    {how}: {key} is there"));
        if !self.has(key) {
            self.fail(format!("{how}: {key} is not there"));
        }
        let until = self.sim.now() + self.promise();
        self.stays(key, until, how);
    }

    fn stays(&mut self, key: &str, until: SystemTime, how: &str) {
        let now = self.sim.now();
        let promised = self.promised.entry(key.to_string()).or_default();
        promised.retain(|promise| promise.until >= now);
        self.promises += 1;
        promised.push(Promise { number: self.promises, until, how: how.to_string() });
    }

    /// Number of promises so far.
    pub fn promises(&self) -> usize {
        self.promises
    }

    /// A promise that still holds, of the first `promises` ones.
    fn promised(&self, key: &str, promises: usize) -> Option<&Promise> {
        let now = self.sim.now();
        let of_key = self.promised.get(key)?.iter();
        of_key.filter(|promise| promise.number <= promises && promise.until >= now).max_by_key(|promise| promise.until)
    }

    /// Caches that a view which is asked for from now on must contain.
    pub fn cache_pushes(&self) -> Caches {
        Caches { acknowledged: self.caches.clone(), records_removed: self.records_removed }
    }

    /// Records that a tag served this to a client. Returns the blobs that it references.
    pub fn served(&mut self, repo: &str, tag: &str, digest: &Digest, before: Caches) -> Vec<Digest> {
        self.said.push(format!("    {tag} serves {digest}"));
        let until = self.sim.now() + self.promise().min(self.setting.lease - Duration::from_secs(2));
        let manifest = manifest_key(repo, digest);
        let named = self.named_by(&manifest);
        self.deleted_by_client.retain(|key| !named.iter().any(|digest| blob_key(digest) == *key));
        for key in std::iter::once(manifest).chain(named.iter().map(blob_key)) {
            if !self.has(&key) {
                self.fail(format!("{tag} serves {digest}, but {key} is not there"));
            }
            self.stays(&key, until, "lease");
        }
        let complete = tag == CACHE && before.records_removed == self.records_removed;
        // With eviction of layers, views lack those that were not pushed just now. An answer may take longer than that.
        let (now, Setting { age, room, .. }) = (self.sim.now(), self.setting);
        let just_now = |at: &SystemTime| now.duration_since(*at).is_ok_and(|passed| passed < age);
        let must_be_there = |at: &SystemTime| complete && (room.is_none() || just_now(at));
        for (push, _) in before.acknowledged.iter().filter(|(_, at)| must_be_there(at)) {
            let layers = self.layers_of(&manifest_key(repo, push));
            if let Some(layer) = layers.iter().find(|layer| !named.contains(layer)) {
                self.fail(format!("the view {digest} lacks {layer} of the acknowledged push {push}"));
            }
        }
        named
    }

    /// A blob that a client was served by a tag cannot be read, within the lease.
    pub fn unreadable(&mut self, digest: &Digest) {
        let key = blob_key(digest);
        let is_wanted = !self.deleted_by_client.contains(&key);
        if is_wanted && self.promised(&key, self.promises).is_some() {
            self.fail(format!("{digest} cannot be read, though leased"));
        }
    }

    /// Records that a client deleted a blob by its digest: from now on the asked server denies it, though the collector
    /// keeps its promises.
    pub fn deleting(&mut self, digest: &Digest) {
        self.said.push(format!("    deletes {digest}"));
        self.deleted_by_client.insert(blob_key(digest));
    }

    pub fn not_deleted(&mut self, digest: &Digest) {
        self.deleted_by_client.remove(&blob_key(digest));
    }

    /// A push to a tag was acknowledged. `began` is the number of removals when it began.
    pub fn pushed(&mut self, repo: &str, tag: &str, digest: &Digest, began: usize) {
        self.said.push(format!("    pushed {digest} to {tag}"));
        let key = format!("t/default/repos/{repo}/!/tags/{tag}");
        if tag == CACHE && began == self.records_removed {
            let hex = digest.hex();
            let state = self.sim.state.lock().unwrap();
            let records = format!("t/default/repos/{repo}/!/pushes/{tag}/");
            let recorded = state.objects.keys().any(|key| key.starts_with(&records) && key.ends_with(&hex));
            drop(state);
            if !recorded {
                self.fail(format!("the acknowledged push {digest} left no record"));
            }
            self.caches.insert(*digest, self.sim.now());
        }
        // Another client may have pushed or deleted since.
        let Some(found) = self.object(&key) else { return };
        let pointer: Value = serde_json::from_slice(&found.bytes).unwrap();
        if pointer["digest"] == digest.to_string() {
            self.acknowledged.insert(found.version, self.sim.now());
        }
        self.whole(&key, "push acknowledged");
    }

    /// Checks a push that was refused because these are missing. It began after so many `promises`: later promises to
    /// other clients were promises to this one, too.
    pub fn refused(&mut self, digests: &[Digest], promises: usize) {
        for digest in digests {
            if let Some(Promise { how, .. }) = self.promised(&blob_key(digest), promises) {
                let why = format!("{digest} was refused, though promised by {how}");
                self.fail(why);
            }
        }
    }

    fn manifest(&self, key: &str) -> Option<Value> {
        Some(serde_json::from_slice(&self.object(key)?.bytes).unwrap())
    }

    fn layers_of(&self, manifest: &str) -> Vec<Digest> {
        let parsed = self.manifest(manifest).unwrap_or_default();
        let layers = parsed["layers"].as_array().into_iter().flatten();
        layers.filter_map(|layer| layer["digest"].as_str()).map(|digest| digest.parse().unwrap()).collect()
    }

    fn named_by(&self, manifest: &str) -> Vec<Digest> {
        let config = self.manifest(manifest).unwrap_or_default();
        let config = config["config"]["digest"].as_str().map(|digest| digest.parse().unwrap());
        self.layers_of(manifest).into_iter().chain(config).collect()
    }

    /// Checks that a tag references no missing content, except for evicted layers of a cache.
    fn whole(&mut self, tag: &str, when: &str) {
        let Some(found) = self.object(tag) else { return };
        let pointer: Value = serde_json::from_slice(&found.bytes).unwrap();
        let repo = tag.split("/!/").next().unwrap().trim_start_matches("t/default/repos/");
        let manifest = manifest_key(repo, &pointer["digest"].as_str().unwrap().parse().unwrap());
        let layers = self.layers_of(&manifest);
        let may_lack = |digest: &Digest| self.setting.room.is_some() && tag.ends_with(CACHE) && layers.contains(digest);
        let named = self.named_by(&manifest).into_iter().filter(|digest| !may_lack(digest)).collect::<Vec<_>>();
        for key in std::iter::once(manifest.clone()).chain(named.iter().map(blob_key)) {
            if !self.has(&key) {
                self.fail(format!("{when}: {tag} names {key}, which is not there"));
            }
        }
    }

    /// Checks the deeds of servers and collectors.
    pub fn look(&mut self, deeds: Vec<Deed>) {
        let now = self.sim.now();
        for deed in deeds {
            let Deed { key, object, by_collector } = deed;
            if key.starts_with("condemned/") {
                continue;
            }
            if key.contains(&format!("/pushes/{CACHE}/")) || key.ends_with(&format!("/tags/{CACHE}")) {
                self.records_removed += 1;
                self.caches.clear();
            }
            if !by_collector {
                continue;
            }
            self.deleted += 1;
            if let Some(Promise { until, how, .. }) = self.promised(&key, self.promises) {
                let left = until.duration_since(now).unwrap_or_default();
                let why = format!("{key} was deleted {left:?} before its time, promised by {how}");
                self.fail(why);
            }
            if let Some(at) = self.acknowledged.get(&object.version)
                && now.duration_since(*at).is_ok_and(|age| age < self.promise())
            {
                let why = format!("{key} was retired though pushed just now");
                self.fail(why);
            }
        }
        let tags: Vec<String> = {
            let mut state = self.sim.state.lock().unwrap();
            if !std::mem::take(&mut state.changed) {
                return;
            }
            state.objects.keys().filter(|key| key.contains("/!/tags/")).cloned().collect()
        };
        tags.iter().for_each(|tag| self.whole(tag, "now"));
    }

    pub fn count(&mut self, report: &Report) {
        self.spared += (report.spared + report.kept) as usize;
    }
}
