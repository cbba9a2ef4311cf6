//! Pushes, read from the store.

use std::sync::Arc;

use bytes::Bytes;

use super::service::Caches;
use crate::buildkit::{CacheManifest, FormatError, Push};
use crate::digest::Digest;
use crate::error::Result;
use crate::objects::READ_BYTES_MAX;
use crate::refs::Repo;
use crate::refs::pushes::PushId;

/// A push, or why there is none.
pub(super) type Loaded = std::result::Result<Arc<Push>, NotLoaded>;

/// Why a push cannot be read.
pub(super) enum NotLoaded {
    ManifestGone,
    /// The blob with its records is gone or damaged.
    ConfigGone(Digest),
    /// Not one that BuildKit would know, and why.
    Malformed(String),
}

impl Caches {
    /// A push that was recorded.
    pub(super) async fn load_push(&self, repo: &Repo, id: &PushId) -> Result<Loaded> {
        match repo.manifest_bytes(&id.manifest).await? {
            Some(bytes) => self.read_push(repo, bytes).await,
            None => Ok(Err(NotLoaded::ManifestGone)),
        }
    }

    /// The push that these bytes of a stored manifest make.
    pub(super) async fn read_push(&self, repo: &Repo, manifest: Bytes) -> Result<Loaded> {
        match tokio::task::spawn_blocking(move || CacheManifest::detect(&manifest)).await? {
            Ok(Some(manifest)) => self.push_of(repo, manifest).await,
            Ok(None) => Ok(Err(NotLoaded::Malformed("not a cache manifest".to_string()))),
            Err(error) => Ok(Err(NotLoaded::Malformed(error.to_string()))),
        }
    }

    /// The push that a cache manifest makes, with the config that it names.
    pub(super) async fn push_of(&self, repo: &Repo, manifest: CacheManifest) -> Result<Loaded> {
        let digest = manifest.config.digest;
        let too_large = |manifest, bytes: u64| {
            let (bytes, max) = (bytes as usize, READ_BYTES_MAX as usize);
            let error = FormatError::TooLarge { what: "cacheconfig", bytes, max };
            Ok(Ok(Arc::new(Push { manifest, config: Err(error) })))
        };
        if manifest.config.size > READ_BYTES_MAX {
            let told = manifest.config.size;
            return too_large(manifest, told);
        }
        let blobs = repo.blobs();
        match repo.content().small_in(blobs.blob_keys(&digest), digest, repo.deadline()).await {
            Ok(Some(bytes)) => {
                let reading = tokio::task::spawn_blocking(move || Arc::new(Push::new(manifest, &bytes)));
                Ok(Ok(reading.await?))
            }
            Ok(None) => Ok(Err(NotLoaded::ConfigGone(digest))),
            // What a manifest says of a size need not be true.
            Err(error) => match blobs.size_of(&digest).await? {
                Some(size) if size > READ_BYTES_MAX => too_large(manifest, size),
                _ => Err(error),
            },
        }
    }
}
