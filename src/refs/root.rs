//! Roots: objects that keep content alive. A tag is one kind of root; `roots` knows all kinds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use crate::digest::Digest;
use crate::error::Result;
use crate::names::{RepoName, Tag};
use crate::objects::Key;
use crate::refs::graph::{ContentNames, ManifestGraph};
use crate::refs::listing::RepoListing;

/// The identity of a root.
#[derive(Clone, Debug)]
pub struct RootId {
    pub repo: RepoName,
    /// The key that makes it a root: written after all content that it references, and deleted before its other keys.
    pub key: Key,
    /// The key of the note of its last use.
    pub used: Key,
    /// Name of the root in its repository, for display.
    pub label: String,
    /// The tag, if the root is one: an operator's rules name tags.
    pub tag: Option<Tag>,
}

/// How a root may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evictable {
    /// Layer by layer: a view is served without the evicted layers.
    ByLayer,
    Whole,
}

/// A blob that a root references, or another object that is deleted with it.
#[derive(Clone, Copy, Debug)]
pub struct NamedBlob {
    /// The fingerprint of its key.
    pub id: u64,
    /// Bytes, as the account of the tenant counts them.
    pub bytes: u64,
    /// Time of the last push of it, or of the last use of a cache that contains it.
    pub used: SystemTime,
    /// Time of the last push that references it.
    pub pushed: SystemTime,
    /// A config, or another object that is not a layer: it is deleted only with the root.
    pub fixed: bool,
}

/// The pushes of a root that is made of several.
#[derive(Clone, Debug, Default)]
pub struct PushHistory {
    /// The time of the newest push of each manifest that push records reference.
    pub pushes: HashMap<Digest, SystemTime>,
    /// Number of push records, at least.
    pub records: usize,
    /// The manifest that was pushed last.
    pub pointed: Option<Digest>,
    /// The view that it serves, if that is not the last push, and the time of its note.
    pub view: Option<(Digest, SystemTime)>,
    /// Time of the noted last use.
    pub served: Option<SystemTime>,
    /// Whether it was pushed to since its records were listed.
    pub has_unlisted: bool,
}

/// A root: an object that keeps content alive.
#[derive(Clone, Debug)]
pub struct Root {
    pub id: RootId,
    /// The other keys that are deleted with it, and their bytes.
    pub records: Vec<(Key, u64)>,
    pub pushed: SystemTime,
    /// Time of the last push or use.
    pub used: SystemTime,
    pub evictable: Evictable,
    /// The manifest to which its tag's name binds it. The root is kept and deleted with that manifest, and no rule
    /// applies to it.
    pub subject: Option<Digest>,
    /// The manifests that it references: they, and all that they reach, are its content.
    pub manifests: Vec<Digest>,
    /// Direct references of the root.
    pub own: Option<Arc<ContentNames>>,
    pub history: PushHistory,
    /// Blobs of the root, if they were requested: each once.
    pub content: Vec<NamedBlob>,
}

impl Root {
    /// A root without references, with the times of its last push and use.
    pub fn new(id: RootId, pushed: SystemTime, used: Option<SystemTime>) -> Root {
        Root {
            id,
            records: Vec::new(),
            pushed,
            used: used.unwrap_or(pushed).max(pushed),
            evictable: Evictable::Whole,
            subject: None,
            manifests: Vec::new(),
            own: None,
            history: PushHistory { served: used, ..PushHistory::default() },
            content: Vec::new(),
        }
    }

    /// All keys of the root, its own first.
    pub fn keys(&self) -> impl Iterator<Item = (&Key, u64)> {
        std::iter::once((&self.id.key, 0)).chain(self.records.iter().map(|(key, bytes)| (key, *bytes)))
    }

    /// Visits its direct references, then all manifests that it reaches.
    pub async fn visit(
        &self,
        graph: &ManifestGraph,
        repo: &RepoListing,
        mut visit: impl FnMut(Option<&Digest>, &Arc<ContentNames>),
    ) -> Result<()> {
        if let Some(own) = &self.own {
            visit(None, own);
        }
        graph.closure(repo, &self.manifests, |digest, node| visit(Some(digest), node)).await
    }

    /// Time of the last push of the content of `manifest`, as far as it counts against eviction. A cache is pushed by a
    /// record, which references one manifest: a view references content that it finds, and pushes nothing. A cache
    /// without records is pushed by its pointer, though all its content may have been stored for long. Any other root
    /// counts as pushed `now` for as long as it exists: it is evicted as a whole, and the batch with its root may have
    /// been left to a collector that stopped.
    pub fn pushed_for_room(
        &self,
        manifest: Option<&Digest>,
        node: &ContentNames,
        now: SystemTime,
    ) -> Option<SystemTime> {
        match self.evictable {
            Evictable::ByLayer => manifest.and_then(|digest| self.history.pushes.get(digest).copied()),
            Evictable::Whole if node.cache => Some(self.pushed),
            Evictable::Whole => Some(now),
        }
    }

    /// The times of the last use and the last push of a manifest's layers. A push uses its own layers; the pulls of a
    /// cache use those that it serves.
    pub fn times_of(&self, manifest: Option<&Digest>) -> (SystemTime, SystemTime) {
        let (Evictable::ByLayer, Some(digest)) = (self.evictable, manifest) else { return (self.used, self.pushed) };
        let is_pointed = self.history.pointed == Some(*digest);
        let pushed = match self.history.pushes.get(digest) {
            Some(at) => *at,
            // The push was sent again, and its record references the manifest of the first time.
            None if is_pointed => self.pushed,
            None => SystemTime::UNIX_EPOCH,
        };
        let is_served = is_pointed || self.history.view.is_some_and(|(view, _)| view == *digest);
        let served = self.history.served.filter(|_| is_served);
        (served.map_or(pushed, |served| pushed.max(served)), pushed)
    }
}
