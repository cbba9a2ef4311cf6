//! Manifests: what they name, and putting, getting and deleting them.
//!
//! A manifest is stored and served exactly as pushed; it is parsed only for what it names. Its media type needs no
//! place of its own: it is what the manifest says of itself or, where it says nothing, what its shape says, and a push
//! whose `Content-Type` says otherwise is refused.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use oci_spec::image::{Descriptor, MediaType};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::account::inventory::Weight;
use crate::buildkit;
use crate::buildkit::Push;
use crate::calls::FAN_OUT;
use crate::content::condemned::Snapshot;
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Result};
use crate::hot::Slot;
use crate::metrics::tenant::Asked;
use crate::names::{Reference, Tag};
use crate::objects::Key;
use crate::refs::tags::Pointer;
use crate::store::Repo;

/// The config that makes a manifest a cache manifest.
pub const CACHE_CONFIG: &str = buildkit::CONFIG_MEDIA_TYPE;
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What a manifest is. Read by itself, it costs little, however much the manifest lists.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
}

/// What a manifest names. Everything else in it is the clients' own.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<HashMap<String, String>>,
}

/// A manifest, as far as it has been understood.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub media_type: &'static str,
    /// What must be in the tenant's blobs.
    pub blobs: Vec<Digest>,
    /// Their sizes in bytes, as the manifest says.
    pub sizes: Vec<u64>,
    /// Which of them is the config.
    pub config: Option<Digest>,
    /// What must be among the repository's manifests.
    pub children: Vec<Digest>,
    pub subject: Option<Digest>,
    /// It is a cache manifest.
    pub cache: bool,
    /// What a list of referrers says of it.
    pub artifact_type: Option<String>,
    pub annotations: Option<HashMap<String, String>>,
}

/// A manifest that is here.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub digest: Digest,
    pub media_type: String,
    pub bytes: Bytes,
}

/// What came of a push.
#[derive(Clone, Debug)]
pub struct Pushed {
    pub digest: Digest,
    pub subject: Option<Digest>,
    /// It is a cache manifest.
    pub cache: bool,
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::ManifestInvalid(reason.into())
}

impl Parsed {
    /// Parses a manifest that was sent with this `Content-Type`.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Parsed> {
        let media_type = Shape::read(bytes)?.media_type()?;
        if let Some(said) = content_type
            && [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST].contains(&said)
            && said != media_type
        {
            return Err(invalid(format!("Content-Type is {said}, but the manifest is {media_type}")));
        }
        let document: Document = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
        document.understand(media_type)
    }
}

impl Shape {
    fn read(bytes: &[u8]) -> Result<Shape> {
        // JSON is UTF-8 throughout, also where nobody here looks: clients make different things of what is not.
        let text = std::str::from_utf8(bytes).map_err(|error| invalid(error.to_string()))?;
        serde_json::from_str(text).map_err(|error| invalid(error.to_string()))
    }

    /// A document that could be read as a manifest and as an index is neither: two clients would see two contents
    /// under one digest.
    fn media_type(&self) -> Result<&'static str> {
        match self.schema_version {
            Some(2) => {}
            Some(1) => {
                return Err(invalid("schema 1 manifests are not supported: push an OCI or Docker schema 2 manifest"));
            }
            _ => return Err(invalid("schemaVersion must be 2")),
        }
        let image = self.config.is_some() || self.layers.is_some();
        if image && self.manifests.is_some() {
            return Err(invalid("a manifest has either config and layers, or manifests"));
        }
        match (self.media_type.as_deref(), image) {
            (Some(OCI_MANIFEST), _) if self.manifests.is_none() => Ok(OCI_MANIFEST),
            (Some(DOCKER_MANIFEST), _) if self.manifests.is_none() => Ok(DOCKER_MANIFEST),
            (Some(OCI_INDEX), false) => Ok(OCI_INDEX),
            (Some(DOCKER_LIST), false) => Ok(DOCKER_LIST),
            (Some(OCI_MANIFEST | DOCKER_MANIFEST | OCI_INDEX | DOCKER_LIST), _) => {
                Err(invalid("mediaType does not fit the content"))
            }
            (Some(other), _) => Err(invalid(format!("media type {other} is not supported"))),
            (None, true) => Ok(OCI_MANIFEST),
            (None, false) if self.manifests.is_some() => Ok(OCI_INDEX),
            (None, false) => Err(invalid("neither an image manifest nor an index")),
        }
    }
}

impl Document {
    fn understand(self, media_type: &'static str) -> Result<Parsed> {
        let config_type = self.config.as_ref().map(|config| config.media_type().to_string());
        let named = self.config.iter().chain(self.manifests.iter().flatten());
        let cache = named.into_iter().any(|named| named.media_type().as_ref() == CACHE_CONFIG);
        let (mut blobs, mut sizes, mut children) = (Vec::new(), Vec::new(), Vec::new());
        let mut config_digest = None;
        if matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST) {
            let config = self.config.ok_or_else(|| invalid("config is missing"))?;
            blobs.push(digest_of(&config)?);
            config_digest = blobs.last().copied();
            sizes.push(config.size());
            for layer in self.layers.unwrap_or_default() {
                let digest = digest_of(&layer)?;
                if !is_foreign(&layer) {
                    blobs.push(digest);
                    sizes.push(layer.size());
                }
            }
        } else {
            // Builders push caches as indexes whose children are layers: what a child is, its media type says.
            for child in self.manifests.unwrap_or_default() {
                if is_manifest(child.media_type()) {
                    children.push(digest_of(&child)?);
                    continue;
                }
                blobs.push(digest_of(&child)?);
                sizes.push(child.size());
                if child.media_type().as_ref() == CACHE_CONFIG {
                    config_digest = blobs.last().copied();
                }
            }
        }
        Ok(Parsed {
            media_type,
            blobs,
            sizes,
            config: config_digest,
            children,
            cache,
            subject: self.subject.as_ref().map(digest_of).transpose()?,
            artifact_type: self.artifact_type.filter(|text| !text.is_empty()).or(config_type),
            annotations: self.annotations,
        })
    }
}

fn digest_of(descriptor: &Descriptor) -> Result<Digest> {
    descriptor.digest().as_ref().parse().map_err(|error| invalid(format!("{}: {error}", descriptor.digest())))
}

fn is_manifest(media_type: &MediaType) -> bool {
    [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST].contains(&media_type.as_ref())
}

/// Layers that registries are not expected to hold.
fn is_foreign(layer: &Descriptor) -> bool {
    let media_type = layer.media_type().as_ref();
    layer.urls().as_ref().is_some_and(|urls| !urls.is_empty())
        || media_type.contains(".nondistributable.")
        || media_type.contains(".foreign.")
}

/// What a stored manifest is.
pub(crate) fn media_type_of(manifest: &[u8]) -> Result<&'static str> {
    Shape::read(manifest)?.media_type()
}

impl Repo {
    /// Stores a manifest, with the tags that shall point to it. `digest` is what the client says it is, when it says.
    pub async fn put_manifest(
        &self,
        digest: Option<Digest>,
        tags: &[Tag],
        content_type: Option<&str>,
        bytes: Bytes,
    ) -> Result<Pushed> {
        // All of it has come, however slowly.
        crate::deadline::anew();
        let algorithm = digest.map_or(Algorithm::Sha256, |digest| digest.algorithm());
        let actual = crate::digest::hash(algorithm, bytes.clone()).await?;
        if let Some(claimed) = digest {
            crate::content::blobs::fits(&claimed, actual)?;
        }
        let parsed = Parsed::parse(&bytes, content_type)?;
        if self.is_scope() {
            // The reserve is the tenants'.
            self.expect_room().await?;
        }
        let _shared = self.store.references.read().await;
        let (parsed, bytes) = (&parsed, &bytes);
        let store = |pin: Arc<Snapshot>| async move { self.store_manifest(&pin, actual, tags, parsed, bytes).await };
        self.store.condemned.resting(store).await?;
        Ok(Pushed { digest: actual, subject: parsed.subject, cache: parsed.cache })
    }

    /// Content, then record, then pointer.
    async fn store_manifest(
        &self,
        pin: &Snapshot,
        digest: Digest,
        tags: &[Tag],
        parsed: &Parsed,
        bytes: &Bytes,
    ) -> Result<()> {
        self.require(pin, parsed).await?;
        let (key, size) = (self.manifest_key(&digest), bytes.len() as u64);
        let pointer = Pointer::new(digest, parsed.media_type, size);
        if !self.store.config.collect.ingredients.content_before_pointer() {
            self.point(pin, tags, &pointer, None).await?;
        }
        // What is known to be there is not written again: a build that exports the same twice is not to pay for it.
        let is_condemned = self.store.condemned.rely(pin, &key).await?;
        let is_known = self.store.presence.get(&key).is_some_and(|known| known.valid);
        if is_condemned || !is_known {
            self.noticing(self.store.put_content(&key, bytes.clone()).await)?;
        }
        if let Some(subject) = &parsed.subject {
            let referrer = crate::layout::referrer(self.tenant(), self.name(), subject, &digest);
            self.store.condemned.rely(pin, &referrer).await?;
            self.put_referrer(subject, &digest, size, parsed).await?;
        }
        if !self.store.hot.has(&Slot::Whole(key.clone())) {
            self.store.hot.keep_pushed(Slot::Whole(key), bytes);
        }
        let is_push = parsed.cache && !tags.is_empty() && self.has_views();
        let push = if is_push { Some(self.new_push(bytes).await?) } else { None };
        // Before the pointer: a view is made with it, and knows better.
        for tag in tags {
            let weight = Weight::of(parsed, size);
            self.store.stock.pushed(self.tenant(), self.name(), tag, &digest, parsed.cache && self.has_views(), weight);
        }
        self.point(pin, tags, &pointer, push.as_ref()).await
    }

    async fn point(&self, pin: &Snapshot, tags: &[Tag], pointer: &Pointer, push: Option<&Push>) -> Result<()> {
        for tag in tags {
            self.store.condemned.rely(pin, &self.tag_key(tag)).await?;
            match push {
                Some(push) => self.put_push(pin, tag, pointer.clone(), push).await?,
                None => self.put_plain(pin, tag, pointer.clone()).await?,
            }
        }
        Ok(())
    }

    /// Refuses a manifest that names what is not here.
    async fn require(&self, pin: &Snapshot, parsed: &Parsed) -> Result<()> {
        // A cache that names what is not here fails the builds that import it: no policy allows that.
        let sparse = self.store.config.rule(self.name()).is_some_and(|rule| rule.sparse);
        if sparse && !parsed.cache {
            return Ok(());
        }
        let children = parsed.children.iter().map(|digest| (*digest, self.manifest_keys(digest).collect()));
        let needed = parsed.blobs.iter().map(|digest| (*digest, self.blob_keys(digest).collect())).chain(children);
        // Many layers are named several times: the empty one, for example.
        let mut seen = HashSet::new();
        let needed = needed.filter(|(_, keys): &(_, Vec<Key>)| seen.insert(keys.first().cloned()));
        let look = |(digest, keys): (Digest, Vec<Key>)| {
            let store = self.store.clone();
            async move { Ok(store.found_in(pin, keys.into_iter()).await?.is_none().then_some(digest)) }
        };
        let missing: Vec<Digest> = stream::iter(needed.map(look).collect::<Vec<_>>())
            .buffered(FAN_OUT)
            .try_filter_map(|missing: Option<Digest>| async move { Ok::<_, Error>(missing) })
            .try_collect()
            .await?;
        if missing.is_empty() { Ok(()) } else { Err(Error::ManifestBlobUnknown(missing)) }
    }

    /// The manifest that a reference names.
    pub async fn manifest(&self, reference: &Reference) -> Result<Manifest> {
        let look = |pin: Arc<Snapshot>| async move { self.manifest_now(&pin, reference).await };
        let found = self.store.condemned.resting(look).await;
        let kind = match reference {
            Reference::Tag(_) => Asked::Tag,
            Reference::Digest(_) => Asked::Manifest,
        };
        match &found {
            Ok(_) => self.counted.asked(kind, true),
            Err(Error::ManifestUnknown(_)) => self.counted.asked(kind, false),
            Err(_) => {}
        }
        if let (Ok(_), Reference::Digest(digest)) = (&found, reference) {
            self.touch_digest(digest).await;
        }
        found
    }

    async fn manifest_now(&self, pin: &Arc<Snapshot>, reference: &Reference) -> Result<Manifest> {
        let unknown = || Error::ManifestUnknown(reference.to_string());
        match reference {
            Reference::Digest(digest) => {
                if self.store.is_deleted(&self.manifest_key(digest)).await? {
                    return Err(unknown());
                }
                self.store.found_in(pin, self.manifest_keys(digest)).await?.ok_or_else(unknown)?;
                let bytes = self.manifest_bytes(digest).await?.ok_or_else(unknown)?;
                let media_type = media_type_of(&bytes)?.to_string();
                if self.names_wrong(&bytes).await? {
                    return Err(unknown());
                }
                Ok(Manifest { digest: *digest, media_type, bytes })
            }
            Reference::Tag(tag) => {
                let served = self.served_now(pin, tag).await?.ok_or_else(unknown)?;
                let bytes = self.manifest_bytes(&served.digest).await?.ok_or_else(unknown)?;
                if self.names_wrong(&bytes).await? {
                    return Err(unknown());
                }
                Ok(Manifest { digest: served.digest, media_type: served.media_type, bytes })
            }
        }
    }

    pub(crate) async fn manifest_bytes(&self, digest: &Digest) -> Result<Option<Bytes>> {
        known(self.store.small_in(self.manifest_keys(digest), *digest).await)
    }
}

/// Content that may be missing.
pub(crate) fn known(read: Result<Bytes>) -> Result<Option<Bytes>> {
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::BlobUnknown(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(text: &str, content_type: Option<&str>) -> Result<Parsed> {
        Parsed::parse(text.replace("$D", D).as_bytes(), content_type)
    }

    #[test]
    fn the_media_type_is_what_the_manifest_is() {
        let image = r#"{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"$D","size":0},"layers":[]}"#;
        assert_eq!(parse(image, None).unwrap().media_type, OCI_MANIFEST);
        assert_eq!(parse(image, Some("application/json")).unwrap().media_type, OCI_MANIFEST);
        assert!(parse(image, Some(DOCKER_MANIFEST)).is_err());
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert_eq!(parse(index, Some(OCI_INDEX)).unwrap().media_type, OCI_INDEX);
        assert!(parse(index, Some(OCI_MANIFEST)).is_err());
    }

    #[test]
    fn what_could_be_two_things_is_refused() {
        for bad in [
            r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#,
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","layers":[]}"#,
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}"#,
            r#"{"schemaVersion":2}"#,
            r#"{"schemaVersion":3,"manifests":[]}"#,
            r#"{"schemaVersion":1,"fsLayers":[]}"#,
            r#"{"schemaVersion":2,"mediaType":"text/plain","manifests":[]}"#,
            r#"{"schemaVersion":2,"layers":[{"mediaType":"a/b","digest":"md5:00","size":1}]}"#,
            "[]",
            "",
        ] {
            assert!(matches!(parse(bad, None), Err(Error::ManifestInvalid(_))), "{bad}");
        }
    }

    #[test]
    fn children_of_an_index_are_manifests_or_blobs_by_their_media_type() {
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[
                {{"mediaType":"{OCI_MANIFEST}","digest":"$D","size":1}},
                {{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"$D","size":1}},
                {{"mediaType":"application/vnd.buildkit.cacheconfig.v0","digest":"$D","size":1}}]}}"#
        );
        let parsed = parse(&text, None).unwrap();
        assert_eq!((parsed.children.len(), parsed.blobs.len()), (1, 2));
    }

    #[test]
    fn foreign_layers_need_not_be_here() {
        let text = r#"{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"$D","size":0},"layers":[
            {"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip","digest":"$D","size":1},
            {"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"$D","size":1},
            {"mediaType":"a/b","digest":"$D","size":1,"urls":["https://example.com"]},
            {"mediaType":"a/b","digest":"$D","size":1}]}"#;
        assert_eq!(parse(text, None).unwrap().blobs.len(), 2);
    }
}
