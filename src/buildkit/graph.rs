//! The records of all pushes in one graph, without those that a view cannot use.

use std::collections::HashMap;
use std::ops::Range;

use super::SINK;
use super::config::{CacheConfig, CreatedAt, Record};
use super::layers::{ChainId, ContentId, Layers, PushLayers};
use super::manifest::CacheManifest;

/// A record: an index into [`Graph::nodes`]. Equal records of several pushes are one node: same digest, same links,
/// same content of the result. Most of a push repeats the one before it.
pub type NodeId = u32;
/// The number of a frequent text: a record's digest or a link's selector.
pub type Symbol = u32;
/// The selector of a link to the whole result.
pub const NO_SELECTOR: Symbol = 0;

pub struct Graph<'a> {
    /// Nodes, oldest push first; within a push, parents before children.
    pub nodes: Vec<Node>,
    pub texts: Vec<&'a str>,
    pub dropped: Dropped,
    links: Vec<NodeLink>,
    /// The start of each input's links, and the end of the last.
    inputs: Vec<u32>,
}

pub struct Node {
    /// The newest push with the record. The result is that push's.
    pub push: u32,
    /// Number of records of all pushes that are this node.
    pub copies: usize,
    pub digest: Symbol,
    /// Depth below the roots of its push.
    pub depth: u32,
    pub result: Option<NodeResult>,
    inputs: Range<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeResult {
    pub created_at: CreatedAt,
    pub chain: ChainId,
    pub content: ContentId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeLink {
    pub selector: Symbol,
    pub node: NodeId,
}

/// Records and results that were not loaded, by reason.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dropped {
    /// `random:` keys, which mean nothing to another build, and sinks of earlier views.
    pub ephemeral_records: usize,
    /// Records with an input all of whose links led to dropped records.
    pub unlinked_records: usize,
    /// Records whose digest another record has with another number of inputs: the importer does not tell them apart.
    pub ambiguous_records: usize,
    /// Results with a layer that is missing, cannot be loaded, or is not in their manifest.
    pub results: usize,
}

impl<'a> Graph<'a> {
    pub fn load(pushes: &[(&CacheManifest, &'a CacheConfig)], layers: &mut Layers) -> Graph<'a> {
        let records = pushes.iter().map(|(_, config)| config.records.len()).sum();
        let mut graph = Graph {
            nodes: Vec::with_capacity(records),
            texts: vec![""],
            dropped: Dropped::default(),
            links: Vec::with_capacity(records),
            inputs: vec![0],
        };
        let mut symbols = HashMap::with_capacity(records);
        symbols.insert("", NO_SELECTOR);
        // The importer looks for the equals of a record by digest and input, not by the number of inputs, and would
        // unite records that differ in it. No real step has a varying number of inputs, but a push may say so.
        let mut arity: Vec<usize> = Vec::new();
        let mut digests = Vec::with_capacity(records);
        for record in pushes.iter().flat_map(|(_, config)| &config.records) {
            let digest = graph.symbol(&record.digest, &mut symbols);
            digests.push(digest);
            arity.resize(graph.texts.len(), 0);
            if !record.inputs.is_empty() {
                arity[digest as usize] = record.inputs.len();
            }
        }
        let mut digests = &digests[..];
        let mut known = HashMap::with_capacity(records);
        for (push, (manifest, config)) in (0..).zip(pushes) {
            let (digests_of_push, others) = digests.split_at(config.records.len());
            digests = others;
            let mut loader = Loader {
                graph: &mut graph,
                symbols: &mut symbols,
                known: &mut known,
                words: Vec::new(),
                push,
                digests: digests_of_push,
                arity: &arity,
            };
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

    /// All links of all records, in order of the records.
    pub fn links(&self) -> &[NodeLink] {
        &self.links
    }

    /// All links of a record.
    pub fn links_of(&self, node: NodeId) -> &[NodeLink] {
        let inputs = &self.nodes[node as usize].inputs;
        &self.links[self.inputs[inputs.start as usize] as usize..self.inputs[inputs.end as usize] as usize]
    }

    /// The links of each input of a record.
    pub fn inputs(&self, node: NodeId) -> impl ExactSizeIterator<Item = &[NodeLink]> {
        let inputs = self.nodes[node as usize].inputs.clone();
        inputs.map(|input| &self.links[self.inputs[input as usize] as usize..self.inputs[input as usize + 1] as usize])
    }
}

struct Loader<'g, 'a> {
    graph: &'g mut Graph<'a>,
    symbols: &'g mut HashMap<&'a str, Symbol>,
    /// Nodes by their identity: digest, content and links.
    known: &'g mut HashMap<Box<[u32]>, NodeId>,
    /// Scratch space for a key of `known`.
    words: Vec<u32>,
    push: u32,
    digests: &'g [Symbol],
    /// For each digest the number of inputs of the newest record with it that is not a root.
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
                node_of[index] = Some(self.add(Node { push: self.push, copies: 1, digest, depth, result, inputs }));
            } else {
                self.graph.dropped.unlinked_records += 1;
            }
        }
    }

    /// Adds a node, whose links are the last ones, or makes it a copy of an equal one.
    fn add(&mut self, node: Node) -> NodeId {
        let next = self.graph.nodes.len() as NodeId;
        self.graph.nodes.push(node);
        let node = &self.graph.nodes[next as usize];
        self.words.clear();
        self.words.extend([node.digest, node.result.map_or(0, |result| result.content + 1)]);
        for links in self.graph.inputs(next) {
            self.words.push(links.len() as u32);
            self.words.extend(links.iter().flat_map(|link| [link.selector, link.node]));
        }
        let Some(&known) = self.known.get(&self.words[..]) else {
            self.known.insert(self.words.as_slice().into(), next);
            return next;
        };
        if let Some(node) = self.graph.nodes.pop() {
            self.graph.links.truncate(self.graph.inputs[node.inputs.start as usize] as usize);
            self.graph.inputs.truncate(node.inputs.start as usize + 1);
            let known = &mut self.graph.nodes[known as usize];
            known.copies += 1;
            (known.push, known.result) = (known.push, known.result).max((node.push, node.result));
        }
        known
    }

    /// Converts the links of a record to links to loaded nodes. `None` if that leaves an input without any.
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
            self.graph.links[before..].sort_unstable();
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
            Some((chain, content)) => {
                best = best.max(Some(NodeResult { created_at: stored.created_at, chain, content }));
            }
            None => dropped.results += 1,
        }
    }
    best
}
