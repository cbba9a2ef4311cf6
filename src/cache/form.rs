//! Forms in which clients send and read a cache. In every form, a push makes the same record, and a tag serves the same
//! view.

use bytes::Bytes;

use super::push::{ManifestPush, Pushed};
use super::service::Caches;
use crate::buildkit::{CacheManifest, FormatError, from_inline, to_inline};
use crate::error::{Error, Result};
use crate::events::BuildCaller;
use crate::names::Tag;
use crate::refs::{Repo, RepoWriter};

/// Form of a cache between a client and a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireForm {
    /// A manifest with its config in a blob: an OCI manifest, an OCI index or a Docker list. The bytes say which.
    Manifest,
    /// One cacheconfig whose layers carry the data of a manifest's descriptors: `type=gha` and `type=s3`.
    Inline,
}

impl Caches {
    /// Pushes a cache to a tag.
    ///
    /// # Errors
    ///
    /// [`Error::ManifestInvalid`] when it is no cache of this form, [`Error::ManifestBlobUnknown`] when a layer is
    /// missing.
    pub async fn push_cache(&self, to: &RepoWriter, tag: &Tag, form: WireForm, bytes: Bytes) -> Result<Pushed> {
        let tags = std::slice::from_ref(tag);
        let bytes = match form {
            WireForm::Manifest => bytes,
            WireForm::Inline => {
                let parting = tokio::task::spawn_blocking(move || from_inline(&bytes));
                let parted = parting.await?.map_err(invalid)?;
                to.blobs().put_bytes(&parted.config_digest, parted.config).await?;
                parted.manifest
            }
        };
        self.push(to, ManifestPush { digest: None, tags, content_type: None, bytes, by: BuildCaller::default() }).await
    }

    /// Returns the cache that a tag serves.
    ///
    /// # Errors
    ///
    /// [`Error::ManifestUnknown`] when the tag serves no cache, or none that can be read in this form.
    pub async fn serve_cache(&self, repo: &Repo, tag: &Tag, form: WireForm) -> Result<Bytes> {
        let unknown = || Error::ManifestUnknown(tag.to_string());
        let manifest = self.serve(repo, tag).await?;
        if form == WireForm::Manifest {
            return Ok(manifest.bytes);
        }
        let detected = CacheManifest::detect(&manifest.bytes).ok().flatten().ok_or_else(unknown)?;
        let (blobs, digest) = (repo.blobs(), detected.config.digest);
        let config = repo.content().small_in(blobs.blob_keys(&digest), digest, repo.deadline()).await?;
        let config = config.ok_or_else(unknown)?;
        let joining = tokio::task::spawn_blocking(move || to_inline(&detected, &config));
        joining.await?.map_err(|_| unknown())
    }
}

fn invalid(error: FormatError) -> Error {
    Error::ManifestInvalid(error.to_string())
}
