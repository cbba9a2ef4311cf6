//! What was promised to clients, and whether it is kept. It sees everything at once, as nobody in the system does.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use larder::digest::Digest;
use larder::store::collect::Report;
use serde_json::Value;

use super::play::Setting;
use super::sim::{Deed, Sim};

pub struct Ghost {
    sim: Sim,
    setting: Setting,
    /// Until when a key was promised to stay, and by what.
    promised: HashMap<String, (SystemTime, String)>,
    /// Writings of tags that were acknowledged, and when.
    acknowledged: HashMap<u64, SystemTime>,
    /// Layers that may go though they are named.
    pub evictable: HashSet<String>,
    pub violation: Option<String>,
    pub deleted: usize,
    pub spared: usize,
    pub said: Vec<String>,
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
            acknowledged: HashMap::new(),
            evictable: HashSet::new(),
            violation: None,
            deleted: 0,
            spared: 0,
            said: Vec::new(),
        }
    }

    fn has(&self, key: &str) -> bool {
        self.sim.state.lock().unwrap().objects.contains_key(key)
    }

    fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// How long after an answer what it said holds.
    fn promise(&self) -> Duration {
        self.setting.wait() - self.setting.age - Duration::from_secs(2)
    }

    /// A client was told that `key` is there.
    pub fn advertised(&mut self, key: &str, how: &str) {
        self.said.push(format!("    {how}: {key} is there"));
        if !self.has(key) {
            self.fail(format!("{how}: {key} is not there"));
        }
        let until = self.sim.now() + self.promise();
        self.stays(key, until, how);
    }

    fn stays(&mut self, key: &str, until: SystemTime, how: &str) {
        let promised = self.promised.entry(key.to_string()).or_insert((until, how.to_string()));
        if promised.0 < until {
            *promised = (until, how.to_string());
        }
    }

    /// A client was served this by a tag.
    pub fn served(&mut self, repo: &str, digest: &Digest) {
        self.said.push(format!("    served {digest}"));
        let until = self.sim.now() + self.setting.lease - Duration::from_secs(2);
        let manifest = manifest_key(repo, digest);
        for key in std::iter::once(manifest.clone()).chain(self.named_by(&manifest)) {
            if !self.has(&key) {
                self.fail(format!("a tag serves {digest}, but {key} is not there"));
            }
            self.stays(&key, until, "lease");
        }
    }

    /// A push to a tag was acknowledged.
    pub fn pushed(&mut self, repo: &str, tag: &str, digest: &Digest) {
        self.said.push(format!("    pushed {digest} to {tag}"));
        let key = format!("t/default/repos/{repo}/!/tags/{tag}");
        let found = self.sim.state.lock().unwrap().objects.get(&key).cloned();
        // Somebody else may have pushed or deleted since.
        let Some(found) = found else { return };
        let pointer: Value = serde_json::from_slice(&found.bytes).unwrap();
        if pointer["digest"] == digest.to_string() {
            self.acknowledged.insert(found.version, self.sim.now());
            self.whole(&key, "push acknowledged");
        }
    }

    /// A push was refused because this is not there.
    pub fn refused(&mut self, digests: &[Digest]) {
        let now = self.sim.now();
        for digest in digests {
            let key = blob_key(digest);
            if let Some((until, how)) = self.promised.get(&key)
                && *until >= now
            {
                let why = format!("{digest} was refused, though promised by {how}");
                self.fail(why);
            }
        }
    }

    fn named_by(&self, manifest: &str) -> Vec<String> {
        let Some(found) = self.sim.state.lock().unwrap().objects.get(manifest).cloned() else { return Vec::new() };
        let parsed: Value = serde_json::from_slice(&found.bytes).unwrap();
        let layers = parsed["layers"].as_array().into_iter().flatten();
        let named = layers.chain([&parsed["config"]]).filter_map(|named| named["digest"].as_str());
        named.map(|digest| blob_key(&digest.parse().unwrap())).collect()
    }

    /// An acknowledged tag names nothing that is not there.
    fn whole(&mut self, tag: &str, when: &str) {
        let found = self.sim.state.lock().unwrap().objects.get(tag).cloned();
        let Some(found) = found.filter(|found| self.acknowledged.contains_key(&found.version)) else { return };
        let pointer: Value = serde_json::from_slice(&found.bytes).unwrap();
        let repo = tag.split("/!/").next().unwrap().trim_start_matches("t/default/repos/");
        let manifest = manifest_key(repo, &pointer["digest"].as_str().unwrap().parse().unwrap());
        for key in std::iter::once(manifest.clone()).chain(self.named_by(&manifest)) {
            if !self.has(&key) && !self.evictable.contains(&key) {
                self.fail(format!("{when}: {tag} names {key}, which is not there"));
            }
        }
    }

    /// Looks at what has been done.
    pub fn look(&mut self, deeds: Vec<Deed>) {
        let now = self.sim.now();
        let mut tags_too = false;
        for deed in deeds {
            let Deed { key, object, by_collector } = deed;
            if key.starts_with("condemned/") {
                continue;
            }
            tags_too = true;
            if !by_collector {
                continue;
            }
            self.deleted += 1;
            if let Some((until, how)) = self.promised.get(&key)
                && *until >= now
            {
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
        if tags_too {
            let tags: Vec<String> = {
                let state = self.sim.state.lock().unwrap();
                state.objects.keys().filter(|key| key.contains("/!/tags/")).cloned().collect()
            };
            tags.iter().for_each(|tag| self.whole(tag, "after a delete"));
        }
    }

    pub fn count(&mut self, report: &Report) {
        self.spared += (report.spared + report.kept) as usize;
    }
}
