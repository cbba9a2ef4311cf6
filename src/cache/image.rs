//! The images that a tag serves, for people: their platforms and layers.

use super::found::{ImageLayer, InspectedImage};
use super::service::Caches;
use crate::digest::Digest;
use crate::error::Result;
use crate::oci::{Document, Platform};
use crate::refs::Repo;

/// Images of an index that are looked at, and layers of each that are listed.
const IMAGES_MAX: usize = 8;
const LAYERS_MAX: usize = 128;
/// Configs of images that are read, in bytes. Usual ones have some kilobytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// What one manifest says of images.
struct SaidOfImages {
    config: Option<(Digest, u64)>,
    layers: Vec<ImageLayer>,
    /// Of an index.
    children: Vec<(Digest, Option<String>)>,
}

/// The images of a manifest that is one, or of an index of them: the first few.
pub(super) async fn images(caches: &Caches, repo: &Repo, served: &Digest) -> Result<Vec<InspectedImage>> {
    let Some(said) = said_of_images(caches, repo, served).await? else { return Ok(Vec::new()) };
    if said.children.is_empty() {
        return Ok(vec![image(repo, *served, None, said).await]);
    }
    let mut images = Vec::new();
    for (child, platform) in said.children.into_iter().take(IMAGES_MAX) {
        // It may be elsewhere, or an index itself.
        if let Some(said) = said_of_images(caches, repo, &child).await?.filter(|said| said.children.is_empty()) {
            images.push(image(repo, child, platform, said).await);
        }
    }
    Ok(images)
}

async fn image(repo: &Repo, manifest: Digest, platform: Option<String>, said: SaidOfImages) -> InspectedImage {
    let platform = match (platform, said.config) {
        (None, Some((config, size))) if size <= CONFIG_BYTES_MAX => {
            let keys = repo.blobs().blob_keys(&config);
            // What a manifest says of a size need not be true: a config that is too large has no platform here.
            let bytes = repo.content().small_in(keys, config, repo.deadline()).await.ok().flatten();
            bytes.and_then(|bytes| serde_json::from_slice::<Platform>(&bytes).ok()?.name())
        }
        (platform, _) => platform,
    };
    let layer_bytes = said.layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.bytes));
    let layers = said.layers.into_iter().take(LAYERS_MAX).collect();
    InspectedImage { manifest, platform, layers, layer_bytes }
}

/// Nothing when there is no such manifest.
async fn said_of_images(caches: &Caches, repo: &Repo, manifest: &Digest) -> Result<Option<SaidOfImages>> {
    let Some(bytes) = repo.manifest_bytes(manifest).await? else { return Ok(None) };
    let length = bytes.len();
    let parse = move || {
        let document = Document::parse(&bytes)?;
        let content = document.content()?;
        let is_config = |blob: &Digest| content.config.as_ref() == Some(blob);
        let sized = || content.blobs.iter().copied().zip(content.sizes.iter().copied());
        let layers = sized().filter(|(blob, _)| !is_config(blob)).map(|(digest, bytes)| ImageLayer { digest, bytes });
        Ok(SaidOfImages {
            config: sized().find(|(blob, _)| is_config(blob)),
            layers: layers.collect(),
            children: document.platforms(),
        })
    };
    caches.parse_manifest(repo, length, parse).await?.map(Some)
}
