//! The cacheconfig, version 0: which build steps a push knows, how they are reached, and which layers they produced.
//!
//! Invariant: a parsed [`CacheConfig`] is one that BuildKit's importer would not refuse: every index is in range, no
//! input is empty, neither records nor layers loop. What the importer tolerates is tolerated here (`parse.go`).

use std::collections::HashMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use super::error::FormatError;
use super::json::go_object;
use crate::digest::Digest;

/// The largest cacheconfig that is read, in bytes: far above what BuildKit imports, since a view may trim it.
pub const CONFIG_BYTES_MAX: usize = 32 << 20;
/// The most objects and lists in a cacheconfig. It bounds the memory of a parsed one to about ten times the input of an
/// honest exporter, who writes some ten of them in each record of 200 to 300 bytes.
const CONFIG_NODES_MAX: usize = 2 << 20;

/// A parsed cacheconfig.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheConfig {
    pub layers: Vec<Layer>,
    pub records: Vec<Record>,
    /// Indices of all records, each after the records that it links to.
    order: Vec<u32>,
}

/// A layer on top of its parent. The same blob on another parent is another layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// `None` when the text is no digest that this registry can store, so that no manifest can name it.
    pub blob: Option<Digest>,
    /// `None` at the bottom, and in a layer that only [`Stack::Listed`] results use: those ignore parents.
    pub parent: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The key: a digest in all that BuildKit writes, compared as text.
    pub digest: Box<str>,
    /// For each input the links that lead to it: one is enough, none is invalid.
    pub inputs: Vec<Vec<Link>>,
    pub results: Vec<StoredResult>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// The part of the linked record's result that is meant, or empty.
    pub selector: Box<str>,
    pub record: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StoredResult {
    pub stack: Stack,
    pub created_at: CreatedAt,
}

/// The layers of a result.
#[derive(Clone, Debug, PartialEq)]
pub enum Stack {
    /// The index of the topmost layer; the others are its parents.
    Top(u32),
    /// The indices of all layers, from the bottom (`chains`, as inline caches have them).
    Listed(Vec<u32>),
}

/// When a result was made: an instant that Go can read back, years 0 to 9999. The default is Go's zero time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct CreatedAt(Timestamp);

impl CreatedAt {
    const YEAR_ZERO: Timestamp = Timestamp::constant(-62_167_219_200, 0);
    const GO_ZERO: Timestamp = Timestamp::constant(-62_135_596_800, 0);

    pub fn timestamp(self) -> Timestamp {
        self.0
    }
}

impl Default for CreatedAt {
    fn default() -> Self {
        CreatedAt(CreatedAt::GO_ZERO)
    }
}

impl<'de> Deserialize<'de> for CreatedAt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let instant = Timestamp::deserialize(deserializer)?;
        if instant < CreatedAt::YEAR_ZERO {
            return Err(serde::de::Error::custom("createdAt is before the year 0"));
        }
        Ok(CreatedAt(instant))
    }
}

go_object! {
    struct RawConfig {
        "layers" => layers: Vec<RawLayer>,
        "records" => records: Vec<RawRecord>,
    }
}

go_object! {
    struct RawLayer {
        "blob" => blob: String,
        "parent" => parent: i64,
    }
}

go_object! {
    struct RawRecord {
        "layers" => results: Vec<RawResult>,
        "chains" => chains: Vec<RawChain>,
        "digest" => digest: Box<str>,
        "inputs" => inputs: Vec<Option<Vec<RawLink>>>,
    }
}

go_object! {
    struct RawResult {
        "layer" => layer: i64,
        "createdAt" => created_at: CreatedAt,
    }
}

go_object! {
    struct RawChain {
        "layers" => layers: Vec<i64>,
        "createdAt" => created_at: CreatedAt,
    }
}

go_object! {
    struct RawLink {
        "selector" => selector: Box<str>,
        "link" => link: i64,
    }
}

impl CacheConfig {
    /// Reads and checks a cacheconfig. Memory and time are linear in the input, and both are bounded.
    pub fn parse(bytes: &[u8]) -> Result<CacheConfig, FormatError> {
        if bytes.len() > CONFIG_BYTES_MAX {
            return Err(FormatError::TooLarge { what: "cacheconfig", bytes: bytes.len(), max: CONFIG_BYTES_MAX });
        }
        // Counted before anything is allocated: `{}` takes two bytes here and a hundred once it is parsed.
        if bytes.iter().filter(|byte| matches!(byte, b'{' | b'[')).count() > CONFIG_NODES_MAX {
            return Err(FormatError::TooMany { what: "objects and lists in a cacheconfig", max: CONFIG_NODES_MAX });
        }
        let raw: RawConfig = serde_json::from_slice(bytes)
            .map_err(|error| FormatError::Json { what: "cacheconfig", error: error.to_string() })?;

        let records_len = raw.records.len();
        let layers_len = raw.layers.len();
        let record = |(index, raw): (usize, RawRecord)| Record::check(index, raw, records_len, layers_len);
        let records = raw.records.into_iter().enumerate().map(record).collect::<Result<Vec<_>, _>>()?;
        let layers = check_layers(&raw.layers, &records)?;
        let order = parents_first(&records)?;
        Ok(CacheConfig { layers, records, order })
    }

    /// The indices of all records, each after the records that it links to.
    pub fn parents_first(&self) -> impl Iterator<Item = usize> + '_ {
        self.order.iter().map(|&index| index as usize)
    }

    /// How many layers are below each blob that a result rests on. Of a blob in several places, the lowest counts: what
    /// stands on it there needs it as well. Time and memory are linear in the config.
    pub fn depths(&self) -> HashMap<Digest, u32> {
        let mut depths = vec![None; self.layers.len()];
        let mut unplaced = Vec::new();
        for result in self.records.iter().flat_map(|record| &record.results) {
            match &result.stack {
                Stack::Top(top) => {
                    let mut at = Some(*top);
                    let mut depth = 0;
                    while let Some(layer) = at {
                        if let Some(known) = depths[layer as usize] {
                            depth = known + 1;
                            break;
                        }
                        unplaced.push(layer);
                        at = self.layers[layer as usize].parent;
                    }
                    for layer in unplaced.drain(..).rev() {
                        depths[layer as usize] = Some(depth);
                        depth += 1;
                    }
                }
                Stack::Listed(listed) => {
                    for (depth, layer) in listed.iter().enumerate() {
                        let place = &mut depths[*layer as usize];
                        *place = Some(place.map_or(depth as u32, |known| known.min(depth as u32)));
                    }
                }
            }
        }
        let mut lowest = HashMap::new();
        for (layer, depth) in self.layers.iter().zip(depths) {
            if let (Some(blob), Some(depth)) = (layer.blob, depth) {
                let known = lowest.entry(blob).or_insert(depth);
                *known = depth.min(*known);
            }
        }
        lowest
    }

    /// For each record, whether it is a leaf: no record links to it.
    pub fn leaves(&self) -> Vec<bool> {
        let mut leaf = vec![true; self.records.len()];
        for link in self.records.iter().flat_map(|record| record.inputs.iter().flatten()) {
            leaf[link.record as usize] = false;
        }
        leaf
    }
}

impl Record {
    fn check(index: usize, raw: RawRecord, records: usize, layers: usize) -> Result<Record, FormatError> {
        let mut inputs = Vec::with_capacity(raw.inputs.len());
        for (input, links) in raw.inputs.into_iter().enumerate() {
            let links = links.unwrap_or_default();
            if links.is_empty() {
                return Err(FormatError::EmptyInput { record: index, input });
            }
            let link = |RawLink { selector, link }| match in_range(link, records) {
                Some(record) => Ok(Link { selector, record }),
                None => Err(FormatError::NoSuchRecord { record: index, link }),
            };
            inputs.push(links.into_iter().map(link).collect::<Result<_, _>>()?);
        }

        let layer = |layer| in_range(layer, layers).ok_or(FormatError::NoSuchLayer { layer });
        let mut results = Vec::with_capacity(raw.results.len() + raw.chains.len());
        for result in raw.results {
            results.push(StoredResult { stack: Stack::Top(layer(result.layer)?), created_at: result.created_at });
        }
        for chain in raw.chains {
            let listed = chain.layers.into_iter().map(layer).collect::<Result<_, _>>()?;
            results.push(StoredResult { stack: Stack::Listed(listed), created_at: chain.created_at });
        }
        Ok(Record { digest: raw.digest, inputs, results })
    }
}

fn in_range(index: i64, len: usize) -> Option<u32> {
    let small = u32::try_from(index).ok()?;
    ((small as usize) < len).then_some(small)
}

/// Follows the parents of every layer that a result rests on. Those of other layers mean nothing and may be anything:
/// an absent `parent` is 0, so in a config without parents the first layer would be its own.
fn check_layers(raw: &[RawLayer], records: &[Record]) -> Result<Vec<Layer>, FormatError> {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        No,
        OnPath,
        Good,
    }
    let mut layers: Vec<Layer> =
        raw.iter().map(|layer| Layer { blob: layer.blob.parse().ok(), parent: None }).collect();
    let mut seen = vec![Seen::No; raw.len()];
    let mut path = Vec::new();
    for result in records.iter().flat_map(|record| &record.results) {
        let Stack::Top(top) = result.stack else { continue };
        let mut at = top;
        while seen[at as usize] == Seen::No {
            seen[at as usize] = Seen::OnPath;
            path.push(at as usize);
            let parent = raw[at as usize].parent;
            if parent == -1 {
                break;
            }
            at = in_range(parent, raw.len()).ok_or(FormatError::NoSuchLayer { layer: parent })?;
            layers[path[path.len() - 1]].parent = Some(at);
            if seen[at as usize] == Seen::OnPath {
                return Err(FormatError::LayerLoop { layer: at as usize });
            }
        }
        path.drain(..).for_each(|layer| seen[layer] = Seen::Good);
    }
    Ok(layers)
}

/// Orders records so that each comes after the ones it links to, depth first: a record soon follows its parents.
fn parents_first(records: &[Record]) -> Result<Vec<u32>, FormatError> {
    let mut order = Vec::with_capacity(records.len());
    let mut entered = vec![false; records.len()];
    let mut done = vec![false; records.len()];
    // A record, the input and the link within it to look at next.
    let mut path: Vec<(usize, usize, usize)> = Vec::new();
    for start in 0..records.len() {
        if !entered[start] {
            entered[start] = true;
            path.push((start, 0, 0));
        }
        while let Some((record, input, link)) = path.last_mut() {
            let Some(links) = records[*record].inputs.get(*input) else {
                done[*record] = true;
                order.push(*record as u32);
                path.pop();
                continue;
            };
            let Some(parent) = links.get(*link).map(|link| link.record as usize) else {
                (*input, *link) = (*input + 1, 0);
                continue;
            };
            *link += 1;
            if !entered[parent] {
                entered[parent] = true;
                path.push((parent, 0, 0));
            } else if !done[parent] {
                return Err(FormatError::RecordLoop { record: parent });
            }
        }
    }
    Ok(order)
}
