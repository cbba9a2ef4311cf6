//! The cache of a tag as a graph: its records and its layers.

use std::collections::HashMap;

use serde::Serialize;

use super::memory::VIEW_BYTES;
use super::service::Caches;
use crate::buildkit::{CacheConfig, CacheManifest, SINK, Stack};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::names::Tag;
use crate::refs::Repo;

pub use crate::buildkit::{CreatedAt, IMPORT_LIMIT_BYTES};

/// Limits on the records of an outline, and on the layers summed over their results. A cache of a build has fewer; a
/// malicious one may have millions.
const RECORDS_MAX: usize = 4000;
const PLACED_MAX: usize = 100_000;

/// The records and layers of a cache. Links go to earlier records.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outline {
    /// Records, parents first.
    pub records: Vec<OutlinedRecord>,
    /// Layers, parents first. A blob on two parents is two layers.
    pub layers: Vec<OutlinedLayer>,
    /// Number of records beyond the limit.
    pub records_left_out: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutlinedRecord {
    pub digest: Box<str>,
    /// Indices of the records that lead to it.
    pub links: Vec<usize>,
    /// Number of inputs that it needs, each by one of its links.
    pub inputs: usize,
    pub results: Vec<OutlinedResult>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutlinedResult {
    pub created: CreatedAt,
    /// Indices of the layers, from the bottom.
    pub layers: Vec<usize>,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutlinedLayer {
    /// Digest of the blob; absent if the config's text is no digest that a manifest could have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blob: Option<Digest>,
    pub bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<usize>,
    /// Creation time of the newest result with this layer on top.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<CreatedAt>,
}

impl Caches {
    /// The cache that a tag serves; nothing if it serves no cache, or one that cannot be read.
    pub async fn outline(&self, repo: &Repo, tag: &Tag) -> Result<Option<Outline>> {
        let Some(served) = self.shown(repo, tag).await? else { return Err(Error::ManifestUnknown(tag.to_string())) };
        let Some(bytes) = repo.manifest_bytes(&served.digest).await? else { return Ok(None) };
        // Enough for every view.
        let _memory = self.memory_to_look(repo, VIEW_BYTES).await?;
        let Ok(manifest) = self.read_manifest(bytes).await? else { return Ok(None) };
        let Ok(push) = self.push_of(repo, manifest).await? else { return Ok(None) };
        if push.memory() > VIEW_BYTES {
            return Ok(None);
        }
        let push = push.parse().await?;
        let outline = move || push.config.as_ref().ok().map(|config| Outline::of(&push.manifest, config));
        Ok(tokio::task::spawn_blocking(outline).await?)
    }
}

impl Outline {
    fn of(manifest: &CacheManifest, config: &CacheConfig) -> Outline {
        let sizes: HashMap<Digest, u64> = manifest.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
        let mut outline = Outline::default();
        let mut placed = HashMap::new();
        let mut sum = 0;
        let mut numbers = vec![None; config.records.len()];
        for index in config.parents_first() {
            let record = &config.records[index];
            // Not a step of any build.
            if &*record.digest == SINK {
                continue;
            }
            if outline.records.len() >= RECORDS_MAX || sum > PLACED_MAX {
                outline.records_left_out += 1;
                continue;
            }
            let mut links: Vec<usize> =
                record.inputs.iter().flatten().filter_map(|link| numbers[link.record as usize]).collect();
            links.sort_unstable();
            links.dedup();
            let mut results = Vec::new();
            for result in &record.results {
                let layers = outline.place(config, &sizes, &mut placed, &result.stack);
                sum += layers.len();
                let bytes = layers.iter().map(|layer| outline.layers[*layer].bytes).sum();
                if let Some(top) = layers.last().map(|top| &mut outline.layers[*top]) {
                    top.created = top.created.max(Some(result.created_at));
                }
                results.push(OutlinedResult { created: result.created_at, layers, bytes });
            }
            numbers[index] = Some(outline.records.len());
            let (digest, inputs) = (record.digest.clone(), record.inputs.len());
            outline.records.push(OutlinedRecord { digest, links, inputs, results });
        }
        outline
    }

    /// The layers of a result, from the bottom.
    fn place(
        &mut self,
        config: &CacheConfig,
        sizes: &HashMap<Digest, u64>,
        placed: &mut HashMap<(u32, Option<usize>), usize>,
        stack: &Stack,
    ) -> Vec<usize> {
        let chain = match stack {
            Stack::Listed(layers) => layers.clone(),
            Stack::Top(top) => {
                // Parents do not loop: the config was checked.
                let mut chain: Vec<u32> =
                    std::iter::successors(Some(*top), |at| config.layers[*at as usize].parent).collect();
                chain.reverse();
                chain
            }
        };
        let mut parent = None;
        for layer in &chain {
            let next = self.layers.len();
            let number = *placed.entry((*layer, parent)).or_insert(next);
            if number == next {
                let blob = config.layers[*layer as usize].blob;
                let bytes = blob.and_then(|blob| sizes.get(&blob)).copied().unwrap_or(0);
                self.layers.push(OutlinedLayer { blob, bytes, parent, created: None });
            }
            parent = Some(number);
        }
        let mut layers: Vec<usize> = std::iter::successors(parent, |at| self.layers[*at].parent).collect();
        layers.reverse();
        layers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_layers_come_after_what_they_rest_on() {
        let [a, b] = [b"a", b"b"].map(|bytes| Digest::sha256(bytes));
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
                "config":{{"mediaType":"application/vnd.buildkit.cacheconfig.v0","digest":"{a}","size":2}},
                "layers":[{{"mediaType":"x","digest":"{a}","size":10}},{{"mediaType":"x","digest":"{b}","size":5}}]}}"#
        );
        let config = format!(
            r#"{{"layers":[{{"blob":"{a}","parent":-1}},{{"blob":"{b}","parent":0}}],
                "records":[
                  {{"digest":"sha256:top","layers":[{{"layer":1,"createdAt":"2026-01-02T00:00:00Z"}}],"inputs":[[{{"link":1}}]]}},
                  {{"digest":"sha256:root","layers":[{{"layer":0,"createdAt":"2026-01-01T00:00:00Z"}}]}},
                  {{"digest":"{SINK}","inputs":[[{{"link":0}}]]}}]}}"#
        );
        let manifest = CacheManifest::detect(manifest.as_bytes()).unwrap().unwrap();
        let outline = Outline::of(&manifest, &CacheConfig::parse(config.as_bytes()).unwrap());
        let records: Vec<_> =
            outline.records.iter().map(|r| (&*r.digest, r.links.clone(), r.results[0].bytes)).collect();
        assert_eq!(records, [("sha256:root", vec![], 10), ("sha256:top", vec![0], 15)]);
        let layers: Vec<_> = outline.layers.iter().map(|layer| (layer.bytes, layer.parent)).collect();
        assert_eq!(layers, [(10, None), (5, Some(0))]);
    }
}
