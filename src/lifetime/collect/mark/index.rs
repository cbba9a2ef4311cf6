//! What the keys of a repository show, and what its manifests name.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::cache::hint;
use crate::calls::FAN_OUT;
use crate::content::condemned::fingerprint;
use crate::deadline::patiently;
use crate::digest::Digest;
use crate::digest::hash;
use crate::error::{Error, Result};
use crate::layout;
use crate::layout::{PushId, RepoItem};
use crate::lifetime::collect::{Collector, Report};
use crate::names::{RepoName, Tag, Tenant};
use crate::objects;
use crate::objects::{Key, Meta, Read, Version};
use crate::oci::ManifestContent;
use crate::refs::tags::Pointer;

/// What a manifest names, in few bytes.
pub(crate) struct Names {
    /// Fingerprints of the blobs' keys. Their sizes are not for a manifest to say.
    pub blobs: Box<[u64]>,
    pub children: Box<[Digest]>,
    pub subject: Option<Digest>,
    /// The blob that is the config.
    pub config: Option<Digest>,
    /// It is a cache manifest.
    pub cache: bool,
}

impl Names {
    pub fn weight(&self) -> u32 {
        u32::try_from(256 + self.blobs.len() * size_of::<u64>() + self.children.len() * size_of::<Digest>())
            .unwrap_or(u32::MAX)
    }
}

/// What a read came to.
pub(super) enum Found {
    Right(Bytes),
    /// They do not fit the digest, also when they are read again.
    Wrong(Bytes),
    Nothing,
}

/// One writing of something small, as a list shows it.
pub(super) struct Writing {
    pub at: SystemTime,
    pub version: Version,
}

/// One repository, as its keys show it.
#[derive(Default)]
pub(super) struct Index {
    pub manifests: BTreeMap<Digest, (SystemTime, u64)>,
    pub tags: BTreeMap<Tag, Writing>,
    pub pushes: BTreeMap<Tag, Vec<(PushId, SystemTime, u64)>>,
    /// By subject.
    pub referrers: BTreeMap<Digest, Vec<(Digest, SystemTime, u64)>>,
    pub used: BTreeMap<Tag, SystemTime>,
    pub views: BTreeMap<Tag, Writing>,
}

impl Index {
    /// When anything of it was written or used.
    pub fn times(&self) -> impl Iterator<Item = SystemTime> {
        let pushes = self.pushes.values().flatten().map(|(_, at, _)| at);
        let manifests = self.manifests.values().map(|(at, _)| at);
        let tags = self.tags.values().map(|tag| &tag.at);
        tags.chain(self.used.values()).chain(manifests).chain(pushes).copied()
    }

    pub fn add(&mut self, item: RepoItem, meta: Meta) {
        let (at, bytes) = (meta.modified, meta.size);
        match item {
            RepoItem::Manifest(digest) => drop(self.manifests.insert(digest, (at, bytes))),
            RepoItem::Tag(tag) => drop(self.tags.insert(tag, Writing { at, version: meta.version })),
            RepoItem::Push(tag, id) => self.pushes.entry(tag).or_default().push((id, at, bytes)),
            RepoItem::View(tag) => drop(self.views.insert(tag, Writing { at, version: meta.version })),
            RepoItem::Used(tag) => drop(self.used.insert(tag, at)),
            RepoItem::Referrer { subject, manifest } => {
                self.referrers.entry(subject).or_default().push((manifest, at, bytes));
            }
        }
    }
}

impl Collector {
    /// Visits all manifests that these lead to: themselves, their children, and what refers to them.
    pub(super) async fn closure(
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
                Ok::<_, Error>((*digest, self.manifest_names(tenant, repo, digest).await?))
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

    /// What a manifest names, and whether it had to be read for that. Nothing when it is missing.
    pub(super) async fn manifest_names(
        &self,
        tenant: &Tenant,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<(Arc<Names>, bool)> {
        let key = layout::manifest(tenant, repo, digest);
        let id = fingerprint(key.as_str());
        if let Some(names) = self.names.get(&id) {
            return Ok((names, false));
        }
        let (bytes, right) = match self.read(&key, digest).await? {
            Found::Right(bytes) => (bytes, true),
            Found::Wrong(bytes) => (bytes, false),
            Found::Nothing => (Bytes::new(), false),
        };
        let Ok(parsed) = ManifestContent::parse(&bytes, None) else {
            let nothing = Names { blobs: [].into(), children: [].into(), subject: None, config: None, cache: false };
            return Ok((Arc::new(nothing), true));
        };
        let of = |blob: &Digest| fingerprint(layout::blob(tenant, blob).as_str());
        let names = Arc::new(Names {
            blobs: parsed.blobs.iter().map(of).collect(),
            config: parsed.config,
            children: parsed.children.into(),
            subject: parsed.subject,
            cache: parsed.cache,
        });
        // Of wrong bytes nothing is believed but what makes something stay, and only as long as they are there.
        if right {
            self.names.insert(id, names.clone());
        }
        Ok((names, true))
    }

    /// Where a tag points, and whether that had to be read: not when memory holds the writing that was listed.
    pub(super) async fn pointer(&self, key: &Key, listed: &Writing) -> Result<(Option<Arc<Pointer>>, bool)> {
        let known = self.store.tags.get(key).filter(|(version, _)| version.is_listed_as(&listed.version));
        match known {
            Some((_, pointer)) => Ok((Some(pointer), false)),
            None => Ok((self.store.pointer(key).await?.map(|(_, pointer)| pointer), true)),
        }
    }

    /// The manifest of the view that is hinted at, when that was noted, and whether it had to be read.
    pub(super) async fn hinted(&self, key: Key, listed: &Writing) -> Result<(Option<(Digest, SystemTime)>, bool)> {
        let known = self.hints.get(&key).filter(|known| known.version.is_listed_as(&listed.version));
        if let Some(known) = known {
            return Ok((known.view.map(|view| (view, listed.at)), false));
        }
        let Some(hinted) = hint::hinted(&self.store, &key).await? else { return Ok((None, true)) };
        let found = hinted.view.map(|view| (view, hinted.at));
        self.hints.insert(key, Arc::new(hinted));
        Ok((found, true))
    }

    /// Small content, past the hot layer, which a walk through the store would flush.
    pub(super) async fn read(&self, key: &Key, digest: &Digest) -> Result<Found> {
        let objects = &self.store.objects;
        let (meta, bytes) = match patiently(|| objects.read(key, None)).await {
            Ok(Read::Fresh(meta, bytes)) => (meta, bytes),
            Ok(Read::Same) | Err(objects::Error::NotFound) => return Ok(Found::Nothing),
            Err(error) => return Err(error.into()),
        };
        if hash(digest.algorithm(), bytes.clone()).await? == *digest {
            return Ok(Found::Right(bytes));
        }
        if self.store.checks.is_wrong(&meta) {
            return Ok(Found::Wrong(bytes));
        }
        // On the line, or in the store: the reader knows how to find out, and who has to be told.
        match self.store.fetch_small(key, *digest).await {
            Ok(bytes) => Ok(Found::Right(bytes)),
            Err(Error::BlobUnknown(_)) => Ok(Found::Wrong(bytes)),
            Err(error) => Err(error),
        }
    }
}
