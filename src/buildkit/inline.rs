//! The inline form, in which builders keep a cache by `type=gha` and `type=s3`: one cacheconfig whose layers carry the
//! data of a manifest's descriptors (moby/buildkit, `cache/remotecache/v1/types`, `LayerAnnotations`).

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::{CONFIG_BYTES_MAX, CacheConfig, CreatedAt};
use super::error::FormatError;
use super::manifest::{CacheManifest, Descriptor};
use super::view::Merged;
use super::write::manifest_of;
use crate::digest::Digest;

/// Annotation of a layer: the digest before compression, without which BuildKit does not load a result.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// Annotation of a layer: its creation time.
const CREATED_AT: &str = "buildkit/createdat";

/// The annotations of an inline cache's layer.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct InlineAnnotations {
    media_type: String,
    #[serde(rename = "diffID")]
    diff_id: String,
    /// Size in bytes.
    #[serde(default)]
    size: u64,
    #[serde(default)]
    created_at: CreatedAt,
}

fn json(error: serde_json::Error) -> FormatError {
    FormatError::Json { what: "cacheconfig", error: error.to_string() }
}

/// The layers of a cacheconfig, mutable.
fn layers_of(config: &mut Value) -> impl Iterator<Item = &mut serde_json::Map<String, Value>> {
    let layers = config.get_mut("layers").and_then(Value::as_array_mut);
    layers.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Splits an inline cache into the manifest and the config of the OCI form.
///
/// # Errors
///
/// When it is no cacheconfig, or a layer lacks data that a descriptor needs.
pub fn from_inline(inline: &[u8]) -> Result<Merged, FormatError> {
    if inline.len() > CONFIG_BYTES_MAX {
        return Err(FormatError::TooLarge { what: "cacheconfig", bytes: inline.len(), max: CONFIG_BYTES_MAX });
    }
    let mut config: Value = serde_json::from_slice(inline).map_err(json)?;
    let mut descriptors = BTreeMap::<Digest, Descriptor>::new();
    for layer in layers_of(&mut config) {
        let annotations = layer.remove("annotations").unwrap_or_default();
        let Some(digest) = layer.get("blob").and_then(Value::as_str).and_then(|blob| blob.parse::<Digest>().ok())
        else {
            continue;
        };
        let said: InlineAnnotations = serde_json::from_value(annotations).map_err(json)?;
        let mut annotations = BTreeMap::from([(UNCOMPRESSED.to_string(), said.diff_id)]);
        if said.created_at != CreatedAt::default() {
            annotations.insert(CREATED_AT.to_string(), said.created_at.timestamp().to_string());
        }
        let (media_type, size) = (said.media_type, said.size);
        descriptors.insert(digest, Descriptor { media_type, digest, size, urls: Vec::new(), annotations });
    }
    let config = Bytes::from(serde_json::to_vec(&config).map_err(json)?);
    CacheConfig::parse(&config)?;
    let config_digest = Digest::sha256(&config);
    let manifest = manifest_of((config_digest, config.len() as u64), descriptors.values().collect());
    Ok(Merged { manifest, config, config_digest })
}

/// Joins a manifest and its config into an inline cache.
///
/// # Errors
///
/// When the config is no cacheconfig.
pub fn to_inline(manifest: &CacheManifest, config: &[u8]) -> Result<Bytes, FormatError> {
    let mut config: Value = serde_json::from_slice(config).map_err(json)?;
    let described: HashMap<Digest, &Descriptor> = manifest.layers.iter().map(|layer| (layer.digest, layer)).collect();
    for layer in layers_of(&mut config) {
        let digest = layer.get("blob").and_then(Value::as_str).and_then(|blob| blob.parse::<Digest>().ok());
        let Some(descriptor) = digest.and_then(|digest| described.get(&digest)) else { continue };
        let created_at = descriptor.annotations.get(CREATED_AT).and_then(|text| {
            // Parsed as in a cacheconfig.
            serde_json::from_value(Value::String(text.clone())).ok()
        });
        let said = InlineAnnotations {
            media_type: descriptor.media_type.clone(),
            diff_id: descriptor.annotations.get(UNCOMPRESSED).cloned().unwrap_or_default(),
            size: descriptor.size,
            created_at: created_at.unwrap_or_default(),
        };
        layer.insert("annotations".to_string(), serde_json::to_value(said).map_err(json)?);
    }
    Ok(serde_json::to_vec(&config).map_err(json)?.into())
}

#[cfg(test)]
mod tests {
    use super::super::Push;
    use super::*;

    /// As BuildKit's exporter for GitHub's cache writes it.
    fn inline() -> String {
        let (a, b) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        let layer = |blob: &Digest, parent: i64, size: u64| {
            format!(
                r#"{{"blob":"{blob}","parent":{parent},"annotations":{{
                    "mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","diffID":"{blob}","size":{size},
                    "createdAt":"2026-01-02T03:04:05.123456789Z"}}}}"#
            )
        };
        format!(
            r#"{{"layers":[{},{},{}],"records":[{{"digest":"sha256:1","layers":[{{"layer":1,
                "createdAt":"2026-01-02T03:04:05Z"}}]}}]}}"#,
            layer(&a, -1, 10),
            layer(&b, 0, 20),
            layer(&b, -1, 20),
        )
    }

    #[test]
    fn an_inline_cache_is_a_manifest_and_a_config_and_comes_together_again() {
        let parted = from_inline(inline().as_bytes()).unwrap();
        let manifest = CacheManifest::detect(&parted.manifest).unwrap().unwrap();
        assert_eq!(
            manifest.layers.iter().map(|layer| layer.size).collect::<std::collections::BTreeSet<_>>(),
            [10, 20].into()
        );
        let push = Push::new(manifest.clone(), &parted.config);
        assert_eq!(push.config.unwrap().layers.len(), 3);
        let again = to_inline(&manifest, &parted.config).unwrap();
        let (again, before): (Value, Value) =
            (serde_json::from_slice(&again).unwrap(), serde_json::from_str(&inline()).unwrap());
        assert_eq!(again, before);
    }

    #[test]
    fn what_is_no_inline_cache_is_refused() {
        let unsaid = r#"{"layers":[{"blob":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","parent":-1}]}"#;
        for bad in ["", "[]x", "{\"records\":[{\"digest\":\"x\",\"layers\":[{\"layer\":7}]}]}", unsaid] {
            assert!(from_inline(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(from_inline(b"{}").is_ok());
    }
}
