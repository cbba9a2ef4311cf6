//! Deletion of tags: by name, or with the manifest that they serve.

use super::pointer::Pointer;
use super::pushes::LivePush;
use super::repo::RepoEraser;
use super::tag_root::subject_of;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout::PushId;
use crate::names::Tag;
use crate::objects::{Key, When};
use crate::oci::media_type_of;

impl RepoEraser {
    /// Deletes a tag and, of a cache tag, its pushes.
    ///
    /// # Errors
    ///
    /// [`Error::ManifestUnknown`] when the tag does not exist.
    pub async fn delete_tag(&self, tag: &Tag) -> Result<()> {
        let repo = self.repo();
        let _alone = repo.refs().alone().await;
        if repo.content().calls(repo.deadline()).head(&repo.tag_key(tag)).await?.is_none() {
            return Err(Error::ManifestUnknown(tag.to_string()));
        }
        self.remove_tag(tag).await
    }

    /// Removes a tag and its pushes. The pointer is deleted last: a crash before that leaves a tag that can be deleted
    /// again, not pushes that come back with the next one.
    async fn remove_tag(&self, tag: &Tag) -> Result<()> {
        let (repo, key) = (self.repo(), self.repo().tag_key(tag));
        repo.content().delete(&repo.push_keys(tag).await?, repo.deadline()).await?;
        repo.content().delete(std::slice::from_ref(&key), repo.deadline()).await?;
        repo.refs().pointers().forget(&key);
        repo.refs().stock().removed(repo.tenant(), repo.name(), tag);
        Ok(())
    }

    /// Removes all references that serve a manifest which is about to be deleted: tags that point to it, tags that
    /// belong to it, its pushes, and, if it is the view of a tag, the pushes in the view.
    pub async fn withdraw(&self, digest: &Digest) -> Result<()> {
        let repo = self.repo();
        for (tag, pointer) in repo.pointers().await? {
            if pointer.push.is_none() {
                if pointer.digest == *digest || subject_of(&tag) == Some(*digest) {
                    self.remove_tag(&tag).await?;
                }
                continue;
            }
            let in_view = repo.stored_view(&tag).await?.map_or(Vec::new(), |stored| stored.pushes_in(digest));
            let goes = |push: &LivePush| push.id.manifest == *digest || in_view.contains(&push.id);
            let (gone, left): (Vec<_>, Vec<_>) = repo.push_records(&tag).await?.into_iter().partition(goes);
            if gone.is_empty() && pointer.digest != *digest {
                continue;
            }
            let Some(newest) = left.last() else {
                self.remove_tag(&tag).await?;
                continue;
            };
            let keys: Vec<Key> = gone.iter().map(|push| repo.push_key(&tag, &push.id)).collect();
            repo.content().delete(&keys, repo.deadline()).await?;
            self.point_to(&tag, newest.id).await?;
        }
        Ok(())
    }

    async fn point_to(&self, tag: &Tag, id: PushId) -> Result<()> {
        let repo = self.repo();
        let pin = repo.content().pin(repo.deadline()).await?;
        let Some(bytes) = repo.manifest_bytes(&id.manifest).await? else { return self.remove_tag(tag).await };
        let mut pointer = Pointer::new(id.manifest, media_type_of(&bytes)?, bytes.len() as u64);
        pointer.push = Some(id);
        repo.write_tag(&pin, tag, &pointer, When::Once).await.map(drop)
    }
}
