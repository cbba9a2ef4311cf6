//! Stored views: the record of a view that one server has made, for the others.

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

/// Version of the algorithm that makes views. A stored view of another version does not count. To be raised with every
/// change to the view that `buildkit` makes of the same pushes.
pub const VIEW_ALGORITHM_VERSION: u32 = 1;

/// The manifest that a tag serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    pub media_type: String,
    pub digest: Digest,
    /// Size of the manifest in bytes.
    pub size: u64,
}

impl Served {
    /// The served manifest of a tag that serves its last push.
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
    /// The pushes in the view, oldest first.
    pub pushes: Vec<PushId>,
    /// Time of the newest push.
    #[serde(default)]
    pub newest: Option<Timestamp>,
    /// Blobs that the view references.
    pub needed: Vec<Digest>,
    /// The view's config, which every import reads.
    #[serde(default)]
    pub config: Option<Digest>,
    /// Blobs of pushes that the store did not have: layers, and configs, without which a push is not in the view.
    pub missing: Vec<Digest>,
    /// Manifests of pushes that the store did not have.
    pub missing_manifests: Vec<Digest>,
    /// Layers selected for eviction when the view was made, with their last push time. Recent ones are still included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evicted: Vec<(Digest, Timestamp)>,
    /// The served view; nothing if the newest push is served as it was sent.
    pub view: Option<Served>,
}

impl StoredView {
    /// Whether the view was made of these pushes, as they are now.
    pub fn is_of(&self, live: &[LivePush]) -> bool {
        let is_of_them =
            self.rules == VIEW_ALGORITHM_VERSION && self.pushes.iter().eq(live.iter().map(|push| &push.id));
        // A push that was sent again counts as a new one.
        let newest = live.iter().map(|push| push.at).max();
        is_of_them && (self.evicted.is_empty() || newest.and_then(|at| at.try_into().ok()) == self.newest)
    }

    /// The pushes in the view with the digest `view`, if that is the stored one.
    pub fn pushes_in(self, view: &Digest) -> Vec<PushId> {
        let is_stored = self.view.is_some_and(|served| served.digest == *view);
        if is_stored { self.pushes } else { Vec::new() }
    }

    /// Time of the last push of a layer that is selected for eviction.
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

    /// Stores the record of a view. If that fails, another server makes the same view again.
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

    /// Stores manifest and config of a view. They follow from the pushes, so a caller that may read the tag may cause
    /// them. The config is written before the manifest that references it, as everywhere. A read does not take a tenant
    /// beyond its quota.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] when there is no space for them, and [`Error::LeftBehind`] when the store takes no views: then
    /// the caller serves something else.
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

/// A stored view, reduced to the manifest that it serves.
pub struct ViewNote {
    pub version: Version,
    /// Time of the write.
    pub at: SystemTime,
    pub view: Option<Digest>,
}

/// Reads the stored view under a key; nothing if there is none.
pub async fn view_note(calls: Calls<'_>, key: &Key) -> Result<Option<ViewNote>> {
    let Some((meta, bytes)) = calls.read(key).await? else { return Ok(None) };
    let stored: Option<StoredView> = serde_json::from_slice(&bytes).ok();
    let view = stored.and_then(|stored| stored.view).map(|view| view.digest);
    Ok(Some(ViewNote { version: meta.version, at: meta.modified, view }))
}
