//! Counting what a tenant has: one pass over its keys, which reads every manifest and every pointer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Instant, SystemTime};

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;

use crate::account::inventory::{Repos, TagEntry, Tags};
use crate::cache::hint;
use crate::capacity::usage::Scanned;
use crate::content::condemned::fingerprint;
use crate::deadline::patiently;
use crate::digest::Digest;
use crate::error::Result;
use crate::layout;
use crate::layout::{Place, RepoItem};
use crate::names::{RepoName, Tag, Tenant};
use crate::objects;
use crate::objects::{Key, Meta, Read};
use crate::oci::ManifestContent;
use crate::refs::tags::Pointer;
use crate::store::Store;

/// Manifests read at once by a scan: it has time.
const READS: usize = 4;
/// Names of blobs by tags that are remembered until the scan is through, to tell what is shared. Four bytes each. Beyond,
/// it is not told.
const NAMED_MAX: usize = 8 << 20;

/// What of a tenant's listing counts.
enum Counted {
    Bytes(u64),
    Blob(u64),
    Item(RepoName, Item),
    Nothing,
}

/// In the order in which a repository's keys are listed.
enum Item {
    Manifest(Digest, Option<Box<ManifestContent>>, u64),
    Push(Tag, Digest),
    Tag(Tag, SystemTime, Option<std::sync::Arc<Pointer>>),
    Used(Tag, SystemTime),
    View(Tag, Option<Digest>),
}

/// Counts a tenant: sums, and its tags.
pub(crate) async fn scan(store: &Store, tenant: &Tenant) -> Result<(Scanned, Repos)> {
    let prefix = layout::tenant_prefix(tenant);
    let listed = store.objects.list(&prefix, None).map_err(crate::error::Error::from);
    let looks = listed.map_ok(|meta| look(store, meta));
    let mut looks = looks.try_buffered(READS).boxed();
    let (mut found, mut tenant) = (Scanned::default(), OfTenant::default());
    while let Some(counted) = looks.try_next().await? {
        match counted {
            Counted::Bytes(bytes) => found.bytes += bytes,
            Counted::Blob(bytes) => (found.bytes, found.blobs) = (found.bytes + bytes, found.blobs + 1),
            Counted::Item(repo, item) => tenant.add(repo, item, &mut found),
            Counted::Nothing => {}
        }
    }
    let tags = tenant.end(&mut found);
    found.at = Timestamp::now();
    Ok((found, tags))
}

async fn look(store: &Store, meta: Meta) -> Result<Counted> {
    let (repo, item) = match layout::parse(meta.key.as_str()) {
        Some(Place::Blob { .. }) => return Ok(Counted::Blob(meta.size)),
        Some(Place::Upload { item: layout::UploadItem::Part { .. }, .. }) => return Ok(Counted::Bytes(meta.size)),
        Some(Place::Repo { repo, item, .. }) => (repo, item),
        _ => return Ok(Counted::Nothing),
    };
    let item = match item {
        RepoItem::Manifest(digest) => match patiently(|| store.objects.read(&meta.key, None)).await {
            Ok(Read::Fresh(_, bytes)) => {
                Item::Manifest(digest, ManifestContent::parse(&bytes, None).ok().map(Box::new), bytes.len() as u64)
            }
            Ok(Read::Same) | Err(objects::Error::NotFound) => return Ok(Counted::Nothing),
            Err(error) => return Err(error.into()),
        },
        RepoItem::Push(tag, id) => Item::Push(tag, id.manifest),
        RepoItem::Tag(tag) => {
            let pointer = store.pointer(&meta.key).await?.map(|(_, pointer)| pointer);
            Item::Tag(tag, meta.modified, pointer)
        }
        RepoItem::Used(tag) => Item::Used(tag, meta.modified),
        RepoItem::View(tag) => Item::View(tag, hinted(store, &meta.key).await?),
        RepoItem::Referrer { .. } => return Ok(Counted::Nothing),
    };
    Ok(Counted::Item(repo, item))
}

async fn hinted(store: &Store, key: &Key) -> Result<Option<Digest>> {
    Ok(hint::hinted(store, key).await?.and_then(|hinted| hinted.view))
}

/// Blobs of a tenant, each by a number, with its size and how many tags name it.
#[derive(Default)]
struct OfTenant {
    numbers: HashMap<u64, u32>,
    blobs: Vec<(u64, u32)>,
    named: usize,
    repo: Option<(RepoName, OfRepo)>,
    tags: Repos,
    /// The blobs of each tag, in the order of `tags`.
    of_tags: BTreeMap<(RepoName, Tag), Vec<u32>>,
}

#[derive(Default)]
struct OfRepo {
    manifests: HashMap<Digest, Weighed>,
    pushes: BTreeMap<Tag, Vec<Digest>>,
    tags: BTreeMap<Tag, (SystemTime, std::sync::Arc<Pointer>)>,
    used: BTreeMap<Tag, SystemTime>,
    views: BTreeMap<Tag, Digest>,
}

/// A manifest, in few bytes.
struct Weighed {
    blobs: Vec<u32>,
    children: Vec<Digest>,
    bytes: u64,
    config_bytes: u64,
    cache: bool,
}

impl OfTenant {
    fn add(&mut self, repo: RepoName, item: Item, found: &mut Scanned) {
        if self.repo.as_ref().is_none_or(|(known, _)| *known != repo) {
            self.end_repo(found);
            self.repo = Some((repo.clone(), OfRepo::default()));
        }
        let weighed = match &item {
            Item::Manifest(_, parsed, bytes) => Some(self.weigh(parsed.as_deref(), *bytes)),
            _ => None,
        };
        let Some((_, of)) = &mut self.repo else { return };
        match item {
            Item::Manifest(digest, ..) => {
                found.repositories.entry(repo.to_string()).or_default().manifests += 1;
                of.manifests.extend(weighed.map(|weighed| (digest, weighed)));
            }
            Item::Push(tag, manifest) => of.pushes.entry(tag).or_default().push(manifest),
            Item::Tag(tag, at, pointer) => {
                found.repositories.entry(repo.to_string()).or_default().tags += 1;
                of.tags.extend(pointer.map(|pointer| (tag, (at, pointer))));
            }
            Item::Used(tag, at) => drop(of.used.insert(tag, at)),
            Item::View(tag, view) => of.views.extend(view.map(|view| (tag, view))),
        }
    }

    fn weigh(&mut self, parsed: Option<&ManifestContent>, bytes: u64) -> Weighed {
        let Some(parsed) = parsed else {
            return Weighed { blobs: Vec::new(), children: Vec::new(), bytes, config_bytes: 0, cache: false };
        };
        let named = parsed.blobs.iter().zip(&parsed.sizes);
        let mut blobs: Vec<u32> = named.map(|(digest, size)| self.number(digest, *size)).collect();
        let config = parsed.config.and_then(|config| parsed.blobs.iter().position(|blob| *blob == config));
        blobs.sort_unstable();
        blobs.dedup();
        Weighed {
            blobs,
            children: parsed.children.clone(),
            bytes,
            config_bytes: config.map_or(0, |at| parsed.sizes[at]),
            cache: parsed.cache,
        }
    }

    fn number(&mut self, digest: &Digest, size: u64) -> u32 {
        let next = u32::try_from(self.blobs.len()).unwrap_or(u32::MAX);
        let number = *self.numbers.entry(fingerprint(&digest.to_string())).or_insert(next);
        if number == next && next < u32::MAX {
            self.blobs.push((size, 0));
        }
        number
    }

    fn size(&self, blob: u32) -> u64 {
        self.blobs.get(blob as usize).map_or(0, |(size, _)| *size)
    }

    /// All of a repository has been listed.
    fn end_repo(&mut self, found: &mut Scanned) {
        let Some((repo, of)) = self.repo.take() else { return };
        let all: HashSet<u32> = of.manifests.values().flat_map(|manifest| &manifest.blobs).copied().collect();
        let bytes = all.iter().fold(0, |sum: u64, blob| sum.saturating_add(self.size(*blob)));
        if let Some(usage) = found.repositories.get_mut(&*repo) {
            usage.bytes = bytes;
        }
        let mut tags = Tags::new();
        for (tag, (at, pointer)) in &of.tags {
            let served = of.views.get(tag).unwrap_or(&pointer.digest);
            let pushes = of.pushes.get(tag).map_or(&[][..], |pushes| pushes);
            let blobs = of.closure([pointer.digest, *served].iter().chain(pushes));
            let manifest = of.manifests.get(served);
            let entry = TagEntry {
                pushed: time(*at),
                digest: pointer.digest,
                used: of.used.get(tag).map(|at| time(*at)),
                cache: manifest.is_some_and(|manifest| manifest.cache),
                pushes: (pushes.len() as u64).max(u64::from(pointer.push.is_some())),
                bytes: blobs.iter().fold(0, |sum: u64, blob| sum.saturating_add(self.size(*blob))),
                shared: None,
                manifest_bytes: manifest.map_or(0, |manifest| manifest.bytes),
                config_bytes: manifest.map_or(0, |manifest| manifest.config_bytes),
                learnt: Instant::now(),
            };
            self.named += blobs.len();
            blobs.iter().for_each(|blob| self.name(*blob));
            if self.named <= NAMED_MAX {
                self.of_tags.insert((repo.clone(), tag.clone()), blobs);
            }
            tags.insert(tag.clone(), entry);
        }
        if !tags.is_empty() {
            self.tags.insert(repo, tags);
        }
    }

    fn name(&mut self, blob: u32) {
        if let Some((_, tags)) = self.blobs.get_mut(blob as usize) {
            *tags = tags.saturating_add(1);
        }
    }

    fn end(mut self, found: &mut Scanned) -> Repos {
        self.end_repo(found);
        let mut tags = std::mem::take(&mut self.tags);
        for ((repo, tag), blobs) in &self.of_tags {
            let Some(entry) = tags.get_mut(repo).and_then(|tags| tags.get_mut(tag)) else { continue };
            let shared = blobs.iter().filter_map(|blob| self.blobs.get(*blob as usize)).filter(|(_, tags)| *tags > 1);
            entry.shared = Some(shared.fold(0, |sum: u64, (size, _)| sum.saturating_add(*size)));
        }
        // What manifests say of sizes is the word of whoever pushed them.
        let named = tags.values().flat_map(BTreeMap::values).map(|entry| entry.bytes);
        found.named_bytes = named.fold(0, u64::saturating_add);
        tags
    }
}

impl OfRepo {
    /// The blobs that these manifests and their children name.
    fn closure<'a>(&self, from: impl Iterator<Item = &'a Digest>) -> Vec<u32> {
        let (mut wave, mut seen, mut blobs): (Vec<Digest>, _, _) =
            (from.copied().collect(), HashSet::new(), Vec::new());
        while let Some(digest) = wave.pop() {
            let Some(manifest) = self.manifests.get(&digest).filter(|_| seen.insert(digest)) else { continue };
            blobs.extend_from_slice(&manifest.blobs);
            wave.extend_from_slice(&manifest.children);
        }
        blobs.sort_unstable();
        blobs.dedup();
        blobs
    }
}

fn time(at: SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or_default()
}
