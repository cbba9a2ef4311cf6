//! Whether all is there that a manifest names, directly and through the manifests of an index.

use std::collections::HashSet;
use std::sync::Arc;

use super::found::ManifestNames;
use super::service::Caches;
use crate::content::Pin;
use crate::digest::Digest;
use crate::error::Result;
use crate::oci::ManifestContent;
use crate::refs::Repo;

/// Manifests of one tree, and names in them, that are looked at. Of the images that there are, the largest have some
/// hundreds of layers for each of some ten platforms; whoever pulls what is beyond finds out by himself what is gone.
const MANIFESTS_MAX: usize = 256;
const NAMES_MAX: usize = 10_000;
/// Bytes of one tree that are parsed.
const TREE_BYTES_MAX: usize = 32 << 20;

impl Caches {
    /// Whether a manifest is served: not when it or what it names is known to be gone. Looks only for what is condemned:
    /// nothing else that a tag names can be, unless it is a parent's.
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

    /// What a stored manifest names; nothing when it cannot be read. Remembered, and parsed at most once for many requests.
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
