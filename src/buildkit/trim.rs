//! Trims a union to the size that BuildKit imports.
//!
//! Parts are dropped in this order. First whole pushes, the oldest first, never the newest. If the newest alone is too
//! large: leaves without a result, which no build can use; then the oldest results of other records than the newest
//! push's leaves, whose records stay as keys on the path to others, until nothing needs them. If the keys alone are too
//! large: all but a beginning of the union, whose order keeps together the records that lead to a leaf.
//!
//! A trimmed union is never wrong: a missing record is only a step that is not cached.

use super::graph::{Graph, NO_SELECTOR, Symbol};
use super::json::encoded_len;
use super::layers::Layers;
use super::manifest::Descriptor;
use super::split::UnionLink;
use super::union::{RecordId, Union, UnionRecord};
use crate::digest::Digest;

/// Bounds on what is written: bytes of the cacheconfig and the manifest, and layers in the manifest.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub config_bytes: usize,
    pub manifest_bytes: usize,
    pub layers: usize,
}

/// The parts of a union that stay. Links of a kept record to records that were dropped are left out.
pub struct Kept {
    pub records: Vec<bool>,
    /// For each kept record, whether it keeps its result.
    pub results: Vec<bool>,
    /// The oldest push that was kept: records that only older ones vouch for are dropped.
    pub first_push: u32,
}

pub fn trim(graph: &Graph, layers: &Layers, union: &Union, limits: &Limits) -> Kept {
    let lengths = Lengths::of(graph, layers, union);
    let from = |first_push: u32| {
        let mut tally = Tally::new(&lengths, layers, union);
        let records = (0..).zip(&union.records).filter(|(_, record)| record.push >= first_push);
        records.for_each(|(id, _)| tally.add(id));
        tally
    };
    let keep = |tally: Tally, first_push| Kept { records: tally.records, results: tally.results, first_push };

    let all = from(0);
    if all.fits(limits) {
        return keep(all, 0);
    }
    let newest = union.records.iter().map(|record| record.push).max().unwrap_or_default();
    // Searches for the fewest pushes to drop: `low` are too few, `high` are enough or all that may be dropped.
    let (mut low, mut high) = (0, newest.max(1));
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if from(middle).fits(limits) { high = middle } else { low = middle }
    }
    let first_push = high.min(newest);

    let mut tally = from(first_push);
    if !tally.fits(limits) {
        tally.drop_oldest_results(limits);
    }
    if !tally.fits(limits) {
        tally = Tally::new(&lengths, layers, union);
        tally.add_while_fitting(first_push, limits);
    }
    keep(tally, first_push)
}

/// `{"layers":[…],"records":[…]}`, and the sink around its links.
const CONFIG_FRAME_BYTES: usize = 26 + 110;
/// All of a manifest except its layers.
const MANIFEST_FRAME_BYTES: usize = 320;
/// The longest RFC 3339 time, quoted: nanoseconds, UTC.
const CREATED_AT_BYTES: usize = 32;

/// Sizes in bytes of the parts of a config and a manifest: exact except for the width of indices, which is that of the
/// largest in the whole union.
struct Lengths {
    /// Size of each text in [`Graph::texts`], quoted.
    texts: Vec<usize>,
    /// Size of each blob's digest in a config, and of its descriptor in a manifest.
    digests: Vec<usize>,
    descriptors: Vec<usize>,
    index: usize,
}

impl Lengths {
    fn of(graph: &Graph, layers: &Layers, union: &Union) -> Lengths {
        let descriptors = || layers.blobs.iter().map(|blob| &*blob.descriptor);
        Lengths {
            texts: graph.texts.iter().map(|text| encoded_len(text)).collect(),
            digests: descriptors().map(|descriptor| digest_bytes(&descriptor.digest)).collect(),
            descriptors: descriptors().map(descriptor_bytes).collect(),
            index: union.records.len().max(layers.chains.len()).to_string().len(),
        }
    }

    /// `{"selector":"…","link":1},`
    fn link(&self, selector: Symbol) -> usize {
        let selector = if selector == NO_SELECTOR { 0 } else { 12 + self.texts[selector as usize] };
        selector + 10 + self.index
    }

    /// `{"digest":"…","inputs":[[…],[…]]},` with these links, without results.
    fn record<'u>(&self, record: &UnionRecord, links: impl Iterator<Item = &'u UnionLink>) -> usize {
        let links = links.map(|&(selector, _)| self.link(selector));
        24 + self.texts[record.digest as usize] + 3 * record.links.len() + links.sum::<usize>()
    }

    /// `"layers":[{"layer":1,"createdAt":"…"}],`
    fn result(&self) -> usize {
        35 + self.index + CREATED_AT_BYTES
    }

    /// `{"blob":"…","parent":1},`
    fn layer(&self, blob: u32) -> usize {
        21 + self.digests[blob as usize] + self.index.max(2)
    }
}

fn digest_bytes(digest: &Digest) -> usize {
    "\"sha256:\"".len() + digest.bytes().len() * 2
}

/// `{"mediaType":"…","digest":"…","size":1,"urls":["…"],"annotations":{"…":"…"}},`
fn descriptor_bytes(descriptor: &Descriptor) -> usize {
    let urls = descriptor.urls.iter().map(|url| encoded_len(url) + 1).sum::<usize>();
    let annotations = descriptor.annotations.iter();
    let annotations = annotations.map(|(key, value)| encoded_len(key) + encoded_len(value) + 2).sum::<usize>();
    83 + encoded_len(&descriptor.media_type) + digest_bytes(&descriptor.digest) + urls + annotations
}

/// A selection of records and results, and its size when written.
struct Tally<'a> {
    lengths: &'a Lengths,
    layers: &'a Layers<'a>,
    union: &'a Union,
    records: Vec<bool>,
    results: Vec<bool>,
    /// For each record the number of links from kept records to it.
    children: Vec<u32>,
    leaves: usize,
    /// For each chain the number of kept results and of needed chains directly above that need it.
    chain_uses: Vec<u32>,
    blob_uses: Vec<u32>,
    config_bytes: usize,
    manifest_bytes: usize,
    blobs: usize,
}

impl<'a> Tally<'a> {
    fn new(lengths: &'a Lengths, layers: &'a Layers<'a>, union: &'a Union) -> Self {
        let records = union.records.len();
        Tally {
            lengths,
            layers,
            union,
            records: vec![false; records],
            results: vec![false; records],
            children: vec![0; records],
            leaves: 0,
            chain_uses: vec![0; layers.chains.len()],
            blob_uses: vec![0; layers.blobs.len()],
            config_bytes: CONFIG_FRAME_BYTES,
            manifest_bytes: MANIFEST_FRAME_BYTES,
            blobs: 0,
        }
    }

    fn fits(&self, limits: &Limits) -> bool {
        let sink_bytes = self.leaves * self.lengths.link(NO_SELECTOR);
        self.config_bytes + sink_bytes <= limits.config_bytes
            && self.manifest_bytes <= limits.manifest_bytes
            && self.blobs <= limits.layers
    }

    /// The links of a record to kept records.
    fn kept_links(&self, record: &'a UnionRecord) -> impl Iterator<Item = &'a UnionLink> {
        record.links.iter().flatten().filter(|&&(_, parent)| self.records[parent as usize])
    }

    fn record_bytes(&self, record: &'a UnionRecord) -> usize {
        self.lengths.record(record, self.kept_links(record))
    }

    /// Adds a record whose kept parents have been added, and its result.
    fn add(&mut self, id: RecordId) {
        let record = &self.union.records[id as usize];
        self.config_bytes += self.record_bytes(record);
        for &(_, parent) in record.links.iter().flatten() {
            if !self.records[parent as usize] {
                continue;
            }
            self.leaves -= usize::from(self.children[parent as usize] == 0);
            self.children[parent as usize] += 1;
        }
        self.records[id as usize] = true;
        self.leaves += 1;

        let Some(result) = record.result else { return };
        self.results[id as usize] = true;
        self.config_bytes += self.lengths.result();
        let mut needed = Some(result.chain);
        while let Some(chain) = needed {
            let uses = &mut self.chain_uses[chain as usize];
            *uses += 1;
            if *uses > 1 {
                break;
            }
            let below = &self.layers.chains[chain as usize];
            self.config_bytes += self.lengths.layer(below.blob);
            if self.blob_uses[below.blob as usize] == 0 {
                self.manifest_bytes += self.lengths.descriptors[below.blob as usize];
                self.blobs += 1;
            }
            self.blob_uses[below.blob as usize] += 1;
            needed = below.parent;
        }
    }

    fn drop_result(&mut self, id: RecordId) {
        let Some(result) = self.union.records[id as usize].result else { return };
        if !std::mem::replace(&mut self.results[id as usize], false) {
            return;
        }
        self.config_bytes -= self.lengths.result();
        let mut needless = Some(result.chain);
        while let Some(chain) = needless {
            self.chain_uses[chain as usize] -= 1;
            if self.chain_uses[chain as usize] > 0 {
                break;
            }
            let below = &self.layers.chains[chain as usize];
            self.config_bytes -= self.lengths.layer(below.blob);
            self.blob_uses[below.blob as usize] -= 1;
            if self.blob_uses[below.blob as usize] == 0 {
                self.manifest_bytes -= self.lengths.descriptors[below.blob as usize];
                self.blobs -= 1;
            }
            needless = below.parent;
        }
    }

    /// Drops a record if it is a leaf without a result, and then those records that this makes such leaves.
    fn drop_if_useless(&mut self, id: RecordId) {
        let mut suspects = vec![id];
        while let Some(id) = suspects.pop() {
            if !self.records[id as usize] || self.results[id as usize] || self.children[id as usize] > 0 {
                continue;
            }
            let record = &self.union.records[id as usize];
            self.records[id as usize] = false;
            self.config_bytes -= self.record_bytes(record);
            self.leaves -= 1;
            for &(_, parent) in record.links.iter().flatten() {
                if !self.records[parent as usize] {
                    continue;
                }
                self.children[parent as usize] -= 1;
                if self.children[parent as usize] == 0 {
                    self.leaves += 1;
                    suspects.push(parent);
                }
            }
        }
    }

    fn drop_useless(&mut self) {
        (0..self.records.len() as RecordId).for_each(|id| self.drop_if_useless(id));
    }

    fn drop_oldest_results(&mut self, limits: &Limits) {
        self.drop_useless();
        let spare = |&id: &RecordId| self.results[id as usize] && self.children[id as usize] > 0;
        let mut results: Vec<RecordId> = (0..self.records.len() as RecordId).filter(spare).collect();
        let created_at = |id: RecordId| self.union.records[id as usize].result.map(|result| result.created_at);
        results.sort_by_key(|&id| (created_at(id), id));
        for id in results {
            if self.fits(limits) {
                return;
            }
            self.drop_result(id);
            self.drop_if_useless(id);
        }
    }

    fn add_while_fitting(&mut self, first_push: u32, limits: &Limits) {
        for (id, record) in (0..).zip(&self.union.records) {
            if record.push < first_push {
                continue;
            }
            self.add(id);
            if !self.fits(limits) {
                self.drop_result(id);
                self.drop_if_useless(id);
                break;
            }
        }
        self.drop_useless();
    }
}
