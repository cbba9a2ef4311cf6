//! Notes of last use: when a tag was last served, by the modification time of a small object.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::repo::Repo;
use crate::calls::json;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout;
use crate::names::Tag;

/// How long a reader waits until the use of a tag is noted.
const NOTED_WITHIN: Duration = Duration::from_secs(1);

impl Repo {
    /// Notes that the tag is in use, once an hour at most. A store that takes no writes does not keep anybody from
    /// reading: then the note is tried again with the next use.
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
            // That it writes no more, the server has said.
            Ok(_) | Err(Error::LeftBehind { .. }) => {}
            Err(error) => {
                tracing::warn!(%key, %error, "cannot note the last use of a tag");
                refs.used().invalidate(&key);
            }
        }
    }

    /// When the last use of a tag of this tenant was noted, by the backend's clock.
    pub async fn last_use(&self, tag: &Tag) -> Result<Option<SystemTime>> {
        let key = layout::used(self.tenant(), self.name(), tag);
        Ok(self.content().calls(self.deadline()).head(&key).await?.map(|meta| meta.modified))
    }

    /// Notes that a push has just told of the use of a tag by itself.
    pub fn used_by_push(&self, tag: &Tag) {
        self.refs().used().insert(layout::used(self.tenant(), self.name(), tag), Instant::now());
    }

    /// Notes that a tag is in use whose manifest was read by its digest: of several tags, the one that was pushed or used
    /// last, so that what was read stays. Looked for once an hour at most. Nobody waits for a bucket: what is served from
    /// memory while that is away needs none.
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
