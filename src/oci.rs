//! The one parser of manifests and indexes (OCI image specification, Docker schema 2).
//!
//! The bytes are parsed once, into a [`Document`]. The registry's reading, [`Document::content`], is strict: names
//! match exactly and every descriptor is complete. BuildKit's reading, [`Document::fields`], is lenient, as Go's
//! `encoding/json` is: names match in any case, and a descriptor may lack fields that BuildKit does not need.
//!
//! If a document has a name twice, once in another case, the registry takes the exact one, and the manifest is
//! unreadable as a cache: two clients would see two contents under one digest.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::digest::Digest;
use object::{NameIn, Said, object};

mod object;
#[cfg(test)]
mod tests;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Media type of a config that makes a manifest a cache manifest.
pub const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";

/// The reason why bytes are not a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidManifest(pub String);

type Result<T> = std::result::Result<T, InvalidManifest>;

impl From<String> for InvalidManifest {
    fn from(reason: String) -> InvalidManifest {
        InvalidManifest(reason)
    }
}

fn invalid(reason: impl ToString) -> InvalidManifest {
    InvalidManifest(reason.to_string())
}

/// The references and the type of a manifest. Its other content is not interpreted.
#[derive(Clone, Debug)]
pub struct ManifestContent {
    pub media_type: &'static str,
    /// Blobs that must be in the tenant.
    pub blobs: Vec<Digest>,
    /// Sizes of the blobs in bytes, as the manifest says.
    pub sizes: Vec<u64>,
    /// The config, one of the blobs.
    pub config: Option<Digest>,
    /// Manifests that must be in the repository.
    pub children: Vec<Digest>,
    pub subject: Option<Digest>,
    /// Whether it is a cache manifest.
    pub cache: bool,
    /// Artifact type for a list of referrers.
    pub artifact_type: Option<String>,
    pub annotations: Option<HashMap<String, String>>,
}

impl ManifestContent {
    /// Parses a manifest that was sent with this `Content-Type`.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<ManifestContent> {
        Document::parse(bytes)?.content_sent_as(content_type)
    }

    /// The blobs that it references beside its config, each once, with their sizes in bytes.
    pub fn layers(&self) -> Vec<(Digest, u64)> {
        let sized = self.blobs.iter().copied().zip(self.sizes.iter().copied());
        let mut layers: Vec<_> = sized.filter(|(blob, _)| Some(blob) != self.config.as_ref()).collect();
        layers.sort_unstable();
        layers.dedup_by_key(|(blob, _)| *blob);
        layers
    }
}

/// The media type of a stored manifest. It costs little, however much the manifest lists.
pub fn media_type_of(manifest: &[u8]) -> Result<&'static str> {
    let shape: Shape = json(manifest)?;
    let image = shape.config.is_some() || shape.layers.is_some();
    media_type(shape.schema_version, shape.media_type.as_deref(), image, shape.manifests.is_some())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
}

fn json<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T> {
    // JSON is UTF-8 throughout, also in parts that are not read here: clients interpret invalid bytes differently.
    let text = std::str::from_utf8(bytes).map_err(invalid)?;
    serde_json::from_str(text).map_err(invalid)
}

/// A document that could be read as a manifest and as an index is neither: two clients would see two contents under one
/// digest.
fn media_type(schema: Option<u32>, said: Option<&str>, is_image: bool, is_index: bool) -> Result<&'static str> {
    match schema {
        Some(2) => {}
        Some(1) => {
            return Err(invalid("schema 1 manifests are not supported: push an OCI or Docker schema 2 manifest"));
        }
        _ => return Err(invalid("schemaVersion must be 2")),
    }
    if is_image && is_index {
        return Err(invalid("a manifest has either config and layers, or manifests"));
    }
    match said {
        Some(OCI_MANIFEST) if !is_index => Ok(OCI_MANIFEST),
        Some(DOCKER_MANIFEST) if !is_index => Ok(DOCKER_MANIFEST),
        Some(OCI_INDEX) if !is_image => Ok(OCI_INDEX),
        Some(DOCKER_LIST) if !is_image => Ok(DOCKER_LIST),
        Some(said) if is_manifest(said) => Err(invalid("mediaType does not fit the content")),
        Some(other) => Err(invalid(format!("media type {other} is not supported"))),
        None if is_image => Ok(OCI_MANIFEST),
        None if is_index => Ok(OCI_INDEX),
        None => Err(invalid("neither an image manifest nor an index")),
    }
}

fn is_manifest(media_type: &str) -> bool {
    [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST].contains(&media_type)
}

object! {
    /// A parsed manifest or index.
    pub struct Document {
        "schemaVersion" => schema_version: u32,
        "mediaType" => media_type: String,
        "artifactType" => artifact_type: String,
        "config" => config: RawDescriptor,
        "layers" => layers: Vec<RawDescriptor>,
        "manifests" => manifests: Vec<RawDescriptor>,
        "subject" => subject: RawDescriptor,
        "annotations" => annotations: Annotations,
    }
}

object! {
    /// A descriptor of a blob or of another manifest.
    pub struct RawDescriptor {
        "mediaType" => media_type: String,
        "digest" => digest: Digest,
        "size" => size: u64,
        "urls" => urls: Vec<String>,
        "annotations" => annotations: Annotations,
        "platform" => platform: Platform,
        "artifactType" => artifact_type: String,
        "data" => data: String,
    }
    // Required, because a list of empty objects is short, and takes much memory.
    requires "digest" => digest
}

/// What an image runs on, as an index or the config of an image says it (OCI image spec, "image-index" and "config").
#[derive(Debug, Deserialize)]
pub struct Platform {
    architecture: Option<String>,
    os: Option<String>,
    variant: Option<String>,
}

/// Longest part of a platform that is shown, in bytes.
const PLATFORM_PART_MAX: usize = 32;

impl Platform {
    /// `linux/arm64/v8`, for people; nothing where it is not said, or not in words that a terminal can be shown.
    pub fn name(&self) -> Option<String> {
        let is_word = |part: &&String| {
            let valid = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            !part.is_empty() && part.len() <= PLATFORM_PART_MAX && part.bytes().all(valid)
        };
        let word = |part: &Option<String>| part.as_ref().filter(is_word).cloned();
        let name = format!("{}/{}", word(&self.os)?, word(&self.architecture)?);
        Some(word(&self.variant).map_or(name.clone(), |variant| format!("{name}/{variant}")))
    }
}

type Annotations = BTreeMap<String, Option<String>>;

/// A document as BuildKit reads it.
pub struct GoFields<'a> {
    pub media_type: Option<&'a str>,
    pub config: Option<&'a RawDescriptor>,
    pub layers: Option<&'a [RawDescriptor]>,
    pub manifests: Option<&'a [RawDescriptor]>,
}

/// A descriptor as BuildKit reads it: missing fields are empty.
pub struct GoDescriptor<'a> {
    pub media_type: &'a str,
    pub digest: Digest,
    pub size: u64,
    pub urls: &'a [String],
    pub annotations: Option<&'a BTreeMap<String, Option<String>>>,
}

impl Document {
    /// Parses the bytes of any kind of manifest.
    pub fn parse(bytes: &[u8]) -> Result<Document> {
        json(bytes)
    }

    /// The content for the registry, which refuses a manifest whose `Content-Type` contradicts it.
    pub fn content_sent_as(&self, content_type: Option<&str>) -> Result<ManifestContent> {
        let content = self.content()?;
        match content_type {
            Some(said) if is_manifest(said) && said != content.media_type => {
                Err(invalid(format!("Content-Type is {said}, but the manifest is {}", content.media_type)))
            }
            _ => Ok(content),
        }
    }

    /// The content for the registry.
    pub fn content(&self) -> Result<ManifestContent> {
        let (config, layers, manifests) = (&self.config.exact, &self.layers.exact, &self.manifests.exact);
        let is_image = config.is_some() || layers.is_some();
        let said = self.media_type.exact.as_deref();
        let media_type = media_type(self.schema_version.exact, said, is_image, manifests.is_some())?;
        let config = config.as_ref().map(RawDescriptor::complete).transpose()?;
        let subject = self.subject.exact.as_ref().map(RawDescriptor::complete).transpose()?;
        let config_type = config.as_ref().map(|config| config.media_type.to_string());
        let mut content = ManifestContent {
            media_type,
            blobs: Vec::new(),
            sizes: Vec::new(),
            config: None,
            children: Vec::new(),
            subject: subject.map(|subject| subject.digest),
            cache: false,
            artifact_type: self.artifact_type.exact.clone().filter(|text| !text.is_empty()).or(config_type),
            annotations: self.annotations.exact.as_ref().map(texts).transpose()?,
        };
        if matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST) {
            content.name_config(&config.ok_or_else(|| invalid("config is missing"))?);
            for layer in layers.iter().flatten() {
                let layer = layer.complete()?;
                if !layer.is_foreign {
                    content.name_blob(&layer);
                }
            }
        } else {
            // Builders push caches as indexes whose children are layers: the media type of a child decides.
            for child in manifests.iter().flatten() {
                let child = child.complete()?;
                match child.media_type {
                    CACHE_CONFIG => content.name_config(&child),
                    media_type if is_manifest(media_type) => content.children.push(child.digest),
                    _ => content.name_blob(&child),
                }
            }
        }
        Ok(content)
    }

    /// The manifests of an index, each with its platform where the index says one.
    pub fn platforms(&self) -> Vec<(Digest, Option<String>)> {
        let manifests = self.manifests.exact.iter().flatten();
        let named = manifests.filter_map(|one| {
            let platform = one.platform.exact.as_ref().and_then(Platform::name);
            Some((one.digest.exact?, platform))
        });
        named.collect()
    }

    /// The fields that BuildKit reads, with names in any case.
    pub fn fields(&self) -> Result<GoFields<'_>> {
        Ok(GoFields {
            media_type: self.media_type.in_any_case("mediaType")?.map(String::as_str),
            config: self.config.in_any_case("config")?,
            layers: self.layers.in_any_case("layers")?.map(Vec::as_slice),
            manifests: self.manifests.in_any_case("manifests")?.map(Vec::as_slice),
        })
    }
}

impl ManifestContent {
    fn name_blob(&mut self, blob: &Complete<'_>) {
        self.blobs.push(blob.digest);
        self.sizes.push(blob.size);
    }

    fn name_config(&mut self, config: &Complete<'_>) {
        self.name_blob(config);
        self.config = Some(config.digest);
        self.cache |= config.media_type == CACHE_CONFIG;
    }
}

/// A descriptor with all required fields.
struct Complete<'a> {
    media_type: &'a str,
    digest: Digest,
    size: u64,
    /// Whether it is a layer that registries are not expected to hold.
    is_foreign: bool,
}

impl RawDescriptor {
    fn complete(&self) -> Result<Complete<'_>> {
        let missing = |name: &str| invalid(format!("descriptor without {name}"));
        let media_type = self.media_type.exact.as_deref().ok_or_else(|| missing("mediaType"))?;
        let digest = self.digest.exact.ok_or_else(|| missing("digest"))?;
        let size = self.size.exact.ok_or_else(|| missing("size"))?;
        self.annotations.exact.as_ref().map(texts).transpose()?;
        if self.platform.exact.as_ref().is_some_and(|platform| platform.architecture.is_none() || platform.os.is_none())
        {
            return Err(invalid("platform without architecture or os"));
        }
        Ok(Complete {
            media_type,
            digest,
            size,
            is_foreign: self.urls.exact.as_ref().is_some_and(|urls| !urls.is_empty())
                || media_type.contains(".nondistributable.")
                || media_type.contains(".foreign."),
        })
    }

    /// The fields that BuildKit reads, with names in any case.
    pub fn fields(&self) -> Result<GoDescriptor<'_>> {
        Ok(GoDescriptor {
            media_type: self.media_type.in_any_case("mediaType")?.map_or("", String::as_str),
            digest: *self.digest.in_any_case("digest")?.ok_or_else(|| invalid("descriptor without digest"))?,
            size: self.size.in_any_case("size")?.copied().unwrap_or(0),
            urls: self.urls.in_any_case("urls")?.map_or(&[][..], Vec::as_slice),
            annotations: self.annotations.in_any_case("annotations")?,
        })
    }
}

/// Annotations whose values are all texts.
fn texts(annotations: &Annotations) -> Result<HashMap<String, String>> {
    let text = |(key, value): (&String, &Option<String>)| match value {
        Some(value) => Ok((key.clone(), value.clone())),
        None => Err(invalid(format!("annotation {key} is null"))),
    };
    annotations.iter().map(text).collect()
}
