//! Tags: the only mutable pointers, and the lists of tags and repositories.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::calls::FAN_OUT;
use crate::content::condemned::Snapshot;
use crate::deadline::patiently;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout;
use crate::layout::PushId;
use crate::names::{RepoName, Tag, Tenant};
use crate::objects;
use crate::objects::{Key, Read, Version, When};
use crate::store::{Repo, Store};

/// Content of a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pointer {
    pub media_type: String,
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
    /// When it was pushed, by the clock of the server that took it. For people to read; and it makes two writings of a
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
    pub fn new(digest: Digest, media_type: &str, size: u64) -> Pointer {
        let (media_type, pushed) = (media_type.to_string(), jiff::Timestamp::now());
        Pointer { media_type, digest, size, pushed, push: None, follows: Vec::new() }
    }

    /// The manifests that it names: where its push was sent again, that may be two.
    pub(crate) fn manifests(&self) -> Vec<Digest> {
        std::iter::once(self.digest).chain(self.push.map(|push| push.manifest)).collect()
    }

    /// Whether this was written after the record of a push.
    pub fn follows(&self, push: &PushId) -> bool {
        self.push == Some(*push) || self.follows.contains(&push.short())
    }
}

/// Part of a sorted list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Entries at most.
    pub limit: usize,
    /// Only what comes behind this entry.
    pub after: Option<String>,
}

/// Entries of a page, and whether there are more behind them.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    pub entries: Vec<T>,
    pub more: bool,
}

impl Repo {
    /// # Errors
    ///
    /// [`Error::Busy`] when `pin`, by which what the pointer names is known to be there to stay, has become too old.
    pub(crate) async fn put_tag(&self, pin: &Snapshot, tag: &Tag, pointer: Pointer) -> Result<()> {
        self.write_tag(pin, tag, &pointer, When::Always).await.map(drop)
    }

    /// Writes a tag that nobody has written so far. Its version, or nothing when somebody has.
    pub(crate) async fn put_new_tag(&self, pin: &Snapshot, tag: &Tag, pointer: &Pointer) -> Result<Option<Version>> {
        self.write_tag(pin, tag, pointer, When::Absent).await
    }

    async fn write_tag(&self, pin: &Snapshot, tag: &Tag, pointer: &Pointer, when: When) -> Result<Option<Version>> {
        let key = self.tag_key(tag);
        let body = serde_json::to_vec(pointer).map_err(|error| Error::Internal(error.to_string().into()))?;
        let body = Bytes::from(body);
        // Looked at last of all, and at each attempt: what a pointer names that comes too late may be gone already.
        let put = || async {
            match pin.is_young() {
                true => self.store.objects.put(&key, body.clone(), when).await.map(Some),
                false => Ok(None),
            }
        };
        let meta = match patiently(put).await {
            Ok(written) => written.ok_or(Error::Busy)?,
            Err(objects::Error::Exists) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        self.store.tags.insert(key, (meta.version.clone(), Arc::new(pointer.clone())));
        Ok(Some(meta.version))
    }

    /// Where a tag points now.
    pub async fn tag(&self, tag: &Tag) -> Result<Option<Arc<Pointer>>> {
        Ok(self.store.pointer(&self.tag_key(tag)).await?.map(|(_, pointer)| pointer))
    }

    pub async fn delete_tag(&self, tag: &Tag) -> Result<()> {
        let _alone = self.store.references.write().await;
        if self.store.stat(&self.tag_key(tag)).await?.is_none() {
            return Err(Error::ManifestUnknown(tag.to_string()));
        }
        self.remove_tag(tag).await
    }

    /// Removes a tag and, of a cache tag, its pushes. The pointer goes last: a crash before leaves a tag that can be
    /// deleted again, not pushes that come back with the next one.
    pub(crate) async fn remove_tag(&self, tag: &Tag) -> Result<()> {
        let key = self.tag_key(tag);
        self.store.delete(&self.push_keys(tag).await?).await?;
        self.store.delete(std::slice::from_ref(&key)).await?;
        self.store.tags.invalidate(&key);
        self.store.stock.removed(self.tenant(), self.name(), tag);
        Ok(())
    }

    /// All tags with what they point to.
    pub(crate) async fn pointers(&self) -> Result<Vec<(Tag, Arc<Pointer>)>> {
        let prefix = layout::tags_prefix(self.tenant(), self.name());
        let keys = self.store.objects.list(&prefix, None).err_into::<Error>();
        let store = self.store.clone();
        keys.map_ok(move |meta| {
            let store = store.clone();
            async move {
                let tag = meta.key.as_str().rsplit('/').next().and_then(|tag| tag.parse::<Tag>().ok());
                Ok(tag.zip(store.pointer(&meta.key).await?.map(|(_, pointer)| pointer)))
            }
        })
        .try_buffered(FAN_OUT)
        .try_filter_map(|found| async move { Ok(found) })
        .try_collect()
        .await
    }

    /// Tags in byte order, which for tags is also the order of the spec.
    pub async fn tags(&self, page: &Page) -> Result<Listed<String>> {
        let page_of = |repo: Repo| async move { repo.own_tags(page).await };
        let listed = self.merged(page, page_of, String::clone).await?;
        if listed.entries.is_empty() && !self.exists().await? {
            return Err(Error::RepoUnknown(self.name().clone()));
        }
        Ok(listed)
    }

    async fn own_tags(&self, page: &Page) -> Result<Listed<String>> {
        let prefix = layout::tags_prefix(self.tenant(), self.name());
        let after = page.after.as_ref().map(|after| format!("{prefix}{after}"));
        let listed = self.store.objects.list(&prefix, after.as_deref());
        let names = listed.map_ok(|meta| meta.key.as_str()[prefix.len()..].to_string());
        let mut entries: Vec<String> = names.take(page.limit + 1).try_collect().await?;
        let more = entries.len() > page.limit;
        entries.truncate(page.limit);
        Ok(Listed { entries, more })
    }

    async fn exists(&self) -> Result<bool> {
        for repo in self.each() {
            let prefix = layout::repo_prefix(repo.tenant(), repo.name());
            if self.store.objects.list(&prefix, None).try_next().await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Store {
    /// The pointer under a key. What memory holds is given only when the backend says that it still is that version.
    pub(crate) async fn pointer(&self, key: &Key) -> Result<Option<(Version, Arc<Pointer>)>> {
        let known = self.tags.get(key);
        let version = known.as_ref().map(|(version, _)| version);
        match patiently(|| self.objects.read(key, version)).await {
            Ok(Read::Same) => Ok(known),
            Ok(Read::Fresh(meta, bytes)) => {
                // As good as gone: a push overwrites it, and a delete removes it.
                let pointer: Pointer = match serde_json::from_slice(&bytes) {
                    Ok(pointer) => pointer,
                    Err(error) => {
                        tracing::error!(%key, %error, "tag cannot be read");
                        return Ok(None);
                    }
                };
                let pointer = Arc::new(pointer);
                self.tags.insert(key.clone(), (meta.version.clone(), pointer.clone()));
                Ok(Some((meta.version, pointer)))
            }
            Err(objects::Error::NotFound) => {
                self.tags.invalidate(key);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Repositories of a tenant, in the byte order of their keys. One look at the backend for each: it skips over what
    /// is in them.
    pub async fn repos(&self, tenant: &Tenant, page: &Page) -> Result<Listed<RepoName>> {
        let prefix = layout::repos_prefix(tenant);
        let after = page.after.as_deref().and_then(|after| after.parse().ok());
        let mut after = after.map(|repo: RepoName| layout::repo_end(tenant, &repo));
        let mut entries = Vec::new();
        while let Some(meta) = self.objects.list(&prefix, after.as_deref()).try_next().await? {
            match layout::parse(meta.key.as_str()) {
                Some(layout::Place::Repo { repo, .. }) => {
                    if entries.len() == page.limit {
                        return Ok(Listed { entries, more: true });
                    }
                    after = Some(layout::repo_end(tenant, &repo));
                    entries.push(repo);
                }
                // Not ours: `check` reports it.
                _ => after = Some(meta.key.as_str().to_string()),
            }
        }
        Ok(Listed { entries, more: false })
    }
}
