//! The records of all pushes in one graph, less what a view cannot use.

use std::collections::HashMap;
use std::ops::Range;

use super::SINK;
use super::config::{CacheConfig, CreatedAt, Record};
use super::layers::{ChainId, Layers, PushLayers};
use super::manifest::CacheManifest;

/// A record of one push: an index into [`Graph::nodes`].
pub type NodeId = u32;
/// A text that occurs often, numbered: a record's digest or a link's selector.
pub type Symbol = u32;
/// The selector of a link to the whole result.
pub const NO_SELECTOR: Symbol = 0;

pub struct Graph<'a> {
    /// Oldest push first; within a push, parents before children.
    pub nodes: Vec<Node>,
    pub texts: Vec<&'a str>,
    pub dropped: Dropped,
    links: Vec<NodeLink>,
    /// Where the links of each input begin, and the end of the last.
    inputs: Vec<u32>,
}

pub struct Node {
    pub push: u32,
    pub digest: Symbol,
    /// How deep below the roots of its push.
    pub depth: u32,
    pub result: Option<NodeResult>,
    inputs: Range<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeResult {
    pub created_at: CreatedAt,
    pub chain: ChainId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeLink {
    pub selector: Symbol,
    pub node: NodeId,
}

/// Records and results that were not loaded, and why.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dropped {
    /// `random:` keys, which mean nothing to another build, and sinks of earlier views.
    pub ephemeral_records: usize,
    /// Records with an input all of whose links led to dropped records.
    pub unlinked_records: usize,
    /// Records whose digest another record has with another number of inputs, which the importer does not tell apart.
    pub ambiguous_records: usize,
    /// Results with a layer that is missing, cannot be loaded, or is not in their manifest.
    pub results: usize,
}

impl<'a> Graph<'a> {
    pub fn load(pushes: &[(&CacheManifest, &'a CacheConfig)], layers: &mut Layers) -> Graph<'a> {
        let mut graph = Graph {
            nodes: Vec::new(),
            texts: vec![""],
            dropped: Dropped::default(),
            links: Vec::new(),
            inputs: vec![0],
        };
        let mut symbols = HashMap::from([("", NO_SELECTOR)]);
        // The importer looks for the equals of a record by digest and input, not by the number of inputs, and would unite
        // records that differ in it. No step has inputs that come and go, but nothing keeps a push from saying so.
        let mut arity: Vec<usize> = Vec::new();
        let mut digests = Vec::with_capacity(pushes.iter().map(|(_, config)| config.records.len()).sum());
        for record in pushes.iter().flat_map(|(_, config)| &config.records) {
            let digest = graph.symbol(&record.digest, &mut symbols);
            digests.push(digest);
            arity.resize(graph.texts.len(), 0);
            if !record.inputs.is_empty() {
                arity[digest as usize] = record.inputs.len();
            }
        }
        let mut digests = &digests[..];
        for (push, (manifest, config)) in (0..).zip(pushes) {
            let (digests_of_push, others) = digests.split_at(config.records.len());
            digests = others;
            let mut loader =
                Loader { graph: &mut graph, symbols: &mut symbols, push, digests: digests_of_push, arity: &arity };
            loader.load(config, &mut layers.of_push(manifest, config));
        }
        graph
    }

    fn symbol(&mut self, text: &'a str, symbols: &mut HashMap<&'a str, Symbol>) -> Symbol {
        *symbols.entry(text).or_insert_with(|| {
            self.texts.push(text);
            self.texts.len() as Symbol - 1
        })
    }

    pub fn arity(&self, node: NodeId) -> usize {
        self.nodes[node as usize].inputs.len()
    }

    /// The links of each input of a record.
    pub fn inputs(&self, node: NodeId) -> impl ExactSizeIterator<Item = &[NodeLink]> {
        let inputs = self.nodes[node as usize].inputs.clone();
        inputs.map(|input| &self.links[self.inputs[input as usize] as usize..self.inputs[input as usize + 1] as usize])
    }
}

/// Loads one push.
struct Loader<'g, 'a> {
    graph: &'g mut Graph<'a>,
    symbols: &'g mut HashMap<&'a str, Symbol>,
    push: u32,
    /// The digest of each record.
    digests: &'g [Symbol],
    /// For each digest the number of inputs of the newest record that has it and is not a root.
    arity: &'g [usize],
}

impl<'a> Loader<'_, 'a> {
    fn load(&mut self, config: &'a CacheConfig, layers: &mut PushLayers) {
        let mut node_of: Vec<Option<NodeId>> = vec![None; config.records.len()];
        for index in config.parents_first() {
            let record = &config.records[index];
            let digest = self.digests[index];
            if record.digest.starts_with("random:") || &*record.digest == SINK {
                self.graph.dropped.ephemeral_records += 1;
            } else if !record.inputs.is_empty() && record.inputs.len() != self.arity[digest as usize] {
                self.graph.dropped.ambiguous_records += 1;
            } else if let Some((inputs, depth)) = self.link(record, &node_of) {
                let result = best_result(record, layers, &mut self.graph.dropped);
                node_of[index] = Some(self.graph.nodes.len() as NodeId);
                self.graph.nodes.push(Node { push: self.push, digest, depth, result, inputs });
            } else {
                self.graph.dropped.unlinked_records += 1;
            }
        }
    }

    /// Adds the links of a record to loaded ones. `None` if that leaves an input without any.
    fn link(&mut self, record: &'a Record, node_of: &[Option<NodeId>]) -> Option<(Range<u32>, u32)> {
        let (first_input, first_link) = (self.graph.inputs.len(), self.graph.links.len());
        let mut depth = 0;
        for alternatives in &record.inputs {
            let before = self.graph.links.len();
            for link in alternatives {
                let Some(node) = node_of[link.record as usize] else { continue };
                depth = depth.max(self.graph.nodes[node as usize].depth + 1);
                let selector = match &*link.selector {
                    "" => NO_SELECTOR,
                    selector => self.graph.symbol(selector, self.symbols),
                };
                self.graph.links.push(NodeLink { selector, node });
            }
            if self.graph.links.len() == before {
                self.graph.inputs.truncate(first_input);
                self.graph.links.truncate(first_link);
                return None;
            }
            self.graph.inputs.push(self.graph.links.len() as u32);
        }
        Some((first_input as u32 - 1..self.graph.inputs.len() as u32 - 1, depth))
    }
}

/// The newest result whose layers can all be served and loaded. BuildKit, too, uses one only.
fn best_result(record: &Record, layers: &mut PushLayers, dropped: &mut Dropped) -> Option<NodeResult> {
    let mut best = None;
    for stored in &record.results {
        match layers.chain(&stored.stack) {
            Some(chain) => best = best.max(Some(NodeResult { created_at: stored.created_at, chain })),
            None => dropped.results += 1,
        }
    }
    best
}
