//! Pushes, read from the store.

use std::sync::Arc;

use bytes::Bytes;

use super::service::Caches;
use crate::buildkit::{CONFIG_BYTES_MAX, CacheConfig, CacheManifest, FormatError, Push};
use crate::digest::Digest;
use crate::error::Result;
use crate::objects::READ_BYTES_MAX;
use crate::refs::Repo;

/// A push whose config is not parsed, or the reason why it cannot be read.
pub(super) type Unparsed = std::result::Result<UnparsedPush, NotLoaded>;

/// The reason why a push cannot be read.
pub(super) enum NotLoaded {
    ManifestGone,
    /// The blob with the config is gone or damaged.
    ConfigGone(Digest),
    /// Not a cache that BuildKit would accept, and the reason.
    Malformed(String),
}

/// The parts of a push: its parsed manifest, and its config as bytes.
pub(super) struct UnparsedPush {
    pub manifest: CacheManifest,
    config: std::result::Result<Bytes, FormatError>,
}

impl UnparsedPush {
    /// Memory in bytes that the push takes while it is parsed and afterwards.
    pub fn memory(&self) -> u64 {
        let config = self.config.as_ref().map_or(0, |bytes| CacheConfig::memory_to_parse(bytes));
        config + self.manifest.bytes
    }

    /// Parses the config, which takes time.
    pub async fn parse(self) -> Result<Arc<Push>> {
        let UnparsedPush { manifest, config } = self;
        let parse = move || match config {
            Ok(bytes) => Push::new(manifest, &bytes),
            Err(error) => Push { manifest, config: Err(error) },
        };
        Ok(Arc::new(tokio::task::spawn_blocking(parse).await?))
    }
}

impl Caches {
    /// Parses a stored manifest as a cache manifest.
    pub(super) async fn read_manifest(&self, bytes: Bytes) -> Result<std::result::Result<CacheManifest, NotLoaded>> {
        let detected = tokio::task::spawn_blocking(move || CacheManifest::detect(&bytes)).await?;
        Ok(match detected {
            Ok(Some(manifest)) => Ok(manifest),
            Ok(None) => Err(NotLoaded::Malformed("not a cache manifest".to_string())),
            Err(error) => Err(NotLoaded::Malformed(error.to_string())),
        })
    }

    /// Reads the config of a cache manifest. Together they are a push.
    pub(super) async fn push_of(&self, repo: &Repo, manifest: CacheManifest) -> Result<Unparsed> {
        let digest = manifest.config.digest;
        let too_large = |manifest, bytes: u64| {
            let error = FormatError::TooLarge { what: "cacheconfig", bytes: bytes as usize, max: CONFIG_BYTES_MAX };
            Ok(Ok(UnparsedPush { manifest, config: Err(error) }))
        };
        if manifest.config.size > CONFIG_BYTES_MAX as u64 {
            let told = manifest.config.size;
            return too_large(manifest, told);
        }
        let blobs = repo.blobs();
        match repo.content().small_in(blobs.blob_keys(&digest), digest, repo.deadline()).await {
            Ok(Some(bytes)) => Ok(Ok(UnparsedPush { manifest, config: Ok(bytes) })),
            Ok(None) => Ok(Err(NotLoaded::ConfigGone(digest))),
            // The size in a manifest may be wrong.
            Err(error) => match blobs.size_of(&digest).await? {
                Some(size) if size > READ_BYTES_MAX => too_large(manifest, size),
                _ => Err(error),
            },
        }
    }
}
