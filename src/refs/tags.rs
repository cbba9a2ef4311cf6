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

    /// Lists all tags of this tenant with their pointers.
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

    /// Writes the pointer of a tag of this tenant, with the time of the write as that of its push.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when `pin`, with which the pointer's content was vouched for, has become too old;
    /// [`Error::LeftBehind`] when another server has upgraded the store's format.
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
            // Checked last of all, and at each attempt: the content of a pointer that is written too late may be
            // deleted already.
            if !pin.is_young() {
                return Ok(None);
            }
            // An attempt whose answer was lost may have been executed, and another push may have followed it: the next
            // attempt must not bring the same bytes back, which other servers remember as those that the other push has
            // replaced.
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
    /// Points a tag to a manifest that is stored.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when `pin` has become too old.
    pub async fn put_tag(&self, pin: &Pin, tag: &Tag, pointer: &Pointer) -> Result<()> {
        self.repo().write_tag(pin, tag, pointer, When::Once).await.map(drop)
    }

    /// Writes a tag that does not exist yet. Returns its version, or nothing if another writer was first.
    pub async fn put_new_tag(&self, pin: &Pin, tag: &Tag, pointer: &Pointer) -> Result<Option<Version>> {
        self.repo().write_tag(pin, tag, pointer, When::Absent).await
    }

    /// Points a tag to a manifest that is no push. Deletes the tag's cache pushes: they must not come back with the
    /// next cache.
    pub async fn put_plain(&self, pin: &Pin, tag: &Tag, pointer: &Pointer) -> Result<()> {
        let repo = self.repo();
        if repo.pointer(tag).await?.is_some_and(|(_, before)| before.push.is_some()) {
            repo.content().delete(&repo.push_keys(tag).await?, repo.deadline()).await?;
        }
        self.put_tag(pin, tag, pointer).await
    }
}
