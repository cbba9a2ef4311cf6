//! Push records of cache tags: they are only ever added, and a pointer is written after them.
//!
//! Two builds that push to one tag at once each write a record of their own and then the pointer; neither reads,
//! changes and writes back. The last pointer references one of the records, and a list shows them all. A reader that
//! finds the pointer unchanged knows that the records are: every record, and every expiry, is followed by a new
//! pointer.

use std::collections::HashSet;
use std::time::SystemTime;

use bytes::Bytes;

use super::pointer::Pointer;
use super::repo::{Repo, RepoWriter};
use crate::content::Pin;
use crate::deadline::Deadline;
use crate::error::Result;
use crate::hot::Slot;
use crate::layout::{self, Place, RepoItem};
use crate::names::Tag;
use crate::objects::Key;

pub use crate::layout::PushId;

/// A push record, as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivePush {
    pub id: PushId,
    /// Time of the push, by the backend's clock.
    pub at: SystemTime,
}

impl Repo {
    /// The pushes of a tag of this tenant, oldest first. The pointer counts as a push by itself if its record is gone:
    /// deleted together with the tag, just before the pointer was written.
    pub async fn pushes_behind(&self, tag: &Tag, pointer: &Pointer) -> Result<Vec<LivePush>> {
        let mut live = self.pushes(tag).await?;
        if let Some(push) = pointer.push
            && !live.iter().any(|live| live.id.identity == push.identity)
        {
            live.push(LivePush { id: PushId { manifest: pointer.digest, ..push }, at: pointer.pushed.into() });
        }
        Ok(live)
    }

    /// The pushes of a tag, oldest first, one for each identity.
    pub async fn pushes(&self, tag: &Tag) -> Result<Vec<LivePush>> {
        let mut live = self.push_records(tag).await?;
        // Two servers may have written one push at once, from manifests that differ in their annotations only.
        let mut seen = HashSet::new();
        live.reverse();
        live.retain(|push| seen.insert(push.id.identity));
        live.reverse();
        Ok(live)
    }

    /// The push records of a tag, oldest first.
    pub(super) async fn push_records(&self, tag: &Tag) -> Result<Vec<LivePush>> {
        let prefix = layout::pushes_prefix(self.tenant(), self.name(), tag);
        let mut live = Vec::new();
        for meta in self.content().calls(self.deadline()).list(&prefix).await? {
            if let Some(Place::Repo { item: RepoItem::Push(_, id), .. }) = layout::parse(meta.key.as_str()) {
                live.push(LivePush { id, at: meta.modified });
            }
        }
        live.sort_by_key(|push| (push.at, push.id));
        Ok(live)
    }

    /// The keys of all objects of a cache tag, except its pointer.
    pub(super) async fn push_keys(&self, tag: &Tag) -> Result<Vec<Key>> {
        let prefix = layout::pushes_prefix(self.tenant(), self.name(), tag);
        let (tenant, name) = (self.tenant(), self.name());
        let mut keys = vec![layout::view(tenant, name, tag), layout::used(tenant, name, tag)];
        let listed = self.content().calls(self.deadline()).list(&prefix).await?;
        keys.extend(listed.into_iter().map(|meta| meta.key));
        Ok(keys)
    }

    pub(super) fn push_key(&self, tag: &Tag, id: &PushId) -> Key {
        layout::push(self.tenant(), self.name(), tag, id)
    }

    /// Reads the content of a push record, through the hot layer; empty if it is gone. It is not checked against a
    /// digest: records are small, written by Larder, and only say what expires first.
    pub async fn push_record(&self, tag: &Tag, id: &PushId) -> Result<Bytes> {
        let (key, content) = (self.push_key(tag, id), self.content().clone());
        let owned = key.clone();
        let read = || async move {
            let read = content.calls(Deadline::of_each_call()).read(&owned).await?;
            Ok(read.map_or(Bytes::new(), |(_, bytes)| bytes))
        };
        self.content().hot().get(&Slot::Whole(key), 0, read).await
    }
}

impl RepoWriter {
    /// Whether a record that was listed some time ago exists, and stays for a grace period.
    pub async fn has_record(&self, pin: &Pin, tag: &Tag, id: &PushId) -> Result<bool> {
        let repo = self.repo();
        let record = repo.push_key(tag, id);
        pin.spare(&record).await?;
        Ok(repo.content().calls(repo.deadline()).head(&record).await?.is_some())
    }

    /// Writes a push record. Returns the time of the write, by the backend's clock.
    pub async fn put_record(&self, pin: &Pin, tag: &Tag, id: &PushId, record: Bytes) -> Result<SystemTime> {
        let (repo, key) = (self.repo(), self.repo().push_key(tag, id));
        pin.spare(&key).await?;
        let at = repo.content().put(&key, record.clone(), repo.deadline()).await?.modified;
        repo.content().hot().keep_pushed(Slot::Whole(key), &record);
        Ok(at)
    }

    /// Writes a push record again, so that a push which is repeated all the time does not count as the oldest.
    pub async fn renew_record(&self, tag: &Tag, id: &PushId) -> Result<()> {
        let (repo, key) = (self.repo(), self.repo().push_key(tag, id));
        let calls = repo.content().calls(repo.deadline());
        let record = calls.read(&key).await?.map_or(Bytes::new(), |(_, bytes)| bytes);
        repo.content().put(&key, record, repo.deadline()).await?;
        Ok(())
    }

    /// Deletes push records.
    pub async fn delete_records(&self, tag: &Tag, ids: &[PushId]) -> Result<()> {
        let repo = self.repo();
        let keys: Vec<Key> = ids.iter().map(|id| repo.push_key(tag, id)).collect();
        repo.content().delete(&keys, repo.deadline()).await
    }
}
