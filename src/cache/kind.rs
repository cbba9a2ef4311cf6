//! Kinds of tags, for display.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::oci::{DOCKER_LIST, ManifestContent, OCI_INDEX};

/// Media types of the configs of images.
const IMAGE_CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// Longest media type in characters: twice the 127 of RFC 6838, section 4.2, and the slash.
const MEDIA_TYPE_MAX: usize = 255;

/// The kind of content that a tag serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServedKind {
    Cache,
    Image,
    ImageIndex,
    /// An index whose manifests are caches, as `docker buildx imagetools create` makes one.
    CacheIndex,
    /// Any other content, with its type if that is a media type.
    Artifact(Option<String>),
}

/// The kind in words.
impl fmt::Display for ServedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ServedKind::Cache => "a cache",
            ServedKind::Image => "an image, not a cache of its own",
            ServedKind::ImageIndex => "an image index, not a cache of its own",
            ServedKind::CacheIndex => {
                "an index of caches, as imagetools makes one: builders import nothing from it. Name each cache in a \
                 cache-from of its own, or push them to one tag"
            }
            ServedKind::Artifact(Some(kind)) => return write!(f, "an artifact of the type {kind}, not a cache"),
            ServedKind::Artifact(None) => "an artifact, not a cache",
        })
    }
}

/// The kind of a manifest, as far as its own bytes tell.
pub(super) enum Alone {
    Kind(ServedKind),
    /// An index of these manifests.
    IndexOf(Vec<Digest>),
}

pub(super) fn alone(manifest: &[u8]) -> Alone {
    let Ok(content) = ManifestContent::parse(manifest, None) else { return Alone::Kind(ServedKind::Artifact(None)) };
    let is_index = matches!(content.media_type, OCI_INDEX | DOCKER_LIST);
    Alone::Kind(match content.artifact_type {
        _ if content.cache => ServedKind::Cache,
        None if is_index => return Alone::IndexOf(content.children),
        Some(kind) if !is_index && IMAGE_CONFIGS.contains(&&*kind) => ServedKind::Image,
        kind => ServedKind::Artifact(kind.filter(|kind| is_media_type(kind))),
    })
}

/// Whether a text is a media type (RFC 6838, section 4.2), which is safe to show on a terminal: clients choose it.
fn is_media_type(text: &str) -> bool {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"!#$&-^_.+/".contains(&b);
    text.len() <= MEDIA_TYPE_MAX && text.contains('/') && text.bytes().all(valid)
}
