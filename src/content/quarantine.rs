//! Objects whose bytes were found wrong. They count as missing, on every server and after a restart, until they are
//! written anew.
//!
//! A note says which version of which object is wrong; the bytes stay in their place for an investigation. To move them
//! away would race with the push that heals them: it could take the new bytes. A note cannot, because the new bytes
//! have another version.

use std::collections::HashMap;

use futures::{StreamExt, TryStreamExt};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

use crate::calls::{Calls, FAN_OUT};
use crate::error::{Error, Result};
use crate::layout::{self, Place};
use crate::objects::{Key, Meta, Objects, Version};

/// Maximum number of notes in memory. A store with more wrong objects has another problem; beyond it, a server knows
/// only those that it has read itself.
const NOTES_MAX: usize = 100_000;

/// The objects in quarantine, as far as this server knows.
#[derive(Default)]
pub struct Quarantine {
    notes: RwLock<HashMap<Key, Version>>,
}

/// Content of `quarantine/<key>`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct QuarantineNote {
    /// The wrong version, as the backend names it.
    pub version: String,
    pub bytes: u64,
    pub found: jiff::Timestamp,
}

impl Quarantine {
    /// Whether no object is in quarantine.
    pub fn is_empty(&self) -> bool {
        self.notes.read().is_empty()
    }

    /// Whether this version of the object is wrong.
    pub fn has(&self, meta: &Meta) -> bool {
        self.notes.read().get(&meta.key) == Some(&meta.version)
    }

    /// Whether some version of the object is noted as wrong.
    pub fn has_key(&self, key: &Key) -> bool {
        self.notes.read().contains_key(key)
    }

    /// Learns a note of another server. Returns whether it is new here.
    pub(super) fn learn(&self, key: &Key, version: &Version) -> bool {
        self.notes.write().insert(key.clone(), version.clone()).as_ref() != Some(version)
    }

    /// Learns that this version is wrong. Returns the note to write for the other servers, unless there is one.
    pub(super) fn add(&self, meta: &Meta) -> Option<QuarantineNote> {
        let mut notes = self.notes.write();
        let is_new = notes.len() < NOTES_MAX
            && notes.insert(meta.key.clone(), meta.version.clone()).as_ref() != Some(&meta.version);
        is_new.then(|| QuarantineNote {
            version: meta.version.0.to_string(),
            bytes: meta.size,
            found: jiff::Timestamp::now(),
        })
    }

    /// Forgets the note of an object that has been written anew. Returns whether there is a note to remove.
    pub(super) fn end(&self, key: &Key) -> bool {
        !self.is_empty() && self.notes.write().remove(key).is_some()
    }
}

/// Lists all notes of a store, with the keys of their objects.
pub async fn notes(objects: &dyn Objects) -> Result<Vec<(Key, QuarantineNote)>> {
    let listed = objects.list(layout::QUARANTINE, None).err_into::<Error>();
    let reads = listed.map_ok(|meta| async move {
        let Some(Place::Quarantine(key)) = layout::parse(meta.key.as_str()) else { return Ok(None) };
        Ok(Calls::of(objects).read_json(&meta.key).await?.map(|(_, note)| (key, note)))
    });
    let found = reads.try_buffered(FAN_OUT).try_filter_map(|found| async move { Ok(found) });
    found.take(NOTES_MAX).try_collect().await
}
