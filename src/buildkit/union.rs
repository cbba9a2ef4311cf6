//! The union of all pushes: the records that each class comes to, parents first.
//!
//! Roots become one record. So do members of a class whose results are the same content, with all their links, if their
//! links differ in one input at most: a build that matches a link of A there and links that A and B share elsewhere
//! matches A. If they differ in two, that A made R of (a, a') and B made R of (b, b') does not say what (a, b') makes, so
//! that class is [split](super::split) like those whose results differ. A record of push P links to those records of a parent's class that P's
//! own parent vouches for. That the result of a parent may come from a newer push than the child's is BuildKit's own
//! way when it imports from several caches: definition links say that the step is the same, whatever came out of it.

use super::classes::{ClassId, Classes};
use super::config::CreatedAt;
use super::error::Refused;
use super::graph::{Graph, NodeId, Symbol};
use super::layers::{ChainId, Layers};
use super::split::{self, Link, Links, Part};
use super::view::Work;

/// A record of the union: an index into [`Union::records`].
pub type RecordId = u32;

#[derive(Default)]
pub struct Union {
    /// Parents before children, and chains of records mostly together: any beginning is a cache in itself.
    pub records: Vec<UnionRecord>,
    /// Classes that are several records, and of those: the ones cut by [`split::bounded`], and the ones whose members have
    /// the same content.
    pub splits: usize,
    pub bounded_splits: usize,
    pub uniform_splits: usize,
    /// Nodes that no record stands for: loops took their links, or a bounded split gave them all to others.
    pub uncovered_nodes: usize,
    /// Links that would have closed a loop: one push says A before B, another B before A.
    pub loop_links: usize,
}

pub struct UnionRecord {
    pub digest: Symbol,
    pub links: Links,
    pub result: Option<UnionResult>,
    /// The newest push that vouches for the record.
    pub push: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct UnionResult {
    pub chain: ChainId,
    pub created_at: CreatedAt,
}

impl Union {
    pub fn of(graph: &Graph, classes: &Classes, layers: &Layers, work: &mut Work) -> Result<Union, Refused> {
        let mut emitter = Emitter {
            graph,
            classes,
            layers,
            union: Union::default(),
            emitted: vec![false; classes.members.len()],
            records_of: vec![Vec::new(); graph.nodes.len()],
        };
        for class in parents_first(graph, classes) {
            emitter.emit(class, work)?;
        }
        emitter.union.uncovered_nodes = emitter.records_of.iter().filter(|records| records.is_empty()).count();
        Ok(emitter.union)
    }
}

/// Orders classes so that each comes after those it links to, except for links that close a loop. It starts from the
/// leaves, so that what leads to a leaf stays together.
fn parents_first(graph: &Graph, classes: &Classes) -> Vec<ClassId> {
    let links_to = |class: ClassId| -> Vec<ClassId> {
        let nodes = &classes.members[class as usize];
        let links = nodes.iter().flat_map(|&node| graph.inputs(node).flatten());
        links.map(|link| classes.of[link.node as usize]).collect()
    };
    let all = 0..classes.members.len() as ClassId;
    let mut is_leaf = vec![true; classes.members.len()];
    for class in all.clone() {
        links_to(class).into_iter().for_each(|parent| is_leaf[parent as usize] = false);
    }

    let mut order = Vec::with_capacity(classes.members.len());
    let mut entered = vec![false; classes.members.len()];
    let mut path: Vec<(ClassId, std::vec::IntoIter<ClassId>)> = Vec::new();
    // Where all links are loops there is no leaf, so the rest follows.
    for start in all.clone().filter(|&class| is_leaf[class as usize]).chain(all) {
        if !std::mem::replace(&mut entered[start as usize], true) {
            path.push((start, links_to(start).into_iter()));
        }
        while let Some((class, parents)) = path.last_mut() {
            match parents.find(|&parent| !std::mem::replace(&mut entered[parent as usize], true)) {
                Some(parent) => path.push((parent, links_to(parent).into_iter())),
                None => {
                    order.push(*class);
                    path.pop();
                }
            }
        }
    }
    order
}

struct Emitter<'g, 'a> {
    graph: &'g Graph<'a>,
    classes: &'g Classes,
    layers: &'g Layers<'g>,
    union: Union,
    emitted: Vec<bool>,
    /// For each node the records that it vouches for.
    records_of: Vec<Vec<RecordId>>,
}

impl Emitter<'_, '_> {
    fn emit(&mut self, class: ClassId, work: &mut Work) -> Result<(), Refused> {
        let mut members: Vec<NodeId> = Vec::new();
        let mut links: Vec<Links> = Vec::new();
        for &node in &self.classes.members[class as usize] {
            let theirs = self.links(node, work)?;
            if theirs.iter().all(|links| !links.is_empty()) {
                members.push(node);
                links.push(theirs);
            }
        }
        self.emitted[class as usize] = true;

        let all = || (0..members.len()).collect::<Vec<_>>();
        let parts = match &mut links[..] {
            [] => return Ok(()),
            [only] => vec![Part { links: std::mem::take(only), vouchers: all() }],
            [first, ..] if first.is_empty() => vec![Part { links: Vec::new(), vouchers: all() }],
            several if self.same_content(&members) && differ_in_one_input(several) => {
                vec![Part { links: united(several), vouchers: all() }]
            }
            several => {
                let exact = split::exact(several, work)?;
                self.union.bounded_splits += usize::from(exact.is_none());
                let parts = exact.map_or_else(|| split::bounded(several, work), Ok)?;
                self.union.splits += usize::from(parts.len() > 1);
                self.union.uniform_splits += usize::from(parts.len() > 1 && self.same_content(&members));
                parts
            }
        };
        let digest = self.graph.nodes[members[0] as usize].digest;
        for Part { links, vouchers } in parts {
            let id = self.union.records.len() as RecordId;
            let vouchers = || vouchers.iter().map(|&member| members[member]);
            let push = vouchers().map(|node| self.graph.nodes[node as usize].push).max().unwrap_or_default();
            let result = self.newest_result(vouchers());
            vouchers().for_each(|node| self.records_of[node as usize].push(id));
            self.union.records.push(UnionRecord { digest, links, result, push });
        }
        Ok(())
    }

    /// The links of a node to the records of the union that its parents vouch for.
    fn links(&mut self, node: NodeId, work: &mut Work) -> Result<Links, Refused> {
        let mut inputs = Vec::with_capacity(self.graph.arity(node));
        for links in self.graph.inputs(node) {
            let mut records: Vec<Link> = Vec::with_capacity(links.len());
            for link in links {
                // What is not emitted yet is being waited for by this very class.
                if !self.emitted[self.classes.of[link.node as usize] as usize] {
                    self.union.loop_links += 1;
                    continue;
                }
                let parents = &self.records_of[link.node as usize];
                work.spend(parents.len())?;
                records.extend(parents.iter().map(|&record| (link.selector, record)));
            }
            records.sort_unstable();
            records.dedup();
            inputs.push(records);
        }
        Ok(inputs)
    }

    /// Whether all have a result, and the same whatever its compression.
    fn same_content(&self, members: &[NodeId]) -> bool {
        let content = |&node: &NodeId| {
            let result = self.graph.nodes[node as usize].result?;
            Some(self.layers.chains[result.chain as usize].content)
        };
        let first = members.first().and_then(content);
        first.is_some() && members.iter().all(|node| content(node) == first)
    }

    /// The result of the newest push: its time of creation does not matter, so that what one push made stays together.
    fn newest_result(&self, nodes: impl Iterator<Item = NodeId>) -> Option<UnionResult> {
        let node = nodes.map(|node| &self.graph.nodes[node as usize]);
        let newest = node.filter_map(|node| Some((node.push, node.result?))).max()?.1;
        Some(UnionResult { chain: newest.chain, created_at: newest.created_at })
    }
}

/// Whether the members have the same links of every input but one.
fn differ_in_one_input(members: &[Links]) -> bool {
    let [first, others @ ..] = members else { return true };
    let differs = |&input: &usize| others.iter().any(|links| links[input] != first[input]);
    (0..first.len()).filter(differs).count() <= 1
}

/// All links of each input.
fn united(members: &[Links]) -> Links {
    let mut united = vec![Vec::new(); members.first().map_or(0, Vec::len)];
    for links in members {
        united.iter_mut().zip(links).for_each(|(all, links)| all.extend_from_slice(links));
    }
    for links in &mut united {
        links.sort_unstable();
        links.dedup();
    }
    united
}
