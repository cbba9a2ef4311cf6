//! Contents of tags and manifests, as this server remembers them.

use serde::{Deserialize, Serialize};

use super::kind::ServedKind;
use crate::buildkit::{Explanation, Push, lacks_intermediate_results};
use crate::digest::Digest;
use crate::refs::pushes::LivePush;
use crate::refs::stored_view::Served;

/// Contents of a tag, for display.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inspection {
    pub repo: String,
    pub tag: String,
    /// Time of the last push.
    pub pushed: jiff::Timestamp,
    pub served: Served,
    /// Kind of the last push; absent in answers of older servers.
    #[serde(default)]
    pub kind: Option<ServedKind>,
    /// Whether a view is served instead of the last push.
    pub is_view: bool,
    /// Pushes, oldest first.
    pub pushes: Vec<InspectedPush>,
    /// Of an image, itself; of an index of images, the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<InspectedImage>,
    /// Largest size in bytes that BuildKit imports, for manifest and config each.
    pub limit_bytes: Option<u64>,
    pub explanation: Option<Explanation>,
}

/// One image of a tag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InspectedImage {
    pub manifest: Digest,
    /// `linux/arm64/v8`, as the index or else the config says; nothing where neither does.
    pub platform: Option<String>,
    /// From the bottom. Of very many only the first.
    pub layers: Vec<ImageLayer>,
    /// Of all of them, as the manifest says.
    pub layer_bytes: u64,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageLayer {
    pub digest: Digest,
    pub bytes: u64,
}

/// One push of a cache tag.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InspectedPush {
    pub manifest: Digest,
    pub at: jiff::Timestamp,
    pub manifest_bytes: u64,
    pub config_bytes: u64,
    /// Sum of the sizes of the layers in bytes, each counted once.
    pub layer_bytes: u64,
    pub records: usize,
    pub layers: usize,
    /// Whether steps of intermediate stages have no results: a sign of a push without `mode=max`.
    #[serde(default)]
    pub without_max: bool,
    /// The reason why the push is not part of the view.
    pub error: Option<String>,
}

/// What to say of a push without results of intermediate stages.
pub const WITHOUT_MAX: &str = "no results of intermediate stages: pushed without mode=max, it seems; with it, later builds find \
                               these steps, too";

impl InspectedPush {
    pub(super) fn of(live: &LivePush, push: Option<&Push>) -> InspectedPush {
        let at = jiff::Timestamp::try_from(live.at).unwrap_or_default();
        let empty = InspectedPush {
            manifest: live.id.manifest,
            at,
            manifest_bytes: 0,
            config_bytes: 0,
            layer_bytes: 0,
            records: 0,
            layers: 0,
            without_max: false,
            error: Some("it is missing, or too large to merge".to_string()),
        };
        let Some(push) = push else { return empty };
        let mut layers: Vec<_> = push.manifest.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
        layers.sort_unstable();
        layers.dedup();
        InspectedPush {
            manifest_bytes: push.manifest.bytes,
            config_bytes: push.manifest.config.size,
            layer_bytes: layers.iter().fold(0, |sum, (_, size)| size.saturating_add(sum)),
            records: push.config.as_ref().map_or(0, |config| config.records.len()),
            layers: layers.len(),
            without_max: push.config.as_ref().is_ok_and(lacks_intermediate_results),
            error: push.config.as_ref().err().map(|error| error.to_string()),
            ..empty
        }
    }
}

/// References of a manifest.
pub(super) struct ManifestNames {
    pub blobs: Vec<Digest>,
    pub children: Vec<Digest>,
}

impl ManifestNames {
    /// Memory in bytes.
    pub fn weight(&self) -> u32 {
        let names = self.blobs.len() + self.children.len();
        u32::try_from(64 + names * size_of::<Digest>()).unwrap_or(u32::MAX)
    }
}
