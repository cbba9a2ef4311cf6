//! The tags of the store in memory, for display: each with its size, its age and its pushes.
//!
//! A scan of the store writes the inventory ([`crate::capacity::usage`]), and this server's changes are added
//! meanwhile. So no page lists the store, and none waits for it. Of other servers' changes the inventory knows those
//! before the scan; pages show its age, and nothing is decided by it.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::Notify;

use crate::digest::Digest;
use crate::events::LayerSum;
use crate::names::{RepoName, Tag, Tenant};
use crate::oci::ManifestContent;

/// Maximum number of remembered tags, of all tenants: about 300 bytes each. Beyond it, new tags are left out.
pub const TAGS_MAX: usize = 50_000;

/// The tags of one repository.
pub type TagEntries = BTreeMap<Tag, TagEntry>;
/// The repositories of one tenant.
pub type Repos = BTreeMap<RepoName, TagEntries>;

/// A tag, as far as this server knows it.
#[derive(Clone, Debug, Serialize)]
pub struct TagEntry {
    pub pushed: Timestamp,
    /// The manifest that was pushed last.
    #[serde(skip)]
    pub digest: Digest,
    /// Time of the last use, noted once an hour at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<Timestamp>,
    /// Whether its manifest is a cache.
    pub cache: bool,
    /// Pushes in its view; 0 if it serves the last push.
    pub pushes: u64,
    #[serde(flatten)]
    pub weight: Weight,
    /// Bytes of those that other tags of the tenant reference, too. Known once the store has been counted since the push.
    pub shared: Option<u64>,
    /// Time at which this server learnt of it.
    #[serde(skip)]
    pub learnt: Instant,
}

impl TagEntry {
    /// Time of the last push or use.
    pub fn last(&self) -> Timestamp {
        self.used.map_or(self.pushed, |used| used.max(self.pushed))
    }
}

/// The known tags of all tenants.
#[derive(Default)]
pub struct TagInventory {
    tenants: RwLock<BTreeMap<Tenant, Repos>>,
    changed: Notify,
}

/// Size of the content of a tag or a manifest, as the manifests say.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Weight {
    /// Bytes of all blobs that are referenced, each counted once.
    pub bytes: u64,
    /// Bytes of the served manifest.
    pub manifest_bytes: u64,
    /// Bytes of its config.
    pub config_bytes: u64,
    /// The config, which an import reads by its digest.
    #[serde(skip)]
    pub config: Option<Digest>,
    /// Layers of the served manifest, and their bytes.
    #[serde(skip)]
    pub layers: LayerSum,
}

impl Weight {
    pub(crate) fn of(parsed: &ManifestContent, manifest_bytes: u64) -> Weight {
        let mut layers = LayerSum::default();
        parsed.layers().iter().for_each(|(_, size)| layers.add(*size));
        let mut named = parsed.blobs.iter().zip(&parsed.sizes);
        let config_bytes = named.find(|(blob, _)| Some(*blob) == parsed.config.as_ref()).map_or(0, |(_, size)| *size);
        let bytes = layers.bytes.saturating_add(config_bytes);
        Weight { bytes, manifest_bytes, config_bytes, config: parsed.config, layers }
    }
}

impl TagInventory {
    /// Calls `f` with the known tags of a tenant. It holds the lock, so `f` must be short.
    pub fn look<T>(&self, tenant: &Tenant, f: impl FnOnce(&Repos) -> T) -> T {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        match tenants.get(tenant) {
            Some(repos) => f(repos),
            None => f(&Repos::new()),
        }
    }

    /// The tag to which a manifest was pushed last; of several, the one that was pushed or used last.
    pub(crate) fn tag_of(&self, tenant: &Tenant, repo: &RepoName, digest: &Digest) -> Option<Tag> {
        self.look(tenant, |repos| {
            let tags = repos.get(repo)?.iter().filter(|(_, entry)| entry.digest == *digest);
            tags.max_by_key(|(_, entry)| entry.last()).map(|(tag, _)| tag.clone())
        })
    }

    /// The tag that serves a cache with this config, and its layers; of several, the one that was pushed or used last.
    pub fn tag_with_config(&self, tenant: &Tenant, repo: &RepoName, config: &Digest) -> Option<(Tag, LayerSum)> {
        self.look(tenant, |repos| {
            let tags = repos.get(repo)?.iter().filter(|(_, entry)| entry.weight.config.as_ref() == Some(config));
            tags.max_by_key(|(_, entry)| entry.last()).map(|(tag, entry)| (tag.clone(), entry.weight.layers))
        })
    }

    /// Resolves when the inventory has changed since the last call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Adds a push to a tag.
    pub(crate) fn pushed(
        &self,
        tenant: &Tenant,
        repo: &RepoName,
        tag: &Tag,
        digest: &Digest,
        cache: bool,
        weight: Weight,
    ) {
        self.change(tenant, repo, tag, |known| {
            let (used, pushes) = known.as_ref().map_or((None, 0), |known| (known.used, known.pushes));
            // A push of a cache adds bytes to those of the tag; how many, the next scan tells.
            let before = known.filter(|known| known.cache && cache).map_or(0, |known| known.weight.bytes);
            Some(TagEntry {
                pushed: Timestamp::now(),
                digest: *digest,
                used,
                cache,
                pushes: if cache { pushes.max(1) } else { 0 },
                weight: Weight { bytes: weight.bytes.max(before), ..weight },
                shared: None,
                learnt: Instant::now(),
            })
        });
    }

    /// Updates a tag whose view was made.
    pub(crate) fn viewed(&self, tenant: &Tenant, repo: &RepoName, tag: &Tag, pushes: usize, weight: Weight) {
        self.change(tenant, repo, tag, |known| {
            let known = known?;
            let shared = known.shared.filter(|_| weight.bytes == known.weight.bytes);
            Some(TagEntry { pushes: pushes as u64, weight, shared, learnt: Instant::now(), ..known })
        });
    }

    /// Updates a tag that was served.
    pub(crate) fn used(&self, tenant: &Tenant, repo: &RepoName, tag: &Tag) {
        self.change(tenant, repo, tag, |known| Some(TagEntry { used: Some(Timestamp::now()), ..known? }));
    }

    /// Removes a deleted tag.
    pub(crate) fn removed(&self, tenant: &Tenant, repo: &RepoName, tag: &Tag) {
        self.change(tenant, repo, tag, |_| None);
    }

    fn change(
        &self,
        tenant: &Tenant,
        repo: &RepoName,
        tag: &Tag,
        f: impl FnOnce(Option<TagEntry>) -> Option<TagEntry>,
    ) {
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        let known = tenants.get(tenant).and_then(|repos| repos.get(repo)?.get(tag)).cloned();
        let is_new = known.is_none();
        match f(known) {
            Some(entry) => {
                if is_new && count(&tenants) >= TAGS_MAX {
                    return;
                }
                let repos = tenants.entry(tenant.clone()).or_default();
                repos.entry(repo.clone()).or_default().insert(tag.clone(), entry);
            }
            None => {
                let Some(repos) = tenants.get_mut(tenant) else { return };
                let Some(tags) = repos.get_mut(repo) else { return };
                tags.remove(tag);
                if tags.is_empty() {
                    repos.remove(repo);
                }
                if repos.is_empty() {
                    tenants.remove(tenant);
                }
            }
        }
        self.changed.notify_one();
    }

    /// Replaces a tenant's tags by those that a scan found, which began at `began`. Later changes stay.
    pub(crate) fn replace(&self, tenant: &Tenant, mut found: Repos, began: Instant) {
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        for (repo, tags) in newer(tenants.remove(tenant).unwrap_or_default(), began) {
            found.entry(repo).or_default().extend(tags);
        }
        let mut room = TAGS_MAX.saturating_sub(count(&tenants));
        found.retain(|_, tags| {
            let fits = tags.len() <= room;
            room -= tags.len() * usize::from(fits);
            fits
        });
        if !found.is_empty() {
            tenants.insert(tenant.clone(), found);
        }
    }

    /// Forgets tenants that a scan, which began at `began`, has not found: a scope that another server collected, for
    /// example. Later changes stay.
    pub(crate) fn keep(&self, found: &[Tenant], began: Instant) {
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        tenants.retain(|tenant, repos| {
            if !found.contains(tenant) {
                *repos = newer(std::mem::take(repos), began);
            }
            !repos.is_empty()
        });
    }
}

/// Returns the tags that were learnt after a scan began.
fn newer(mut repos: Repos, began: Instant) -> Repos {
    repos.retain(|_, tags| {
        tags.retain(|_, entry| entry.learnt > began);
        !tags.is_empty()
    });
    repos
}

fn count(tenants: &BTreeMap<Tenant, Repos>) -> usize {
    tenants.values().flat_map(|repos| repos.values()).map(BTreeMap::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_replaces_what_is_known_but_not_what_came_since() {
        let (stock, tenant) = (TagInventory::default(), Tenant::default_tenant());
        let (repo, weight): (RepoName, _) = ("a".parse().unwrap(), Weight { bytes: 7, ..Weight::default() });
        let [old, gone, new]: [Tag; 3] = ["old", "gone", "new"].map(|tag| tag.parse().unwrap());
        let digest = Digest::sha256(b"manifest");
        stock.pushed(&tenant, &repo, &old, &digest, true, weight);
        stock.pushed(&tenant, &repo, &gone, &digest, true, weight);
        let began = Instant::now();
        let mut found = stock.look(&tenant, Repos::clone);
        let tags = found.get_mut(&repo).unwrap();
        tags.remove(&gone);
        tags.get_mut(&old).unwrap().shared = Some(3);
        stock.pushed(&tenant, &repo, &new, &digest, false, weight);
        stock.replace(&tenant, found, began);
        stock.look(&tenant, |repos| {
            let tags = &repos[&repo];
            assert_eq!(tags.keys().collect::<Vec<_>>(), [&new, &old]);
            assert_eq!((tags[&old].shared, tags[&new].shared), (Some(3), None));
            assert_eq!((tags[&old].pushes, tags[&new].pushes), (1, 0));
        });
        stock.removed(&tenant, &repo, &old);
        stock.removed(&tenant, &repo, &new);
        assert!(stock.look(&tenant, Repos::is_empty));
    }

    #[test]
    fn tenants_that_are_gone_make_room() {
        let (stock, gone, kept) = (TagInventory::default(), "pull-1".parse().unwrap(), Tenant::default_tenant());
        let (repo, digest): (RepoName, _) = ("a".parse().unwrap(), Digest::sha256(b"manifest"));
        let tag = |number: usize| format!("t{number}").parse::<Tag>().unwrap();
        for number in 0..TAGS_MAX {
            stock.pushed(&gone, &repo, &tag(number), &digest, true, Weight::default());
        }
        stock.pushed(&kept, &repo, &tag(0), &digest, true, Weight::default());
        assert!(stock.look(&kept, Repos::is_empty), "there is no room");
        let began = Instant::now();
        stock.pushed(&gone, &repo, &tag(1), &digest, true, Weight::default());
        stock.keep(std::slice::from_ref(&kept), began);
        stock.look(&gone, |repos| assert_eq!(repos[&repo].keys().collect::<Vec<_>>(), [&tag(1)]));
        stock.pushed(&kept, &repo, &tag(0), &digest, true, Weight::default());
        assert_eq!(stock.tag_of(&kept, &repo, &digest), Some(tag(0)));
        stock.keep(std::slice::from_ref(&kept), Instant::now());
        assert!(stock.look(&gone, Repos::is_empty) && !stock.look(&kept, Repos::is_empty));
    }

    #[test]
    fn what_is_shown_was_there() {
        let (stock, tenant, repo) = (TagInventory::default(), Tenant::default_tenant(), "a".parse().unwrap());
        let tag: Tag = "t".parse().unwrap();
        stock.used(&tenant, &repo, &tag);
        stock.viewed(&tenant, &repo, &tag, 3, Weight::default());
        assert!(stock.look(&tenant, Repos::is_empty));
    }
}
