//! Cache manifests: how to recognise one, and the blobs that it references.
//!
//! BuildKit writes three forms and imports all of them; the type is taken from the body, not from `Content-Type`
//! (moby/buildkit, `cache/remotecache/import.go` and `util/imageutil`).

use std::collections::BTreeMap;

use serde::Serialize;

use super::CONFIG_MEDIA_TYPE;
use super::error::FormatError;
use crate::digest::Digest;
use crate::oci::{self, Document, GoDescriptor, GoFields, InvalidManifest};

/// The largest manifest that is read as a cache manifest, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 16 << 20;

/// A blob in a manifest. Other fields of a descriptor have no meaning in a cache manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    /// Addresses from which a foreign layer can be downloaded.
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
    /// Layers in the manifest's order. A blob may occur twice; the last descriptor counts.
    pub layers: Vec<Descriptor>,
    /// Length of the pushed manifest in bytes.
    pub bytes: u64,
}

impl CacheManifest {
    /// Reads a manifest if it is a cache manifest, and quickly returns `None` if it is not.
    ///
    /// Only a manifest that mentions a cacheconfig can be an error: others are not parsed.
    pub fn detect(manifest: &[u8]) -> Result<Option<CacheManifest>, FormatError> {
        // No encoder has a reason to escape a character of the media type; one that did would only lose its view.
        if !std::str::from_utf8(manifest).is_ok_and(|text| text.contains(CONFIG_MEDIA_TYPE)) {
            return Ok(None);
        }
        check_size(manifest.len())?;
        CacheManifest::of(&Document::parse(manifest)?, manifest.len())
    }

    /// As [`CacheManifest::detect`], for a parsed manifest of `bytes` bytes.
    pub fn of(document: &Document, bytes: usize) -> Result<Option<CacheManifest>, FormatError> {
        check_size(bytes)?;
        let fields = document.fields()?;
        let Some(form) = Form::of(&fields)? else { return Ok(None) };
        let (mut config, mut layers) = (None, Vec::new());
        if form == Form::Image {
            config = fields.config.map(oci::RawDescriptor::fields).transpose()?.filter(is_config);
            layers.extend(fields.layers.unwrap_or_default().iter().map(oci::RawDescriptor::fields));
        } else {
            for blob in fields.manifests.unwrap_or_default().iter().map(oci::RawDescriptor::fields) {
                match blob {
                    // The importer, too, takes the last of several.
                    Ok(blob) if is_config(&blob) => config = Some(blob),
                    blob => layers.push(blob),
                }
            }
        }
        let Some(config) = config else { return Ok(None) };
        let layers = layers.into_iter().map(|layer| Ok(layer?.into())).collect::<Result<_, FormatError>>()?;
        Ok(Some(CacheManifest { form, config: config.into(), layers, bytes: bytes as u64 }))
    }
}

fn check_size(bytes: usize) -> Result<(), FormatError> {
    match bytes {
        0..=MANIFEST_BYTES_MAX => Ok(()),
        _ => Err(FormatError::TooLarge { what: "manifest", bytes, max: MANIFEST_BYTES_MAX }),
    }
}

fn is_config(descriptor: &GoDescriptor<'_>) -> bool {
    descriptor.media_type == CONFIG_MEDIA_TYPE
}

impl Form {
    fn of(fields: &GoFields<'_>) -> Result<Option<Form>, FormatError> {
        if fields.manifests.is_some() && (fields.layers.is_some() || fields.config.is_some()) {
            return Err(FormatError::Ambiguous);
        }
        Ok(match fields.media_type.unwrap_or_default() {
            oci::OCI_MANIFEST | oci::DOCKER_MANIFEST => Some(Form::Image),
            oci::OCI_INDEX => Some(Form::Index),
            oci::DOCKER_LIST => Some(Form::DockerList),
            "" if fields.manifests.is_some() => Some(Form::Index),
            "" => Some(Form::Image),
            _ => None,
        })
    }
}

impl From<InvalidManifest> for FormatError {
    fn from(InvalidManifest(error): InvalidManifest) -> FormatError {
        FormatError::Json { what: "manifest", error }
    }
}

impl From<GoDescriptor<'_>> for Descriptor {
    fn from(read: GoDescriptor<'_>) -> Descriptor {
        let annotations = read.annotations.into_iter().flatten();
        Descriptor {
            media_type: read.media_type.to_string(),
            digest: read.digest,
            size: read.size,
            urls: read.urls.to_vec(),
            annotations: annotations.map(|(key, value)| (key.clone(), value.clone().unwrap_or_default())).collect(),
        }
    }
}
