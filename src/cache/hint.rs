//! What one server tells the others about a view that it has made.

use std::time::SystemTime;

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cache::views::Served;
use crate::calls::FAN_OUT;
use crate::content::condemned::Snapshot;
use crate::deadline::patiently;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout;
use crate::layout::PushId;
use crate::names::Tag;
use crate::objects;
use crate::objects::{Key, Read};
use crate::refs::pushes::LivePush;
use crate::store::Repo;

/// Which rules a view was made by. A hint of other rules does not count: to be raised with every change of what
/// `buildkit` makes of the same pushes.
pub(crate) const RULES: u32 = 1;

/// Content of `views/<tag>`: a server that has not seen the tag need not make its view again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hint {
    #[serde(default)]
    pub rules: u32,
    /// Oldest first.
    pub pushes: Vec<PushId>,
    /// When the last of them was written.
    #[serde(default)]
    pub newest: Option<Timestamp>,
    /// Blobs that the view names.
    pub needed: Vec<Digest>,
    /// Its config, which whoever imports it reads.
    #[serde(default)]
    pub config: Option<Digest>,
    /// Blobs that pushes name and the store did not have: layers, and configs, without which a push is not in the view.
    pub missing: Vec<Digest>,
    /// Manifests of pushes that the store did not have.
    pub missing_manifests: Vec<Digest>,
    /// Layers that were to make room, each with when it was last pushed: those that came late are in the view nevertheless.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evicted: Vec<(Digest, Timestamp)>,
    /// What is served; nothing when it is the newest push as it was sent.
    pub view: Option<Served>,
}

impl Hint {
    pub fn is_of(&self, live: &[LivePush]) -> bool {
        let is_of_them = self.rules == RULES && self.pushes.iter().eq(live.iter().map(|push| &push.id));
        // A push that was sent again counts as new.
        let newest = live.iter().map(|push| push.at).max();
        is_of_them && (self.evicted.is_empty() || newest.and_then(|at| at.try_into().ok()) == self.newest)
    }

    /// When a layer that was to make room was last pushed.
    fn pushed(&self, digest: &Digest) -> Option<SystemTime> {
        let found = self.evicted.iter().find(|(evicted, _)| evicted == digest);
        found.map(|(_, pushed)| SystemTime::from(*pushed))
    }
}

impl Repo {
    pub(crate) async fn hint(&self, tag: &Tag) -> Result<Option<Hint>> {
        let key = layout::view(self.tenant(), self.name(), tag);
        match patiently(|| self.store.objects.read(&key, None)).await {
            Ok(Read::Fresh(_, bytes)) => Ok(serde_json::from_slice(&bytes).ok()),
            Ok(Read::Same) | Err(objects::Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the store has what the view needs, and still lacks what it was made without.
    pub(crate) async fn holds(&self, pin: &Snapshot, hint: &Hint) -> Result<bool> {
        // Whoever asks for the tag reads these two next.
        let own = hint.view.iter().map(|view| (self.manifest_keys(&view.digest).collect(), view.digest));
        let config = hint.config.iter().map(|digest| (self.blob_keys(digest).collect(), *digest));
        let read = own.chain(config).map(|(keys, digest): (Vec<Key>, Digest)| {
            let store = self.store.clone();
            async move { store.readable_in(pin, keys.into_iter(), &digest).await }.boxed()
        });
        let blobs = |digest: &Digest| self.blob_keys(digest).collect::<Vec<_>>();
        let needed = hint.needed.iter().filter(|digest| hint.config.as_ref() != Some(digest));
        let needed = needed.map(|digest| (blobs(digest), hint.pushed(digest), true));
        let manifests = hint.missing_manifests.iter().map(|digest| (self.manifest_keys(digest).collect(), None, false));
        let missing = hint.missing.iter().map(|digest| (blobs(digest), hint.pushed(digest), false));
        let looks = needed.chain(missing).chain(manifests).map(|(keys, pushed, expected)| {
            let store = self.store.clone();
            async move { Ok::<_, Error>(store.servable_in(pin, keys.into_iter(), pushed).await? == expected) }.boxed()
        });
        let mut looks = stream::iter(read.chain(looks).collect::<Vec<_>>()).buffered(FAN_OUT);
        while let Some(as_expected) = looks.try_next().await? {
            if !as_expected {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
