//! The cacheconfig, version 0: which build steps a push knows, how they are reached, and which layers they produced.
//!
//! Invariant: a parsed [`CacheConfig`] is one that BuildKit's importer would not refuse: every index is in range, no
//! input is empty, neither records nor layers loop. Input that the importer tolerates is tolerated here (`parse.go`).

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;

use jiff::Timestamp;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::error::FormatError;
use super::json::go_object;
use crate::digest::Digest;

/// The largest cacheconfig that is read, in bytes: far above what BuildKit imports, since a view may trim it.
pub const CONFIG_BYTES_MAX: usize = 16 << 20;
/// Bounds on the number of objects and lists of a cacheconfig: one for each [`NODE_BYTES_MIN`] bytes, [`NODES_ALLOWED`]
/// in a small one, [`NODES_MAX`] in all. BuildKit writes one for 20 to 35 bytes.
const NODE_BYTES_MIN: usize = 8;
const NODES_ALLOWED: usize = 256;
const NODES_MAX: usize = 1 << 20;
/// Upper bound in bytes on the memory of an object or a list while it is parsed and afterwards.
const NODE_MEMORY_BYTES: usize = 96;

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
    /// `None` if the text is no digest that this registry can store, so that no manifest can contain it.
    pub blob: Option<Digest>,
    /// `None` at the bottom, and in a layer that only [`Stack::Listed`] results use: those ignore parents.
    pub parent: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The key: a digest in all that BuildKit writes, compared as text.
    pub digest: Box<str>,
    /// For each input the links that lead to it. Any one of them suffices; all are valid.
    pub inputs: Vec<Vec<Link>>,
    pub results: Vec<StoredResult>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// The part of the linked record's result that is used, or empty for all of it.
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

/// Creation time of a result: an instant that Go can read back, years 0 to 9999. The default is Go's zero time.
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
        "layers" => layers: RawLayers,
        "records" => records: RawRecords,
    }
}

/// Layers in the form in which they are read. The parse form of an element is converted at once, so that it is not kept
/// for all of them.
#[derive(Default)]
struct RawLayers {
    /// Layers without their parents.
    layers: Vec<Layer>,
    /// Parents as written in the input.
    parents: Vec<i64>,
}

/// Records as read: their indices are not yet known to be in range.
#[derive(Default)]
struct RawRecords {
    records: Vec<Record>,
    /// The first index that is out of range for any number of records or layers.
    out_of_range: Option<FormatError>,
}

go_object! {
    struct RawLayer {
        "blob" => blob: RawDigest,
        "parent" => parent: i64,
    }
}

/// A digest, or a text that is none.
#[derive(Default)]
struct RawDigest(Option<Digest>);

impl<'de> Deserialize<'de> for RawDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawDigest, D::Error> {
        Ok(RawDigest(Cow::<str>::deserialize(deserializer)?.parse().ok()))
    }
}

impl<'de> Deserialize<'de> for RawLayers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawLayers, D::Error> {
        let mut read = RawLayers::default();
        deserializer.deserialize_seq(Each::of(|RawLayer { blob, parent }| {
            read.layers.push(Layer { blob: blob.0, parent: None });
            read.parents.push(parent);
        }))?;
        Ok(read)
    }
}

impl<'de> Deserialize<'de> for RawRecords {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawRecords, D::Error> {
        let (mut records, mut out_of_range) = (Vec::new(), None);
        deserializer.deserialize_seq(Each::of(|raw: RawRecord| {
            let record = Record::shape(records.len(), raw).unwrap_or_else(|error| {
                out_of_range.get_or_insert(error);
                Record::default()
            });
            records.push(record);
        }))?;
        Ok(RawRecords { records, out_of_range })
    }
}

/// Passes each element of a list on as it is read.
struct Each<T, F>(F, PhantomData<T>);

impl<T, F: FnMut(T)> Each<T, F> {
    fn of(take: F) -> Each<T, F> {
        Each(take, PhantomData)
    }
}

impl<'de, T: Deserialize<'de>, F: FnMut(T)> Visitor<'de> for Each<T, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(element) = list.next_element()? {
            (self.0)(element);
        }
        Ok(())
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
        let max = NODES_ALLOWED.max(bytes.len() / NODE_BYTES_MIN).min(NODES_MAX);
        if count_nodes(bytes) > max {
            return Err(FormatError::TooMany { what: "objects and lists in a cacheconfig of its size", max });
        }
        let RawConfig { layers, records } = serde_json::from_slice(bytes)
            .map_err(|error| FormatError::Json { what: "cacheconfig", error: error.to_string() })?;
        if let Some(error) = records.out_of_range {
            return Err(error);
        }
        let records = records.records;
        let records_len = records.len();
        for (index, record) in records.iter().enumerate() {
            record.check(index, records_len, layers.layers.len())?;
        }
        let layers = check_layers(layers, &records)?;
        let order = parents_first(&records)?;
        Ok(CacheConfig { layers, records, order })
    }

    /// The most memory in bytes that parsing takes, the parsed config included.
    pub fn memory_to_parse(bytes: &[u8]) -> u64 {
        (bytes.len() + count_nodes(bytes) * NODE_MEMORY_BYTES) as u64
    }

    /// The indices of all records, each after the records that it links to.
    pub fn parents_first(&self) -> impl Iterator<Item = usize> + '_ {
        self.order.iter().map(|&index| index as usize)
    }

    /// Number of layers below each blob of a result. For a blob in several places the lowest counts: the layers on top
    /// of it there need it as well. Time and memory are linear in the config.
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

/// Counts the objects and lists in a JSON text, together with braces and brackets in its strings.
fn count_nodes(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| matches!(byte, b'{' | b'[')).count()
}

impl Record {
    /// Converts a record to its final form, with indices that may be too large.
    fn shape(index: usize, raw: RawRecord) -> Result<Record, FormatError> {
        let link = |RawLink { selector, link }| match u32::try_from(link) {
            Ok(record) => Ok(Link { selector, record }),
            Err(_) => Err(FormatError::NoSuchRecord { record: index, link }),
        };
        let links = |links: Option<Vec<RawLink>>| links.unwrap_or_default().into_iter().map(link).collect();
        let inputs = raw.inputs.into_iter().map(links).collect::<Result<_, _>>()?;
        let layer = |layer| u32::try_from(layer).map_err(|_| FormatError::NoSuchLayer { layer });
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

    fn check(&self, index: usize, records: usize, layers: usize) -> Result<(), FormatError> {
        for (input, links) in self.inputs.iter().enumerate() {
            if links.is_empty() {
                return Err(FormatError::EmptyInput { record: index, input });
            }
            if let Some(link) = links.iter().find(|link| link.record as usize >= records) {
                return Err(FormatError::NoSuchRecord { record: index, link: link.record.into() });
            }
        }
        let named = self.results.iter().flat_map(|result| match &result.stack {
            Stack::Top(top) => std::slice::from_ref(top),
            Stack::Listed(listed) => listed.as_slice(),
        });
        match named.into_iter().find(|layer| **layer as usize >= layers) {
            Some(layer) => Err(FormatError::NoSuchLayer { layer: (*layer).into() }),
            None => Ok(()),
        }
    }
}

fn in_range(index: i64, len: usize) -> Option<u32> {
    let small = u32::try_from(index).ok()?;
    ((small as usize) < len).then_some(small)
}

/// Follows the parents of every layer of a result. Those of other layers have no meaning and may have any value: an
/// absent `parent` is 0, so in a config without parents the first layer would be its own.
fn check_layers(raw: RawLayers, records: &[Record]) -> Result<Vec<Layer>, FormatError> {
    #[derive(Clone, Copy, PartialEq)]
    enum Visit {
        No,
        OnPath,
        Good,
    }
    let RawLayers { mut layers, parents } = raw;
    let mut seen = vec![Visit::No; layers.len()];
    let mut path = Vec::new();
    for result in records.iter().flat_map(|record| &record.results) {
        let Stack::Top(top) = result.stack else { continue };
        let mut at = top;
        while seen[at as usize] == Visit::No {
            seen[at as usize] = Visit::OnPath;
            path.push(at as usize);
            let parent = parents[at as usize];
            if parent == -1 {
                break;
            }
            at = in_range(parent, layers.len()).ok_or(FormatError::NoSuchLayer { layer: parent })?;
            layers[path[path.len() - 1]].parent = Some(at);
            if seen[at as usize] == Visit::OnPath {
                return Err(FormatError::LayerLoop { layer: at as usize });
            }
        }
        path.drain(..).for_each(|layer| seen[layer] = Visit::Good);
    }
    Ok(layers)
}

/// Orders records so that each comes after those that it links to, depth first: a record soon follows its parents.
fn parents_first(records: &[Record]) -> Result<Vec<u32>, FormatError> {
    let mut order = Vec::with_capacity(records.len());
    let mut entered = vec![false; records.len()];
    let mut done = vec![false; records.len()];
    // For each step of the path: a record, the input and the link within it to visit next.
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
