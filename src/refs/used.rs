//! Notes of last use: the modification time of a small object says when a tag was last served.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::repo::Repo;
use crate::calls::json;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout;
use crate::names::Tag;

/// Time that a reader waits for the note of a tag's use.
const NOTED_WITHIN: Duration = Duration::from_secs(1);

impl Repo {
    /// Notes that the tag is in use, once an hour at most. A store that takes no writes delays no reader for long: the
    /// note is tried again with the next use.
    pub async fn note_use(&self, tag: &Tag) {
        let (refs, key) = (self.refs(), layout::used(self.tenant(), self.name(), tag));
        if refs.used().get(&key).is_some_and(|at| at.elapsed() < refs.config().collect.used_every()) {
            return;
        }
        refs.used().insert(key.clone(), Instant::now());
        refs.stock().used(self.tenant(), self.name(), tag);
        let deadline = self.deadline().at_most(NOTED_WITHIN);
        let noted = async {
            let body = json(&serde_json::json!({ "at": jiff::Timestamp::now() }))?;
            self.content().put(&key, body, deadline).await
        };
        match noted.await {
            // The server has logged already that it writes no more.
            Ok(_) | Err(Error::LeftBehind { .. }) => {}
            Err(error) => {
                tracing::warn!(%key, %error, "cannot note the last use of a tag");
                refs.used().invalidate(&key);
            }
        }
    }

    /// Time of the noted last use of a tag of this tenant, by the backend's clock.
    pub async fn last_use(&self, tag: &Tag) -> Result<Option<SystemTime>> {
        let key = layout::used(self.tenant(), self.name(), tag);
        Ok(self.content().calls(self.deadline()).head(&key).await?.map(|meta| meta.modified))
    }

    /// Remembers that a push has just counted as a use of the tag, so that no note is written.
    pub fn used_by_push(&self, tag: &Tag) {
        self.refs().used().insert(layout::used(self.tenant(), self.name(), tag), Instant::now());
    }

    /// Notes the use of a tag whose manifest was read by its digest: of several tags, the one that was pushed or used
    /// last, so that the manifest stays. Looked up once an hour at most. No reader waits for a bucket here: a manifest
    /// in memory is served even while the bucket is unavailable.
    pub async fn note_use_of(&self, digest: &Digest) {
        let (refs, key) = (self.refs(), self.manifest_key(digest));
        if refs.used().get(&key).is_some_and(|at| at.elapsed() < refs.config().collect.used_every()) {
            return;
        }
        refs.used().insert(key, Instant::now());
        for repo in self.each() {
            if let Some(tag) = refs.stock().tag_of(repo.tenant(), repo.name(), digest) {
                match self.content().objects().traits().remote {
                    true => drop(tokio::spawn(async move { repo.note_use(&tag).await })),
                    false => repo.note_use(&tag).await,
                }
            }
        }
    }
}
