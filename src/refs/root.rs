//! Roots: what keeps content alive. A tag is one kind of root; `roots` knows all kinds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use crate::digest::Digest;
use crate::error::Result;
use crate::names::{RepoName, Tag};
use crate::objects::Key;
use crate::refs::graph::{ContentNames, ManifestGraph};
use crate::refs::listing::RepoListing;

/// What a root is known by.
#[derive(Clone, Debug)]
pub struct RootId {
    pub repo: RepoName,
    /// The key that makes it a root: written after all that it names, and deleted before its other keys.
    pub key: Key,
    /// The key of the note of its last use.
    pub used: Key,
    /// Its name in the repository, for people.
    pub label: String,
    /// The tag, where it is one: the rules of an operator name tags.
    pub tag: Option<Tag>,
}

/// How a root may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evictable {
    /// Layer by layer: what serves it does without what is gone.
    ByLayer,
    Whole,
}

/// A blob that a root names, or another object that goes with it.
#[derive(Clone, Copy, Debug)]
pub struct NamedBlob {
    /// The fingerprint of its key.
    pub id: u64,
    /// As the account of the tenant counts them.
    pub bytes: u64,
    /// When it was last pushed, or served with the cache that it is part of.
    pub used: SystemTime,
    /// When it was last named by a push.
    pub pushed: SystemTime,
    /// A config or something else that is not a layer: it goes with the root only.
    pub fixed: bool,
}

/// What is known of the pushes of a root that is made of several.
#[derive(Clone, Debug, Default)]
pub struct PushHistory {
    /// The newest push of each manifest that push records name.
    pub pushes: HashMap<Digest, SystemTime>,
    /// How many push records there are, at least.
    pub records: usize,
    /// What was pushed to it last.
    pub pointed: Option<Digest>,
    /// What it serves when that is not what was pushed, and when that was noted.
    pub view: Option<(Digest, SystemTime)>,
    /// When its last use was noted.
    pub served: Option<SystemTime>,
    /// It was pushed to since its records were listed.
    pub has_unlisted: bool,
}

/// Something that keeps content alive.
#[derive(Clone, Debug)]
pub struct Root {
    pub id: RootId,
    /// The keys that go with it beside its own, and their bytes.
    pub records: Vec<(Key, u64)>,
    pub pushed: SystemTime,
    /// The last push or use.
    pub used: SystemTime,
    pub evictable: Evictable,
    /// The manifest that it belongs to, by the name of its tag. The root stays and goes with it, and no rule is for it.
    pub subject: Option<Digest>,
    /// The manifests that it names: they, and all that they lead to, are its content.
    pub manifests: Vec<Digest>,
    /// What it names by itself.
    pub own: Option<Arc<ContentNames>>,
    pub history: PushHistory,
    /// Its blobs, where somebody has asked for them: each once.
    pub content: Vec<NamedBlob>,
}

impl Root {
    /// A root that names nothing yet, pushed and used at these times.
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

    /// All its keys, its own first.
    pub fn keys(&self) -> impl Iterator<Item = (&Key, u64)> {
        std::iter::once((&self.id.key, 0)).chain(self.records.iter().map(|(key, bytes)| (key, *bytes)))
    }

    /// Visits what it names by itself, then all manifests that it leads to.
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

    /// When something that it names was last pushed, as far as that counts against making room. A cache is pushed by a
    /// record, which names one manifest: views name what they find, and push nothing. A cache without records is pushed by
    /// its pointer, though all that it leads to may have been there for long. Anything else counts as pushed `now` for as
    /// long as its root is there: it goes as a whole, and the batch with its root may have been left to a collector that
    /// stopped.
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

    /// When the layers of a manifest were used last, and when they were pushed. A push uses its own; the pulls of a cache use
    /// those that it serves.
    pub fn times_of(&self, manifest: Option<&Digest>) -> (SystemTime, SystemTime) {
        let (Evictable::ByLayer, Some(digest)) = (self.evictable, manifest) else { return (self.used, self.pushed) };
        let is_pointed = self.history.pointed == Some(*digest);
        let pushed = match self.history.pushes.get(digest) {
            Some(at) => *at,
            // As it was sent last, though its record names it as it was sent before.
            None if is_pointed => self.pushed,
            None => SystemTime::UNIX_EPOCH,
        };
        let is_served = is_pointed || self.history.view.is_some_and(|(view, _)| view == *digest);
        let served = self.history.served.filter(|_| is_served);
        (served.map_or(pushed, |served| pushed.max(served)), pushed)
    }
}
