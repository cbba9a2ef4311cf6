//! Objects whose bytes were found wrong. They count as missing, on every server and after a restart, until they are
//! written anew.
//!
//! A note says which version of which object is wrong; the bytes stay where they are, for whoever wants to know what
//! happened to them. To move them away would race with the push that heals them: it could take the new bytes. A note
//! cannot, for the new bytes have another version.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::calls::FAN_OUT;
use crate::deadline::patiently;
use crate::error::{Error, Result};
use crate::hot::Slot;
use crate::layout;
use crate::layout::Place;
use crate::objects;
use crate::objects::{Key, Meta, Objects, Read, Version, When};
use crate::refs::manifests::Parsed;
use crate::store::{Inner, Repo, Store};

/// Notes kept in memory. A store with more wrong objects has another trouble; of those, a server knows only what it has
/// read itself.
const NOTES_MAX: usize = 100_000;

/// What is in quarantine, as far as this server knows.
#[derive(Default)]
pub(crate) struct Quarantine {
    notes: RwLock<HashMap<Key, Version>>,
}

/// Content of `quarantine/<key>`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Note {
    /// The version that is wrong, as the backend names it.
    pub version: String,
    pub bytes: u64,
    pub found: jiff::Timestamp,
}

impl Quarantine {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<Key, Version>> {
        self.notes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Key, Version>> {
        self.notes.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this version of the object is wrong.
    pub(crate) fn has(&self, meta: &Meta) -> bool {
        self.read().get(&meta.key) == Some(&meta.version)
    }

    /// Notes that this version is wrong. Where it cannot be written down, this server knows all the same.
    pub(crate) async fn add(&self, objects: &dyn Objects, meta: &Meta) {
        {
            let mut notes = self.write();
            if notes.len() >= NOTES_MAX
                || notes.insert(meta.key.clone(), meta.version.clone()).as_ref() == Some(&meta.version)
            {
                return;
            }
        }
        let note = Note { version: meta.version.0.to_string(), bytes: meta.size, found: jiff::Timestamp::now() };
        let key = layout::quarantine(&meta.key);
        let written = match serde_json::to_vec(&note) {
            Ok(body) => objects.put(&key, body.into(), When::Always).await.map(drop),
            Err(error) => Err(objects::Error::Backend(error.to_string().into())),
        };
        if let Err(error) = written {
            tracing::warn!(%key, %error, "quarantine is not noted");
        }
    }
}

/// All notes of a store, with the objects that they are about.
pub(crate) async fn notes(objects: &dyn Objects) -> Result<Vec<(Key, Note)>> {
    let listed = objects.list(layout::QUARANTINE, None).err_into::<Error>();
    let reads = listed.map_ok(|meta| async move {
        let Some(Place::Quarantine(key)) = layout::parse(meta.key.as_str()) else { return Ok(None) };
        match patiently(|| objects.read(&meta.key, None)).await {
            Ok(Read::Fresh(_, bytes)) => Ok(serde_json::from_slice(&bytes).ok().map(|note| (key, note))),
            Ok(Read::Same) | Err(objects::Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    });
    let found = reads.try_buffered(FAN_OUT).try_filter_map(|found| async move { Ok(found) });
    found.take(NOTES_MAX).try_collect().await
}

impl Repo {
    /// Whether a manifest names a blob that is in quarantine: to serve it would fail the build that relies on it, where
    /// without it the build only has no cache, or asks for another image. Costs nothing when nothing is in quarantine.
    pub(crate) async fn names_wrong(&self, manifest: &[u8]) -> Result<bool> {
        if self.store.checks.quarantine.read().is_empty() {
            return Ok(false);
        }
        let parsed = Parsed::parse(manifest, None)?;
        let is_noted = |key: Key| self.store.checks.quarantine.read().contains_key(&key);
        let noted = parsed.blobs.iter().filter(|digest| self.blob_keys(digest).any(is_noted));
        'blobs: for digest in noted.collect::<Vec<_>>() {
            for key in self.blob_keys(digest) {
                // Another server may have it anew.
                if self.store.head(&key).await?.is_some() {
                    continue 'blobs;
                }
            }
            return Ok(true);
        }
        Ok(false)
    }
}

impl Store {
    /// Learns what other servers have found, and this one before its start.
    pub async fn load_quarantine(&self) -> Result<()> {
        for (key, note) in notes(&*self.objects).await? {
            let version = Version(note.version.into());
            let known = self.checks.quarantine.write().insert(key.clone(), version.clone());
            if known != Some(version) {
                self.presence.forget(&key);
                self.hot.forget(&Slot::Whole(key));
            }
        }
        Ok(())
    }
}

impl Inner {
    /// An object has been written anew: what was noted of it is of the past.
    pub(crate) async fn heal(&self, key: &Key) {
        let quarantine = &self.checks.quarantine;
        if quarantine.read().is_empty() || quarantine.write().remove(key).is_none() {
            return;
        }
        tracing::info!(%key, "object that was wrong has been written anew");
        if let Err(error) = self.objects.delete(&[layout::quarantine(key)]).await {
            tracing::warn!(%key, %error, "note of a quarantine that has ended stays");
        }
    }
}
