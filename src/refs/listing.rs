//! The one listing of a store: every key parsed, and the keys of a repository sorted by kind.
//!
//! Collection, counting, checking and deletion fold over it. It lists the prefix once, in pages, and holds no more than
//! the fold keeps.

use std::collections::BTreeMap;
use std::time::SystemTime;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout;
use crate::layout::{Place, PushId, RepoItem};
use crate::names::{RepoName, Tag, Tenant};
use crate::objects::{Key, Meta, Objects, Version};

/// Lists the objects below a prefix in key order, each with its parsed key: nothing if the key is not Larder's.
pub fn walk<'a>(objects: &'a dyn Objects, prefix: &str) -> BoxStream<'a, Result<(Option<Place>, Meta)>> {
    let parsed = |meta: Meta| (layout::parse(meta.key.as_str()), meta);
    objects.list(prefix, None).map_ok(parsed).map_err(Error::from).boxed()
}

/// Time and size in bytes of an object that is written once.
#[derive(Clone, Copy, Debug)]
pub struct WrittenOnce {
    pub at: SystemTime,
    pub bytes: u64,
}

/// One version of an object that may be overwritten.
#[derive(Clone, Debug)]
pub struct Writing {
    pub at: SystemTime,
    pub version: Version,
}

/// An object of a kind of root other than tags.
#[derive(Clone, Debug)]
pub struct OtherObject {
    pub key: Key,
    pub item: RepoItem,
    pub at: SystemTime,
    pub version: Version,
}

/// One repository, as its keys show it.
#[derive(Debug)]
pub struct RepoListing {
    pub tenant: Tenant,
    pub name: RepoName,
    pub manifests: BTreeMap<Digest, WrittenOnce>,
    pub tags: BTreeMap<Tag, Writing>,
    pub pushes: BTreeMap<Tag, Vec<(PushId, WrittenOnce)>>,
    /// Referrers, by subject.
    pub referrers: BTreeMap<Digest, Vec<(Digest, WrittenOnce)>>,
    /// Time of the last noted use of each tag.
    pub used: BTreeMap<Tag, SystemTime>,
    pub views: BTreeMap<Tag, Writing>,
    /// Objects of other kinds of roots, in key order.
    pub others: Vec<OtherObject>,
}

impl RepoListing {
    pub fn new(tenant: &Tenant, name: RepoName) -> RepoListing {
        RepoListing {
            tenant: tenant.clone(),
            name,
            manifests: BTreeMap::new(),
            tags: BTreeMap::new(),
            pushes: BTreeMap::new(),
            referrers: BTreeMap::new(),
            used: BTreeMap::new(),
            views: BTreeMap::new(),
            others: Vec::new(),
        }
    }

    /// Adds an object of the repository.
    pub fn add(&mut self, item: RepoItem, meta: Meta) {
        let Meta { key, size: bytes, modified: at, version, .. } = meta;
        let written = WrittenOnce { at, bytes };
        match item {
            RepoItem::Manifest(digest) => drop(self.manifests.insert(digest, written)),
            RepoItem::Tag(tag) => drop(self.tags.insert(tag, Writing { at, version })),
            RepoItem::Push(tag, id) => self.pushes.entry(tag).or_default().push((id, written)),
            RepoItem::View(tag) => drop(self.views.insert(tag, Writing { at, version })),
            RepoItem::Used(tag) => drop(self.used.insert(tag, at)),
            RepoItem::Referrer { subject, manifest } => {
                self.referrers.entry(subject).or_default().push((manifest, written));
            }
            item => self.others.push(OtherObject { key, item, at, version }),
        }
    }

    /// The times of all writes and uses in the repository.
    pub fn times(&self) -> impl Iterator<Item = SystemTime> {
        let pushes = self.pushes.values().flatten().map(|(_, written)| written.at);
        let manifests = self.manifests.values().map(|written| written.at);
        let tags = self.tags.values().map(|tag| tag.at);
        let others = self.others.iter().map(|other| other.at);
        tags.chain(self.used.values().copied()).chain(manifests).chain(pushes).chain(others)
    }

    /// The push records of a tag.
    pub fn pushes_of(&self, tag: &Tag) -> &[(PushId, WrittenOnce)] {
        self.pushes.get(tag).map_or(&[], Vec::as_slice)
    }

    /// The manifests whose subject is this one.
    pub fn referrers_of(&self, subject: &Digest) -> impl Iterator<Item = Digest> {
        self.referrers.get(subject).into_iter().flatten().map(|(referrer, _)| *referrer)
    }

    pub fn manifest_key(&self, digest: &Digest) -> Key {
        layout::manifest(&self.tenant, &self.name, digest)
    }

    pub fn referrer_key(&self, subject: &Digest, manifest: &Digest) -> Key {
        layout::referrer(&self.tenant, &self.name, subject, manifest)
    }
}
