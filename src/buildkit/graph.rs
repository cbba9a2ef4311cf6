//! The records of all pushes in one graph, less what a view cannot use.

use std::collections::HashMap;
use std::ops::Range;

use super::SINK;
use super::config::{CacheConfig, CreatedAt};
use super::layers::{ChainId, Layers, PushLayers};
use super::manifest::CacheManifest;

/// A record of one push: an index into [`Graph::nodes`].
pub type NodeId = u32;
/// A text that occurs often, numbered: a record's digest or a link's selector.
pub type Symbol = u32;

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
            texts: Vec::new(),
            dropped: Dropped::default(),
            links: Vec::new(),
            inputs: vec![0],
        };
        // The importer looks for the equals of a record by digest and input, not by the number of inputs, and would unite
        // records that differ in it. No step has inputs that come and go, but nothing keeps a push from saying so.
        let mut arities = HashMap::new();
        for record in pushes.iter().flat_map(|(_, config)| &config.records).filter(|record| !record.inputs.is_empty()) {
            arities.insert(&*record.digest, record.inputs.len());
        }
        let mut symbols = HashMap::new();
        for (push, (manifest, config)) in (0..).zip(pushes) {
            graph.load_push(push, config, &mut layers.of_push(manifest, config), &arities, &mut symbols);
        }
        graph
    }

    fn load_push(
        &mut self,
        push: u32,
        config: &'a CacheConfig,
        layers: &mut PushLayers,
        arities: &HashMap<&str, usize>,
        symbols: &mut HashMap<&'a str, Symbol>,
    ) {
        let mut node_of: Vec<Option<NodeId>> = vec![None; config.records.len()];
        for index in config.parents_first() {
            let record = &config.records[index];
            if record.digest.starts_with("random:") || &*record.digest == SINK {
                self.dropped.ephemeral_records += 1;
                continue;
            }
            if !record.inputs.is_empty() && arities.get(&*record.digest) != Some(&record.inputs.len()) {
                self.dropped.ambiguous_records += 1;
                continue;
            }
            let first_input = self.inputs.len() - 1;
            let mut depth = 0;
            let linked = record.inputs.iter().all(|links| {
                let before = self.links.len();
                for link in links {
                    let Some(node) = node_of[link.record as usize] else { continue };
                    depth = depth.max(self.nodes[node as usize].depth + 1);
                    let selector = self.symbol(&link.selector, symbols);
                    self.links.push(NodeLink { selector, node });
                }
                self.inputs.push(self.links.len() as u32);
                self.links.len() > before
            });
            if !linked {
                self.inputs.truncate(first_input + 1);
                self.links.truncate(self.inputs[first_input] as usize);
                self.dropped.unlinked_records += 1;
                continue;
            }

            let mut result = None;
            for stored in &record.results {
                match layers.chain(&stored.stack) {
                    Some(chain) => result = result.max(Some(NodeResult { created_at: stored.created_at, chain })),
                    None => self.dropped.results += 1,
                }
            }
            let digest = self.symbol(&record.digest, symbols);
            node_of[index] = Some(self.nodes.len() as NodeId);
            let inputs = first_input as u32..self.inputs.len() as u32 - 1;
            self.nodes.push(Node { push, digest, depth, result, inputs });
        }
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
