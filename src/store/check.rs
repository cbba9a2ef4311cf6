//! Looks whether everything in the store fits together, and says what does not. Nothing is changed.
//!
//! One walk over all keys. What an object names is asked of the backend there and then, so the memory this takes does
//! not grow with the store. In a store in use, what is deleted between the two looks is reported too: look again.

use std::fmt;

use futures::{StreamExt, TryStreamExt};

use super::layout::{self, Place, RepoItem, UploadItem};
use super::manifests::Parsed;
use super::tags::Pointer;
use super::uploads::State;
use super::{Error, FAN_OUT, Result};
use crate::config::Config;
use crate::digest::{Digest, Hasher};
use crate::names::{RepoName, Tenant};
use crate::objects::{self, Key, Meta, Objects, Read};

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Whether everything that is named is there.
    Names,
    /// And whether the bytes of every blob fit its digest: reads the whole store.
    Bytes,
}

/// An object with which something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub key: Key,
    pub problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("is not a key of this store")]
    UnknownKey,
    #[error("does not fit its digest")]
    WrongBytes,
    #[error("cannot be read: {0}")]
    Unreadable(String),
    #[error("names {0}, which is not there")]
    Missing(Key),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.problem)
    }
}

/// Everything that is wrong, in key order.
pub async fn check(objects: &dyn Objects, config: &Config, depth: Depth) -> Result<Vec<Finding>> {
    let check = Check { objects, config, depth };
    let listed = objects.list("", None).err_into::<Error>();
    let looks = listed.map_ok(|meta| check.object(meta)).try_buffered(FAN_OUT);
    looks.map_ok(|found| futures::stream::iter(found).map(Ok)).try_flatten().try_collect().await
}

struct Check<'a> {
    objects: &'a dyn Objects,
    config: &'a Config,
    depth: Depth,
}

impl Check<'_> {
    async fn object(&self, meta: Meta) -> Result<Vec<Finding>> {
        let problems = match layout::parse(meta.key.as_str()) {
            None => vec![Problem::UnknownKey],
            Some(Place::Blob { digest, .. }) => self.blob(&meta.key, &digest).await?,
            Some(Place::Repo { tenant, repo, item }) => self.item(&meta.key, &tenant, &repo, item).await?,
            Some(Place::Upload { tenant, id, item: UploadItem::State }) => {
                let parts = |state: State| Ok(state.part_keys(&tenant, &id));
                self.named(&meta.key, |bytes| serde_json::from_slice(bytes).map_err(text).and_then(parts)).await?
            }
            // A part that no state names is what a crash leaves; it goes when the upload is swept.
            Some(Place::Format | Place::SigningKey | Place::Upload { item: UploadItem::Part { .. }, .. }) => Vec::new(),
        };
        Ok(problems.into_iter().map(|problem| Finding { key: meta.key.clone(), problem }).collect())
    }

    async fn item(&self, key: &Key, tenant: &Tenant, repo: &RepoName, item: RepoItem) -> Result<Vec<Problem>> {
        let manifest = |digest: &Digest| layout::manifest(tenant, repo, digest);
        match item {
            RepoItem::Manifest(digest) => {
                let named = |bytes: &[u8]| {
                    if Digest::of(digest.algorithm(), bytes) != digest {
                        return Err(Problem::WrongBytes);
                    }
                    let parsed = Parsed::parse(bytes, None).map_err(text)?;
                    if self.config.rule(repo).is_some_and(|rule| rule.sparse) && !parsed.cache {
                        return Ok(Vec::new());
                    }
                    let blobs = parsed.blobs.iter().map(|digest| layout::blob(tenant, digest));
                    Ok(blobs.chain(parsed.children.iter().map(manifest)).collect())
                };
                self.named(key, named).await
            }
            RepoItem::Tag(_) => {
                let target = |pointer: Pointer| Ok(vec![manifest(&pointer.digest)]);
                self.named(key, |bytes| serde_json::from_slice(bytes).map_err(text).and_then(target)).await
            }
            RepoItem::Referrer { manifest: digest, .. } => self.missing(vec![manifest(&digest)]).await,
            RepoItem::Push(_, id) => self.missing(vec![manifest(&id.manifest)]).await,
            // Hints: whoever reads them looks for himself whether they still hold.
            RepoItem::View(_) | RepoItem::Used(_) => Ok(Vec::new()),
        }
    }

    async fn blob(&self, key: &Key, digest: &Digest) -> Result<Vec<Problem>> {
        if self.depth == Depth::Names {
            return Ok(Vec::new());
        }
        let mut bytes = match self.objects.get(key, 0..u64::MAX).await {
            Ok((_, bytes)) => bytes,
            Err(objects::Error::NotFound) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut hasher = Hasher::new(digest.algorithm());
        while let Some(piece) = bytes.try_next().await? {
            hasher = tokio::task::spawn_blocking(move || {
                hasher.update(&piece);
                hasher
            })
            .await?;
        }
        Ok(if hasher.finish() == *digest { Vec::new() } else { vec![Problem::WrongBytes] })
    }

    /// Reads an object and reports which of the keys that it names are missing.
    async fn named(
        &self,
        key: &Key,
        names: impl FnOnce(&[u8]) -> std::result::Result<Vec<Key>, Problem>,
    ) -> Result<Vec<Problem>> {
        match self.objects.read(key, None).await {
            Ok(Read::Fresh(_, bytes)) => match names(&bytes) {
                Ok(keys) => self.missing(keys).await,
                Err(problem) => Ok(vec![problem]),
            },
            Ok(Read::Same) | Err(objects::Error::NotFound) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    async fn missing(&self, keys: Vec<Key>) -> Result<Vec<Problem>> {
        let mut problems = Vec::new();
        for key in keys {
            match self.objects.head(&key).await {
                Ok(_) => {}
                Err(objects::Error::NotFound) => problems.push(Problem::Missing(key)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(problems)
    }
}

fn text(error: impl fmt::Display) -> Problem {
    Problem::Unreadable(error.to_string())
}
