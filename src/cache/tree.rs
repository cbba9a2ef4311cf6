//! Whether all content of a manifest is stored: its own references, and those of an index's manifests.

use std::collections::HashSet;
use std::sync::Arc;

use super::found::ManifestNames;
use super::service::Caches;
use crate::content::Pin;
use crate::digest::Digest;
use crate::error::Result;
use crate::oci::ManifestContent;
use crate::refs::Repo;

/// Limits on the manifests of one tree, and on the references in them, that are looked up. The largest images have some
/// hundreds of layers for each of some ten platforms; a client that pulls references beyond the limit finds out by
/// itself what is missing.
const MANIFESTS_MAX: usize = 256;
const NAMES_MAX: usize = 10_000;
/// Maximum number of bytes of one tree that are parsed.
const TREE_BYTES_MAX: usize = 32 << 20;

impl Caches {
    /// Whether a manifest is served: not if it or one of its references is known to be missing. Looks up condemned
    /// objects only: no other content of a tag can be missing, unless it is a parent's.
    pub(super) async fn is_whole(&self, pin: &Pin, repo: &Repo, digest: &Digest) -> Result<bool> {
        let looks_for_all = repo.blobs().is_scope() && !repo.is_sparse();
        if pin.snapshot().is_empty() && !looks_for_all {
            return Ok(true);
        }
        let (mut wave, mut seen) = (vec![*digest], HashSet::from([*digest]));
        let (mut manifests, mut bytes, mut looks) = (0, 0, 0);
        while let Some(manifest) = wave.pop() {
            if pin.is_gone(repo.manifest_keys(&manifest).collect(), looks_for_all).await? {
                return Ok(false);
            }
            let Some(names) = self.names_of(repo, &manifest, &mut bytes).await? else { continue };
            for blob in &names.blobs {
                if pin.is_gone(repo.blobs().blob_keys(blob).collect(), looks_for_all).await? {
                    return Ok(false);
                }
            }
            (manifests, looks) = (manifests + 1, looks + names.blobs.len());
            if manifests >= MANIFESTS_MAX || looks >= NAMES_MAX || bytes >= TREE_BYTES_MAX {
                tracing::info!(repo = %repo.name(), %digest, manifests, looks, "references beyond the limit are not looked up");
                return Ok(true);
            }
            wave.extend(names.children.iter().filter(|child| seen.insert(**child)));
        }
        Ok(true)
    }

    /// The references of a stored manifest; nothing if it cannot be read. Remembered, so that it is parsed once for
    /// many requests.
    pub(super) async fn names_of(
        &self,
        repo: &Repo,
        digest: &Digest,
        parsed: &mut usize,
    ) -> Result<Option<Arc<ManifestNames>>> {
        if let Some(known) = self.views().names(digest) {
            return Ok(Some(known));
        }
        let Some(bytes) = repo.manifest_bytes(digest).await? else { return Ok(None) };
        let length = bytes.len();
        *parsed += length;
        let parse = move || ManifestContent::parse(&bytes, None);
        let Ok(content) = self.parse_manifest(repo, length, parse).await? else { return Ok(None) };
        let names = Arc::new(ManifestNames { blobs: content.blobs, children: content.children });
        self.views().insert_names(*digest, names.clone());
        Ok(Some(names))
    }
}
