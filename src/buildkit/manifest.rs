//! Cache manifests: which manifests are one, and which blobs they name.
//!
//! BuildKit writes three forms and imports all of them; the type is taken from the body, not from `Content-Type`
//! (moby/buildkit, `cache/remotecache/import.go` and `util/imageutil`).

use std::collections::BTreeMap;

use serde::Serialize;

use super::CONFIG_MEDIA_TYPE;
use super::error::FormatError;
use super::json::go_object;
use crate::digest::Digest;

/// The largest manifest that is read as a cache manifest, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 16 << 20;

/// A blob that a manifest names. What else a descriptor may hold has no meaning in a cache manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    /// Where a foreign layer can be had instead of here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// How the manifest lists its blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `config` and `layers`: BuildKit's default since v0.21.
    Image,
    /// An OCI index whose `manifests` are layer blobs and one cacheconfig (`image-manifest=false`).
    Index,
    /// The same as a Docker manifest list (`oci-mediatypes=false`).
    DockerList,
}

/// A manifest that carries a cacheconfig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheManifest {
    pub form: Form,
    pub config: Descriptor,
    /// In the manifest's order. A blob may occur twice; the last descriptor counts.
    pub layers: Vec<Descriptor>,
    /// The length of the manifest as pushed.
    pub bytes: u64,
}

go_object! {
    struct RawManifest {
        "mediaType" => media_type: Option<String>,
        "config" => config: Option<RawDescriptor>,
        "layers" => layers: Option<Vec<RawDescriptor>>,
        "manifests" => manifests: Option<Vec<RawDescriptor>>,
    }
}

go_object! {
    struct RawDescriptor {
        "mediaType" => media_type: String,
        "digest" => digest: String,
        "size" => size: u64,
        "urls" => urls: Vec<String>,
        "annotations" => annotations: BTreeMap<String, Option<String>>,
    }
}

impl CacheManifest {
    /// Reads a manifest if it is a cache manifest, and is quick to say `None` if it is not.
    ///
    /// An error is only given for what mentions a cacheconfig: other manifests are not looked into.
    pub fn detect(manifest: &[u8]) -> Result<Option<CacheManifest>, FormatError> {
        // No encoder has a reason to escape a character of the media type, and one that did would lose its view only.
        if !std::str::from_utf8(manifest).is_ok_and(|text| text.contains(CONFIG_MEDIA_TYPE)) {
            return Ok(None);
        }
        if manifest.len() > MANIFEST_BYTES_MAX {
            return Err(FormatError::TooLarge { what: "manifest", bytes: manifest.len(), max: MANIFEST_BYTES_MAX });
        }
        let raw: RawManifest = serde_json::from_slice(manifest)
            .map_err(|error| FormatError::Json { what: "manifest", error: error.to_string() })?;
        let Some(form) = Form::of(&raw)? else { return Ok(None) };

        let is_config = |descriptor: &RawDescriptor| descriptor.media_type == CONFIG_MEDIA_TYPE;
        let (configs, layers): (Vec<_>, Vec<_>) = match form {
            Form::Image => (raw.config.into_iter().filter(is_config).collect(), raw.layers.unwrap_or_default()),
            Form::Index | Form::DockerList => raw.manifests.unwrap_or_default().into_iter().partition(is_config),
        };
        // The importer, too, takes the last of several.
        let Some(config) = configs.into_iter().next_back() else { return Ok(None) };
        let layers = layers.into_iter().map(Descriptor::try_from).collect::<Result<_, _>>()?;
        Ok(Some(CacheManifest { form, config: config.try_into()?, layers, bytes: manifest.len() as u64 }))
    }
}

impl Form {
    fn of(raw: &RawManifest) -> Result<Option<Form>, FormatError> {
        if raw.manifests.is_some() && (raw.layers.is_some() || raw.config.is_some()) {
            return Err(FormatError::Ambiguous);
        }
        Ok(match raw.media_type.as_deref().unwrap_or_default() {
            "application/vnd.oci.image.manifest.v1+json" | "application/vnd.docker.distribution.manifest.v2+json" => {
                Some(Form::Image)
            }
            "application/vnd.oci.image.index.v1+json" => Some(Form::Index),
            "application/vnd.docker.distribution.manifest.list.v2+json" => Some(Form::DockerList),
            "" if raw.manifests.is_some() => Some(Form::Index),
            "" => Some(Form::Image),
            _ => None,
        })
    }
}

impl TryFrom<RawDescriptor> for Descriptor {
    type Error = FormatError;

    fn try_from(raw: RawDescriptor) -> Result<Descriptor, FormatError> {
        let Ok(digest) = raw.digest.parse() else { return Err(FormatError::Digest(raw.digest)) };
        let annotations = raw.annotations.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect();
        Ok(Descriptor { media_type: raw.media_type, digest, size: raw.size, urls: raw.urls, annotations })
    }
}
