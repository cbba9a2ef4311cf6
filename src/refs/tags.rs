//! Tags: the only mutable pointers.

use std::sync::Arc;

use futures::TryStreamExt;

use super::pointer::Pointer;
use super::repo::{Repo, RepoWriter};
use crate::calls::{FAN_OUT, json};
use crate::content::Pin;
use crate::error::{Error, Result};
use crate::layout;
use crate::names::Tag;
use crate::objects::{self, Version, When};

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

    /// Writes the pointer of a tag of this tenant, with the moment of the write as that of its push.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when `pin`, by which what the pointer names is known to be there to stay, has become too old;
    /// [`Error::LeftBehind`] when the store's format has moved on.
    pub(super) async fn write_tag(
        &self,
        pin: &Pin,
        tag: &Tag,
        pointer: &Pointer,
        when: When,
    ) -> Result<Option<Version>> {
        let key = self.tag_key(tag);
        self.content().format().may_change()?;
        let put = || async {
            // Looked at last of all, and at each attempt: what a pointer names that comes too late may be gone already.
            if !pin.is_young() {
                return Ok(None);
            }
            // An attempt whose answer was lost may have been done, and another push may have followed it: the next attempt
            // must not bring the same bytes back, which others remember as what that push has replaced.
            let pointer = Pointer { pushed: jiff::Timestamp::now(), ..pointer.clone() };
            let body = json(&pointer).map_err(|error| objects::Error::Backend(error.to_string().into()))?;
            let meta = self.content().objects().put(&key, body, when).await?;
            Ok(Some((meta.version, pointer)))
        };
        let (version, pointer) = match pin.deadline().retry(put).await {
            Ok(written) => written.ok_or(Error::Busy)?,
            Err(objects::Error::Exists) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        self.refs().pointers().remember(key, version.clone(), pointer);
        Ok(Some(version))
    }
}

impl RepoWriter {
    /// Points a tag to what is there.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when `pin` has become too old.
    pub async fn put_tag(&self, pin: &Pin, tag: &Tag, pointer: &Pointer) -> Result<()> {
        self.repo().write_tag(pin, tag, pointer, When::Once).await.map(drop)
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
