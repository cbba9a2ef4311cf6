//! Pointers: the content of tags, and this process's memory of it.

use std::sync::Arc;

use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use crate::calls::{Calls, Reread};
use crate::deadline::Deadline;
use crate::digest::Digest;
use crate::error::Result;
use crate::layout::PushId;
use crate::objects::{Key, Objects, Version};
use crate::sync::lru;

/// Maximum number of remembered pointers, each with the version that proves it fresh.
const KNOWN_TAGS_MAX: u64 = 100_000;

/// Content of a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pointer {
    pub media_type: String,
    pub digest: Digest,
    /// Size of the manifest in bytes.
    pub size: u64,
    /// Time of the push, by the clock of the server that took it. For display; and it makes two writes of a pointer
    /// differ, so that their versions do.
    pub pushed: jiff::Timestamp,
    /// The newest push record, if the tag is a cache tag and serves a view. It is written before the pointer, so a
    /// server that reads this pointer and then lists the records sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<PushId>,
    /// Short names of the push records that existed before this pointer was written: a server that reads this pointer
    /// and then lists the records sees them. A record that is not among them may be one whose own pointer was never
    /// written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub follows: Vec<String>,
}

impl Pointer {
    /// A pointer to a manifest of `size` bytes that is pushed now.
    pub fn new(digest: Digest, media_type: &str, size: u64) -> Pointer {
        let (media_type, pushed) = (media_type.to_string(), jiff::Timestamp::now());
        Pointer { media_type, digest, size, pushed, push: None, follows: Vec::new() }
    }

    /// The referenced manifests: two, if a push was sent again.
    pub fn manifests(&self) -> Vec<Digest> {
        std::iter::once(self.digest).chain(self.push.map(|push| push.manifest)).collect()
    }

    /// Whether this pointer was written after the record of a push.
    pub fn follows(&self, push: &PushId) -> bool {
        self.push == Some(*push) || self.follows.contains(&push.short())
    }
}

/// The pointers of a store, each remembered with the version at which it was read. An answer always asks the backend
/// whether the version is still the same. Cheap to clone.
#[derive(Clone)]
pub struct Pointers {
    objects: Arc<dyn Objects>,
    known: Cache<Key, (Version, Arc<Pointer>)>,
}

impl Pointers {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Pointers {
        Pointers { objects, known: lru(KNOWN_TAGS_MAX) }
    }

    /// The remembered pointer, of any age.
    pub fn remembered(&self, key: &Key) -> Option<(Version, Arc<Pointer>)> {
        self.known.get(key)
    }

    /// The pointer under a key. The remembered one is returned only if the backend says that its version is still the
    /// same.
    pub async fn get(&self, key: &Key, deadline: Deadline) -> Result<Option<(Version, Arc<Pointer>)>> {
        let known = self.known.get(key);
        let version = known.as_ref().map(|(version, _)| version);
        match Calls::until(&*self.objects, deadline).reread(key, version).await? {
            Reread::Unchanged => Ok(known),
            Reread::Changed(meta, bytes) => {
                // Counts as missing: a push overwrites it, and a delete removes it.
                let pointer: Pointer = match serde_json::from_slice(&bytes) {
                    Ok(pointer) => pointer,
                    Err(error) => {
                        tracing::error!(%key, %error, "cannot read a tag");
                        return Ok(None);
                    }
                };
                let pointer = Arc::new(pointer);
                self.known.insert(key.clone(), (meta.version.clone(), pointer.clone()));
                Ok(Some((meta.version, pointer)))
            }
            Reread::Absent => {
                self.known.invalidate(key);
                Ok(None)
            }
        }
    }

    /// Remembers a pointer that was just written.
    pub(super) fn remember(&self, key: Key, version: Version, pointer: Pointer) {
        self.known.insert(key, (version, Arc::new(pointer)));
    }

    /// Removes a pointer from memory.
    pub fn forget(&self, key: &Key) {
        self.known.invalidate(key);
    }
}
