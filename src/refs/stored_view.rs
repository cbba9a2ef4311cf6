//! Stored views: what one server tells the others about a view that it has made.

use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::pointer::Pointer;
use super::pushes::LivePush;
use super::repo::Repo;
use crate::calls::{Calls, json};
use crate::capacity::usage::OBJECT_FLOOR;
use crate::content::Pin;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout::{self, PushId};
use crate::names::Tag;
use crate::objects::{Key, Version};

/// The version of the algorithm that views are made by. A stored view of another version does not count: to be raised with
/// every change of what `buildkit` makes of the same pushes.
pub const VIEW_ALGORITHM_VERSION: u32 = 1;

/// What a tag serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    pub media_type: String,
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
}

impl Served {
    /// What a tag serves that serves what was pushed last.
    pub fn pushed(pointer: &Pointer) -> Served {
        Served { media_type: pointer.media_type.clone(), digest: pointer.digest, size: pointer.size }
    }
}

/// Content of `views/<tag>`: a server that has not seen the tag need not make its view again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredView {
    /// See [`VIEW_ALGORITHM_VERSION`].
    #[serde(default)]
    pub rules: u32,
    /// The pushes that it was made of, oldest first.
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
    /// Layers selected for eviction when the view was made, with their last push time. Recent ones are still included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evicted: Vec<(Digest, Timestamp)>,
    /// What is served; nothing when it is the newest push as it was sent.
    pub view: Option<Served>,
}

impl StoredView {
    /// Whether it was made of these pushes, as they are now.
    pub fn is_of(&self, live: &[LivePush]) -> bool {
        let is_of_them =
            self.rules == VIEW_ALGORITHM_VERSION && self.pushes.iter().eq(live.iter().map(|push| &push.id));
        // A push that was sent again counts as new.
        let newest = live.iter().map(|push| push.at).max();
        is_of_them && (self.evicted.is_empty() || newest.and_then(|at| at.try_into().ok()) == self.newest)
    }

    /// The pushes that are in a view, when it is the one that was stored.
    pub fn pushes_in(self, view: &Digest) -> Vec<PushId> {
        let is_stored = self.view.is_some_and(|served| served.digest == *view);
        if is_stored { self.pushes } else { Vec::new() }
    }

    /// When a layer that is selected for eviction was last pushed.
    pub fn pushed(&self, digest: &Digest) -> Option<SystemTime> {
        let found = self.evicted.iter().find(|(evicted, _)| evicted == digest);
        found.map(|(_, pushed)| SystemTime::from(*pushed))
    }
}

impl Repo {
    /// The stored view of a tag of this tenant.
    pub async fn stored_view(&self, tag: &Tag) -> Result<Option<StoredView>> {
        let key = layout::view(self.tenant(), self.name(), tag);
        Ok(self.content().calls(self.deadline()).read_json(&key).await?.map(|(_, view)| view))
    }

    /// Notes what a view was made of. Where that fails, another server makes the same view again.
    pub async fn put_stored_view(&self, tag: &Tag, view: &StoredView) -> Result<()> {
        let key = layout::view(self.tenant(), self.name(), tag);
        let body = json(view)?;
        let room = self.content().room();
        let Ok(_place) = room.take_for_records(self.tenant(), (body.len() as u64).max(OBJECT_FLOOR)) else {
            tracing::info!(%key, "no space for a stored view: the next request makes it again");
            return Ok(());
        };
        if let Err(error) = self.content().put(&key, body, self.deadline()).await {
            tracing::warn!(%key, %error, "cannot save a stored view: the next request makes it again");
        }
        Ok(())
    }

    /// Stores manifest and config of a view. They follow from what was pushed: so whoever may read the tag makes them.
    /// Content before pointer, here as everywhere: the config, then the manifest that names it. To read is no reason to
    /// take a tenant beyond what it may store.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] where there is no room for them, and [`Error::LeftBehind`] when the store takes no view: then there
    /// is something else to serve.
    pub async fn put_view_content(
        &self,
        pin: &Pin,
        (config, config_bytes): (Digest, bytes::Bytes),
        (manifest, manifest_bytes): (Digest, bytes::Bytes),
    ) -> Result<()> {
        let bytes = [&config_bytes, &manifest_bytes].map(|bytes| (bytes.len() as u64).max(OBJECT_FLOOR)).iter().sum();
        let _place = self.content().room().take_for_records(self.tenant(), bytes).map_err(|_| Error::Full)?;
        let config = (layout::blob(self.tenant(), &config), config_bytes);
        for (key, bytes) in [config, (self.manifest_key(&manifest), manifest_bytes)] {
            pin.write(&key, bytes.clone()).await?;
            pin.keep(key, &bytes);
        }
        Ok(())
    }
}

/// A stored view, as far as the manifest that it serves.
pub struct ViewNote {
    pub version: Version,
    /// When it was written.
    pub at: SystemTime,
    pub view: Option<Digest>,
}

/// The stored view under a key; nothing when there is none.
pub async fn view_note(calls: Calls<'_>, key: &Key) -> Result<Option<ViewNote>> {
    let Some((meta, bytes)) = calls.read(key).await? else { return Ok(None) };
    let stored: Option<StoredView> = serde_json::from_slice(&bytes).ok();
    let view = stored.and_then(|stored| stored.view).map(|view| view.digest);
    Ok(Some(ViewNote { version: meta.version, at: meta.modified, view }))
}
