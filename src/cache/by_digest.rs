//! Manifests requested by digest.

use futures::{StreamExt, TryStreamExt, stream};

use super::service::Caches;
use crate::calls::FAN_OUT;
use crate::content::Pin;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::metrics::tenant::Asked;
use crate::oci::CACHE_CONFIG;
use crate::refs::Repo;
use crate::refs::manifests::Manifest;

impl Caches {
    /// Returns the manifest with a digest.
    ///
    /// # Errors
    ///
    /// [`Error::ManifestUnknown`] when it is missing, when it references content that was found corrupt, and when it is
    /// a cache with a missing layer: a builder that finds no cache builds without one, and a builder that gets such a
    /// cache fails at the layer. A manifest that a tag has just served is served: its layers have been looked up, and
    /// the lease holds.
    pub async fn serve_by_digest(&self, repo: &Repo, digest: &Digest) -> Result<Manifest> {
        let look = |pin: Pin| async move {
            let manifest = repo.manifest(&pin, digest).await?;
            let is_due = is_cache(&manifest.bytes) && !self.views().was_just_served(&repo.manifest_key(digest));
            if is_due && !self.has_layers(&pin, repo, digest).await? {
                return Err(Error::ManifestUnknown(digest.to_string()));
            }
            Ok(manifest)
        };
        let found = repo.content().pinned(repo.deadline(), look).await;
        match &found {
            Ok(_) => repo.blobs().counted().asked(Asked::Manifest, true),
            Err(Error::ManifestUnknown(_)) => repo.blobs().counted().asked(Asked::Manifest, false),
            Err(_) => {}
        }
        if found.is_ok() {
            repo.note_use_of(digest).await;
        }
        found
    }

    /// Whether all content of a cache is stored: looked up as for a view, all at once.
    async fn has_layers(&self, pin: &Pin, repo: &Repo, digest: &Digest) -> Result<bool> {
        let Some(names) = self.names_of(repo, digest, &mut 0).await? else { return Ok(true) };
        let looks = names.blobs.iter().map(|blob| pin.may_name_any(repo.blobs().blob_keys(blob), None));
        let looks: Vec<_> = looks.collect();
        let mut looks = stream::iter(looks).buffer_unordered(FAN_OUT);
        while let Some(is_here) = looks.try_next().await? {
            if !is_here {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether a manifest may be a cache. Only parsing is certain, and takes longer.
fn is_cache(manifest: &[u8]) -> bool {
    manifest.windows(CACHE_CONFIG.len()).any(|bytes| bytes == CACHE_CONFIG.as_bytes())
}
