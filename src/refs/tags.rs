//! Tags: the only mutable pointers.

use std::sync::Arc;

use futures::TryStreamExt;
use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use super::repo::{Repo, RepoWriter};
use crate::calls::{Calls, FAN_OUT, Reread, json};
use crate::content::Pin;
use crate::deadline::Deadline;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout::{self, PushId};
use crate::names::Tag;
use crate::objects::{self, Key, Objects, Version, When};
use crate::sync::lru;

/// Tags whose pointer is kept beside the version that proves it fresh.
const KNOWN_TAGS_MAX: u64 = 100_000;

/// Content of a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pointer {
    pub media_type: String,
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
    /// When it was pushed, by the clock of the server that took it. For people to read; and it makes two writes of a
    /// pointer differ, so that their versions do.
    pub pushed: jiff::Timestamp,
    /// The newest push record, where the tag is a cache tag and serves a view. Written before the pointer, so whoever
    /// has read this pointer and then lists the records sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<PushId>,
    /// Short names of the push records that were there before this was written: whoever has read this pointer and then
    /// lists the records sees them. A record that is not among them may be one whose own pointer never came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub follows: Vec<String>,
}

impl Pointer {
    /// A pointer to a manifest of `size` bytes that was pushed now.
    pub fn new(digest: Digest, media_type: &str, size: u64) -> Pointer {
        let (media_type, pushed) = (media_type.to_string(), jiff::Timestamp::now());
        Pointer { media_type, digest, size, pushed, push: None, follows: Vec::new() }
    }

    /// The manifests that it names: where its push was sent again, that may be two.
    pub fn manifests(&self) -> Vec<Digest> {
        std::iter::once(self.digest).chain(self.push.map(|push| push.manifest)).collect()
    }

    /// Whether this was written after the record of a push.
    pub fn follows(&self, push: &PushId) -> bool {
        self.push == Some(*push) || self.follows.contains(&push.short())
    }
}

/// The pointers of a store, each remembered with the version that it was read at. An answer always asks the backend
/// whether it still is that version. Cheap to clone.
#[derive(Clone)]
pub struct Pointers {
    objects: Arc<dyn Objects>,
    known: Cache<Key, (Version, Arc<Pointer>)>,
}

impl Pointers {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Pointers {
        Pointers { objects, known: lru(KNOWN_TAGS_MAX) }
    }

    /// What memory has of a pointer, of whatever age.
    pub fn remembered(&self, key: &Key) -> Option<(Version, Arc<Pointer>)> {
        self.known.get(key)
    }

    /// The pointer under a key. What memory holds is given only when the backend says that it still is that version.
    pub async fn get(&self, key: &Key, deadline: Deadline) -> Result<Option<(Version, Arc<Pointer>)>> {
        let known = self.known.get(key);
        let version = known.as_ref().map(|(version, _)| version);
        match Calls::until(&*self.objects, deadline).reread(key, version).await? {
            Reread::Unchanged => Ok(known),
            Reread::Changed(meta, bytes) => {
                // As good as gone: a push overwrites it, and a delete removes it.
                let pointer: Pointer = match serde_json::from_slice(&bytes) {
                    Ok(pointer) => pointer,
                    Err(error) => {
                        tracing::error!(%key, %error, "tag cannot be read");
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

    /// Drops what memory has of a pointer.
    pub fn forget(&self, key: &Key) {
        self.known.invalidate(key);
    }
}

impl Repo {
    /// The pointer of a tag of this tenant, with its version.
    pub async fn pointer(&self, tag: &Tag) -> Result<Option<(Version, Arc<Pointer>)>> {
        self.refs().pointers().get(&self.tag_key(tag), self.deadline()).await
    }

    /// All tags of this tenant with what they point to.
    pub async fn pointers(&self) -> Result<Vec<(Tag, Arc<Pointer>)>> {
        let prefix = layout::tags_prefix(self.tenant(), self.name());
        let keys = self.content().objects().list(&prefix, None).err_into::<Error>();
        keys.map_ok(|meta| async move {
            let tag = meta.key.as_str().rsplit('/').next().and_then(|tag| tag.parse::<Tag>().ok());
            let pointer = self.refs().pointers().get(&meta.key, self.deadline()).await?;
            Ok(tag.zip(pointer.map(|(_, pointer)| pointer)))
        })
        .try_buffered(FAN_OUT)
        .try_filter_map(|found| async move { Ok(found) })
        .try_collect()
        .await
    }

    /// Writes the pointer of a tag of this tenant.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when `pin`, by which what the pointer names is known to be there to stay, has become too old.
    pub(super) async fn write_tag(
        &self,
        pin: &Pin,
        tag: &Tag,
        pointer: &Pointer,
        when: When,
    ) -> Result<Option<Version>> {
        let (key, body) = (self.tag_key(tag), json(pointer)?);
        // Looked at last of all, and at each attempt: what a pointer names that comes too late may be gone already.
        let put = || async {
            match pin.is_young() {
                true => self.content().objects().put(&key, body.clone(), when).await.map(Some),
                false => Ok(None),
            }
        };
        let meta = match pin.deadline().retry(put).await {
            Ok(written) => written.ok_or(Error::Busy)?,
            Err(objects::Error::Exists) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        self.refs().pointers().known.insert(key, (meta.version.clone(), Arc::new(pointer.clone())));
        Ok(Some(meta.version))
    }
}

impl RepoWriter {
    /// Points a tag to what is there.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when `pin` has become too old.
    pub async fn put_tag(&self, pin: &Pin, tag: &Tag, pointer: &Pointer) -> Result<()> {
        self.repo().write_tag(pin, tag, pointer, When::Always).await.map(drop)
    }

    /// Writes a tag that nobody has written so far. Returns its version, or nothing when somebody has.
    pub async fn put_new_tag(&self, pin: &Pin, tag: &Tag, pointer: &Pointer) -> Result<Option<Version>> {
        self.repo().write_tag(pin, tag, pointer, When::Absent).await
    }

    /// Points a tag to a manifest that is no push. What was pushed to it as a cache before goes: it must not come back
    /// with the next cache.
    pub async fn put_plain(&self, pin: &Pin, tag: &Tag, pointer: &Pointer) -> Result<()> {
        let repo = self.repo();
        if repo.pointer(tag).await?.is_some_and(|(_, before)| before.push.is_some()) {
            repo.content().delete(&repo.push_keys(tag).await?, repo.deadline()).await?;
        }
        self.put_tag(pin, tag, pointer).await
    }
}
