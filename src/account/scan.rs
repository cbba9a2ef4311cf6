//! Counts the content of a tenant: one pass over its keys, which reads every manifest and every pointer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::ready;
use std::time::{Instant, SystemTime};

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use crate::capacity::usage::{Scanned, weight};
use crate::content::condemned::fingerprint;
use crate::digest::Digest;
use crate::error::Result;
use crate::layout;
use crate::layout::Place;
use crate::names::{RepoName, Tag, Tenant};
use crate::oci::ManifestContent;
use crate::refs::Refs;
use crate::refs::graph::{ManifestGraph, closure};
use crate::refs::inventory::{Repos, TagEntries, TagEntry, Weight};
use crate::refs::listing::{RepoListing, walk};
use crate::refs::root::Root;
use crate::refs::roots::roots;

/// Manifests that a scan reads at the same time: few, because it has time.
const READS: usize = 4;
/// References from tags to blobs that are remembered until the scan ends, to find shared blobs; four bytes each.
/// Beyond, the shared bytes of further tags are unknown.
const NAMED_MAX: usize = 8 << 20;

/// Counts a tenant: its sums, and its tags.
pub(super) async fn scan(refs: &Refs, tenant: &Tenant) -> Result<(Scanned, Repos)> {
    let mut scan = Scan { graph: ManifestGraph::new(refs), found: Scanned::default(), blobs: BlobNumbers::default() };
    let mut tags = OfTags::default();
    let mut repo: Option<RepoListing> = None;
    let mut listed = walk(&**refs.objects(), &layout::tenant_prefix(tenant));
    while let Some((place, meta)) = listed.try_next().await? {
        scan.found.bytes += place.as_ref().map_or(0, |place| weight(place, meta.size));
        match place {
            Some(Place::Blob { .. }) => scan.found.blobs += 1,
            Some(Place::Repo { repo: name, item, .. }) => {
                if repo.as_ref().is_none_or(|known| known.name != name)
                    && let Some(all) = repo.replace(RepoListing::new(tenant, name))
                {
                    scan.repo(all, &mut tags).await?;
                }
                if let Some(repo) = &mut repo {
                    repo.add(item, meta);
                }
            }
            _ => {}
        }
    }
    if let Some(all) = repo {
        scan.repo(all, &mut tags).await?;
    }
    let tags = tags.end(&scan.blobs);
    scan.found.at = Timestamp::now();
    Ok((scan.found, tags))
}

struct Scan {
    graph: ManifestGraph,
    found: Scanned,
    blobs: BlobNumbers,
}

/// The referenced blobs, each by a number, with its size in bytes and the number of tags that reference it.
#[derive(Default)]
struct BlobNumbers {
    numbers: HashMap<u64, u32>,
    sizes: Vec<(u64, u32)>,
}

impl BlobNumbers {
    fn number(&mut self, id: u64, size: u64) -> u32 {
        let next = u32::try_from(self.sizes.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(id).or_insert(next);
        if number == next && next < u32::MAX {
            self.sizes.push((size, 0));
        }
        number
    }

    fn name(&mut self, blob: u32) {
        if let Some((_, tags)) = self.sizes.get_mut(blob as usize) {
            *tags = tags.saturating_add(1);
        }
    }

    fn bytes<'a>(&self, blobs: impl IntoIterator<Item = &'a u32>) -> u64 {
        let sizes = blobs.into_iter().filter_map(|blob| self.sizes.get(*blob as usize));
        sizes.fold(0, |sum: u64, (size, _)| sum.saturating_add(*size))
    }
}

/// The tags found so far.
#[derive(Default)]
struct OfTags {
    tags: Repos,
    named: usize,
    /// The blobs of each tag, in the order of `tags`.
    blobs: BTreeMap<(RepoName, Tag), Vec<u32>>,
}

impl OfTags {
    /// All tags of the tenant, each with the bytes that it shares with others.
    fn end(mut self, blobs: &BlobNumbers) -> Repos {
        for ((repo, tag), named) in &self.blobs {
            let Some(entry) = self.tags.get_mut(repo).and_then(|tags| tags.get_mut(tag)) else { continue };
            let is_shared = |blob: &&u32| blobs.sizes.get(**blob as usize).is_some_and(|(_, tags)| *tags > 1);
            entry.shared = Some(blobs.bytes(named.iter().filter(is_shared)));
        }
        self.tags
    }
}

/// A manifest, in compact form.
struct Weighed {
    blobs: Vec<u32>,
    children: Vec<Digest>,
    weight: Weight,
    cache: bool,
}

impl Scan {
    /// Counts a repository whose listing is complete.
    async fn repo(&mut self, repo: RepoListing, found: &mut OfTags) -> Result<()> {
        let manifests = self.manifests(&repo).await?;
        let roots = roots(&self.graph, &repo).await?;
        let own = roots.iter().filter_map(|root| root.own.as_deref());
        let own: Vec<u32> = own
            .flat_map(|node| node.blobs.iter().zip(&node.sizes))
            .map(|(id, size)| self.blobs.number(*id, *size))
            .collect();
        let all: HashSet<u32> = manifests.values().flat_map(|manifest| &manifest.blobs).chain(&own).copied().collect();
        if !manifests.is_empty() || !repo.tags.is_empty() || !roots.is_empty() {
            let usage = self.found.repositories.entry(repo.name.to_string()).or_default();
            usage.manifests = manifests.len() as u64;
            usage.tags = repo.tags.len() as u64;
            usage.bytes = self.blobs.bytes(&all);
        }
        let mut tags = TagEntries::new();
        for root in &roots {
            let blobs = self.blobs_of(root, &manifests).await?;
            let bytes = self.blobs.bytes(&blobs);
            // The sizes in manifests are claims of the clients that pushed them.
            self.found.named_bytes = self.found.named_bytes.saturating_add(bytes);
            found.named += blobs.len();
            blobs.iter().for_each(|blob| self.blobs.name(*blob));
            let Some((tag, entry)) = entry(root, &manifests, bytes) else { continue };
            if found.named <= NAMED_MAX {
                found.blobs.insert((repo.name.clone(), tag.clone()), blobs);
            }
            tags.insert(tag, entry);
        }
        if !tags.is_empty() {
            found.tags.insert(repo.name, tags);
        }
        Ok(())
    }

    /// The blobs that a root references, each once.
    async fn blobs_of(&mut self, root: &Root, manifests: &HashMap<Digest, Weighed>) -> Result<Vec<u32>> {
        let own = root.own.iter().flat_map(|node| node.blobs.iter().zip(&node.sizes));
        let mut blobs: Vec<u32> = own.map(|(id, size)| self.blobs.number(*id, *size)).collect();
        let load = |digest: Digest| ready(Ok(manifests.get(&digest)));
        closure(root.manifests.iter().copied(), load, |_, manifest: Option<&Weighed>| {
            blobs.extend(manifest.into_iter().flat_map(|manifest| &manifest.blobs));
            manifest.map_or(Vec::new(), |manifest| manifest.children.clone())
        })
        .await?;
        blobs.sort_unstable();
        blobs.dedup();
        Ok(blobs)
    }

    /// Reads every manifest of a repository.
    async fn manifests(&mut self, repo: &RepoListing) -> Result<HashMap<Digest, Weighed>> {
        let graph = &self.graph;
        let read = |digest: Digest| {
            let (key, calls) = (repo.manifest_key(&digest), graph.calls());
            async move {
                let bytes = calls.read(&key).await?.map(|(_, bytes)| bytes);
                let parsed = bytes.map(|bytes| (ManifestContent::parse(&bytes, None).ok(), bytes.len() as u64));
                Ok::<_, crate::error::Error>((digest, parsed))
            }
        };
        let mut reads = stream::iter(repo.manifests.keys().copied()).map(read).buffered(READS);
        let mut manifests = HashMap::new();
        while let Some((digest, parsed)) = reads.try_next().await? {
            let Some((content, bytes)) = parsed else { continue };
            manifests.insert(digest, weigh(&mut self.blobs, &repo.tenant, content, bytes));
        }
        Ok(manifests)
    }
}

fn weigh(known: &mut BlobNumbers, tenant: &Tenant, content: Option<ManifestContent>, bytes: u64) -> Weighed {
    let Some(content) = content else {
        let weight = Weight { manifest_bytes: bytes, ..Weight::default() };
        return Weighed { blobs: Vec::new(), children: Vec::new(), weight, cache: false };
    };
    let id = |digest: &Digest| fingerprint(layout::blob(tenant, digest).as_str());
    let named = content.blobs.iter().zip(&content.sizes);
    let mut blobs: Vec<u32> = named.map(|(digest, size)| known.number(id(digest), *size)).collect();
    blobs.sort_unstable();
    blobs.dedup();
    Weighed { blobs, weight: Weight::of(&content, bytes), children: content.children, cache: content.cache }
}

/// The inventory's entry of a root, if it is a tag. `bytes` is the size of its blobs.
fn entry(root: &Root, manifests: &HashMap<Digest, Weighed>, bytes: u64) -> Option<(Tag, TagEntry)> {
    let history = &root.history;
    let (tag, digest) = (root.id.tag.clone()?, history.pointed?);
    let manifest = manifests.get(&history.view.map_or(digest, |(view, _)| view));
    let entry = TagEntry {
        pushed: time(root.pushed),
        digest,
        used: history.served.map(time),
        cache: manifest.is_some_and(|manifest| manifest.cache),
        pushes: history.records as u64,
        weight: Weight { bytes, ..manifest.map_or_else(Weight::default, |manifest| manifest.weight) },
        shared: None,
        learnt: Instant::now(),
    };
    Some((tag, entry))
}

fn time(at: SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or_default()
}
