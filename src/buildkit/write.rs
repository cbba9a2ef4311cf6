//! Writes a union as a cacheconfig and a manifest in a canonical form: equal unions have equal bytes.
//!
//! Indices do not depend on the order of the pushes: layers are ordered by blob and then by the layers below them,
//! records by digest, number of inputs and then by all records that lead to them. Objects are written as BuildKit's
//! exporter writes them.

use std::collections::HashSet;

use bytes::Bytes;
use serde::Serialize;

use super::config::CreatedAt;
use super::graph::Graph;
use super::layers::{ChainId, Layers};
use super::manifest::Descriptor;
use super::trim::Kept;
use super::union::Union;
use super::{CONFIG_MEDIA_TYPE, SINK};
use crate::digest::{Algorithm, Digest, Hasher};

pub struct WrittenConfig {
    pub manifest: Bytes,
    pub config: Bytes,
    pub config_digest: Digest,
    pub records: usize,
    pub results: usize,
    pub layers: usize,
    pub leaves: usize,
}

#[derive(Serialize)]
struct SerializedConfig<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<SerializedLayer>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    records: Vec<SerializedRecord<'a>>,
}

#[derive(Serialize)]
struct SerializedLayer {
    blob: Digest,
    #[serde(skip_serializing_if = "is_first")]
    parent: i64,
}

#[derive(Serialize)]
struct SerializedRecord<'a> {
    #[serde(rename = "layers", skip_serializing_if = "Vec::is_empty")]
    results: Vec<SerializedResult>,
    digest: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<Vec<SerializedLink<'a>>>,
}

#[derive(Serialize)]
struct SerializedResult {
    layer: usize,
    #[serde(rename = "createdAt")]
    created_at: CreatedAt,
}

#[derive(Serialize)]
struct SerializedLink<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    selector: &'a str,
    link: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SerializedManifest<'a> {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<&'a Descriptor>,
}

fn is_first(parent: &i64) -> bool {
    *parent == 0
}

/// The manifest of a config and its layers, in the OCI image form.
pub(super) fn manifest_of((digest, size): (Digest, u64), layers: Vec<&Descriptor>) -> Bytes {
    let (media_type, urls, annotations) = (CONFIG_MEDIA_TYPE.to_owned(), Vec::new(), Default::default());
    json(&SerializedManifest {
        schema_version: 2,
        media_type: "application/vnd.oci.image.manifest.v1+json",
        config: Descriptor { media_type, digest, size, urls, annotations },
        layers,
    })
}

pub fn write(graph: &Graph, layers: &Layers, union: &Union, kept: &Kept) -> WrittenConfig {
    let chains = order_chains(layers, union, kept);
    let chain_index = inverse(&chains, layers.chains.len());
    let records = order_records(graph, union, kept);
    let record_index = inverse(&records, union.records.len());

    let layer = |&chain: &u32| {
        let chain = &layers.chains[chain as usize];
        let parent = chain.parent.map_or(-1, |parent| chain_index[parent as usize] as i64);
        SerializedLayer { blob: layers.blobs[chain.blob as usize].descriptor.digest, parent }
    };
    let mut is_leaf = vec![true; records.len()];
    let mut record = |&id: &u32| {
        let record = &union.records[id as usize];
        let result = record.result.filter(|_| kept.results[id as usize]);
        let result = result.map(|result| SerializedResult {
            layer: chain_index[result.chain as usize],
            created_at: result.created_at,
        });
        let mut inputs = Vec::with_capacity(record.links.len());
        for links in &record.links {
            let kept = links.iter().filter(|&&(_, parent)| kept.records[parent as usize]);
            let link = |&(selector, parent): &(u32, u32)| {
                let link = record_index[parent as usize];
                is_leaf[link] = false;
                SerializedLink { selector: graph.texts[selector as usize], link }
            };
            let mut links: Vec<_> = kept.map(link).collect();
            links.sort_unstable_by_key(|link| (link.link, link.selector));
            inputs.push(links);
        }
        SerializedRecord { results: result.into_iter().collect(), digest: graph.texts[record.digest as usize], inputs }
    };
    let mut config = SerializedConfig {
        layers: chains.iter().map(layer).collect(),
        records: records.iter().map(&mut record).collect(),
    };
    let results = config.records.iter().map(|record| record.results.len()).sum();
    let leaves: Vec<usize> = (0..records.len()).filter(|&index| is_leaf[index]).collect();
    if leaves.len() > 1 {
        let links = leaves.iter().map(|&link| SerializedLink { selector: "", link }).collect();
        config.records.push(SerializedRecord { results: Vec::new(), digest: SINK, inputs: vec![links] });
    }

    let config = json(&config);
    let config_digest = Digest::sha256(&config);
    let mut named = HashSet::new();
    let blobs = chains.iter().map(|&chain| layers.chains[chain as usize].blob).filter(|&blob| named.insert(blob));
    let descriptors: Vec<&Descriptor> = blobs.map(|blob| &*layers.blobs[blob as usize].descriptor).collect();
    WrittenConfig {
        layers: descriptors.len(),
        manifest: manifest_of((config_digest, config.len() as u64), descriptors),
        config,
        config_digest,
        records: records.len(),
        results,
        leaves: leaves.len(),
    }
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("structs of texts and numbers have a JSON form").into()
}

/// The position of each id in `order`; ids that are not in it get 0 and are not asked for.
fn inverse(order: &[u32], len: usize) -> Vec<usize> {
    let mut index = vec![0; len];
    order.iter().enumerate().for_each(|(at, &id)| index[id as usize] = at);
    index
}

/// The chains that kept results need, in canonical order.
fn order_chains(layers: &Layers, union: &Union, kept: &Kept) -> Vec<ChainId> {
    let mut needed = vec![false; layers.chains.len()];
    let results = union.records.iter().zip(&kept.results).filter(|(_, kept)| **kept);
    for result in results.filter_map(|(record, _)| record.result) {
        let mut at = Some(result.chain);
        while let Some(chain) = at.filter(|&chain| !std::mem::replace(&mut needed[chain as usize], true)) {
            at = layers.chains[chain as usize].parent;
        }
    }
    let digest = |chain: ChainId| layers.blobs[layers.chains[chain as usize].blob as usize].descriptor.digest;
    let mut identity: Vec<Option<Digest>> = vec![None; layers.chains.len()];
    let mut order: Vec<ChainId> = (0..layers.chains.len() as ChainId).filter(|&chain| needed[chain as usize]).collect();
    for &chain in &order {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        if let Some(parent) = layers.chains[chain as usize].parent.and_then(|parent| identity[parent as usize]) {
            hasher.update(parent.bytes());
        }
        hasher.update(digest(chain).bytes());
        identity[chain as usize] = Some(hasher.finish());
    }
    order.sort_unstable_by_key(|&chain| (digest(chain), identity[chain as usize]));
    order
}

/// The kept records in canonical order. The identity of a record is a hash of all that leads to it, which exists
/// because the union has no loops.
fn order_records(graph: &Graph, union: &Union, kept: &Kept) -> Vec<u32> {
    let mut identity: Vec<Option<Digest>> = vec![None; union.records.len()];
    for (id, record) in union.records.iter().enumerate().filter(|&(id, _)| kept.records[id]) {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(graph.texts[record.digest as usize].as_bytes());
        for links in &record.links {
            hasher.update(b"\0\0");
            let link =
                |&(selector, parent): &(u32, u32)| Some((graph.texts[selector as usize], identity[parent as usize]?));
            let mut links: Vec<_> = links.iter().filter_map(link).collect();
            links.sort_unstable();
            for (selector, parent) in links {
                hasher.update(selector.as_bytes());
                hasher.update(b"\0");
                hasher.update(parent.bytes());
            }
        }
        identity[id] = Some(hasher.finish());
    }
    let mut order: Vec<u32> = (0..union.records.len() as u32).filter(|&id| kept.records[id as usize]).collect();
    let key = |id: u32| {
        let record = &union.records[id as usize];
        (graph.texts[record.digest as usize], record.links.len(), identity[id as usize])
    };
    order.sort_by_key(|&id| key(id));
    order
}
