//! The union of all pushes: the records of each class, parents first.
//!
//! Equal roots become one record. So do members of a class whose results are the same content, with all their links, if
//! their links differ in one input at most: a build that matches a link of A there and links that A and B share
//! elsewhere matches A. If they differ in two, that A made R of (a, a') and B made R of (b, b') does not say what (a,
//! b') makes: the class is [`split`] like those whose results differ.
//!
//! A record of push P links to those records of a parent's class that P's own parent vouches for. The parent's result
//! may come from a newer push than the child's, as it may when BuildKit imports from several caches: a definition link
//! says that the step is the same, whatever its result.

use std::ops::Range;

use super::classes::{ClassId, Classes};
use super::error::NoView;
use super::graph::{Graph, NodeId, NodeResult, Symbol};
use super::split::{self, Links, SplitPart, UnionLink};
use super::view::Work;

/// A record of the union: an index into [`Union::records`].
pub type RecordId = u32;

#[derive(Default)]
pub struct Union {
    /// Records, parents before children, and chains of records mostly together: any beginning is a cache in itself.
    pub records: Vec<UnionRecord>,
    /// Classes that are several records; of those, the ones cut by [`split::bounded`], and the ones whose members have
    /// the same content.
    pub splits: usize,
    pub bounded_splits: usize,
    pub uniform_splits: usize,
    /// Records of pushes that no record represents: loops took their links, or a bounded split gave them all to others.
    pub uncovered_records: usize,
    /// Links that would have closed a loop: one push says A before B, another B before A.
    pub loop_links: usize,
}

pub struct UnionRecord {
    pub digest: Symbol,
    pub links: Links,
    pub result: Option<NodeResult>,
    /// The newest push that vouches for the record.
    pub push: u32,
}

impl Union {
    pub fn of(graph: &Graph, classes: &Classes, work: &mut Work) -> Result<Union, NoView> {
        let mut emitter = Emitter {
            graph,
            classes,
            union: Union::default(),
            emitted: vec![false; classes.len()],
            vouched: VouchedRecords { records: Vec::new(), of_node: vec![0..0; graph.nodes.len()] },
        };
        for class in parents_first(graph, classes) {
            emitter.emit(class, work)?;
        }
        let uncovered = graph.nodes.iter().zip(&emitter.vouched.of_node).filter(|(_, records)| records.is_empty());
        emitter.union.uncovered_records = uncovered.map(|(node, _)| node.copies).sum();
        Ok(emitter.union)
    }
}

/// Orders classes so that each comes after those that it links to, except for links that close a loop. It starts from
/// the leaves, so that the classes that lead to a leaf stay together.
fn parents_first(graph: &Graph, classes: &Classes) -> Vec<ClassId> {
    let mut is_leaf = vec![true; classes.len()];
    graph.links().iter().for_each(|link| is_leaf[classes.of[link.node as usize] as usize] = false);

    let mut order = Vec::with_capacity(classes.len());
    let mut entered = vec![false; classes.len()];
    // For each step of the path: a class, the member of it and the member's link to visit next.
    let mut path: Vec<(ClassId, usize, usize)> = Vec::new();
    let all = 0..classes.len() as ClassId;
    // If all links are loops there is no leaf, so the other classes follow.
    for start in all.clone().filter(|&class| is_leaf[class as usize]).chain(all) {
        if !std::mem::replace(&mut entered[start as usize], true) {
            path.push((start, 0, 0));
        }
        while let Some((class, member, link)) = path.last_mut() {
            let Some(&node) = classes.members(*class).get(*member) else {
                order.push(*class);
                path.pop();
                continue;
            };
            let Some(parent) = graph.links_of(node).get(*link) else {
                (*member, *link) = (*member + 1, 0);
                continue;
            };
            *link += 1;
            let parent = classes.of[parent.node as usize];
            if !std::mem::replace(&mut entered[parent as usize], true) {
                path.push((parent, 0, 0));
            }
        }
    }
    order
}

/// For each node the records that it vouches for.
struct VouchedRecords {
    records: Vec<RecordId>,
    of_node: Vec<Range<u32>>,
}

impl VouchedRecords {
    fn by(&self, node: NodeId) -> &[RecordId] {
        let range = &self.of_node[node as usize];
        &self.records[range.start as usize..range.end as usize]
    }

    /// Notes the records that each of these nodes vouches for, once.
    fn set(&mut self, nodes: &[NodeId], records: impl Iterator<Item = RecordId>) {
        let start = self.records.len() as u32;
        self.records.extend(records);
        let end = self.records.len() as u32;
        nodes.iter().for_each(|&node| self.of_node[node as usize] = start..end);
    }
}

struct Emitter<'g, 'a> {
    graph: &'g Graph<'a>,
    classes: &'g Classes,
    union: Union,
    emitted: Vec<bool>,
    vouched: VouchedRecords,
}

impl Emitter<'_, '_> {
    fn emit(&mut self, class: ClassId, work: &mut Work) -> Result<(), NoView> {
        let (mut ways, nodes) = self.ways(class, work)?;
        self.emitted[class as usize] = true;

        let all = (0..ways.len()).collect();
        let parts = match &mut ways[..] {
            [] => return Ok(()),
            [only] => vec![SplitPart { links: std::mem::take(only), vouchers: all }],
            several if self.same_content(nodes.iter().flatten()) && differ_in_one_input(several) => {
                vec![SplitPart { links: united(several), vouchers: all }]
            }
            several => {
                let copies = nodes.iter().flatten().map(|&node| self.graph.nodes[node as usize].copies);
                let max = copies.sum::<usize>() * split::PARTS_PER_MEMBER_MAX;
                let exact = split::exact(several, max, work)?;
                self.union.bounded_splits += usize::from(exact.is_none());
                let parts = exact.map_or_else(|| split::bounded(several, work), Ok)?;
                self.union.splits += usize::from(parts.len() > 1);
                self.union.uniform_splits += usize::from(parts.len() > 1 && self.same_content(nodes.iter().flatten()));
                parts
            }
        };
        let first = self.union.records.len() as RecordId;
        for (way, nodes) in nodes.iter().enumerate() {
            work.spend(parts.len())?;
            let vouched = (first..).zip(&parts).filter(|(_, part)| part.vouchers.binary_search(&way).is_ok());
            self.vouched.set(nodes, vouched.map(|(id, _)| id));
        }
        for SplitPart { links, vouchers } in parts {
            let vouchers =
                || vouchers.iter().flat_map(|&way| &nodes[way]).map(|&node| &self.graph.nodes[node as usize]);
            let Some(newest) = vouchers().max_by_key(|node| node.push) else { continue };
            // A later creation time does not make a result newer, so that results of one push stay together.
            let result = vouchers().filter_map(|node| Some((node.push, node.result?))).max().map(|(_, result)| result);
            self.union.records.push(UnionRecord { digest: newest.digest, links, result, push: newest.push });
        }
        Ok(())
    }

    /// The different ways in which the pushes reach a step, and the nodes that know each: those of the newest node
    /// last. Nodes that loops have left without a link are left out.
    fn ways(&mut self, class: ClassId, work: &mut Work) -> Result<(Vec<Links>, Vec<Vec<NodeId>>), NoView> {
        let classes = self.classes;
        let mut ways: Vec<(Links, Vec<NodeId>)> = Vec::new();
        for &node in classes.members(class) {
            let links = self.links(node, work)?;
            if links.iter().any(Vec::is_empty) {
                continue;
            }
            // There are few ways, and pushes that follow each other mostly have the same.
            work.spend(ways.len())?;
            match ways.iter_mut().rfind(|(known, _)| *known == links) {
                Some((_, nodes)) => nodes.push(node),
                None => ways.push((links, vec![node])),
            }
        }
        let push = |node: &NodeId| self.graph.nodes[*node as usize].push;
        ways.sort_by_key(|(_, nodes)| nodes.iter().map(push).max());
        Ok(ways.into_iter().unzip())
    }

    /// The links of a node to the records of the union for which its parents vouch.
    fn links(&mut self, node: NodeId, work: &mut Work) -> Result<Links, NoView> {
        let mut inputs = Vec::with_capacity(self.graph.arity(node));
        for links in self.graph.inputs(node) {
            let mut records: Vec<UnionLink> = Vec::with_capacity(links.len());
            for link in links {
                // A class that is not emitted yet is in a loop with this one.
                if !self.emitted[self.classes.of[link.node as usize] as usize] {
                    self.union.loop_links += 1;
                    continue;
                }
                let parents = self.vouched.by(link.node);
                work.spend(parents.len())?;
                records.extend(parents.iter().map(|&record| (link.selector, record)));
            }
            records.sort_unstable();
            records.dedup();
            inputs.push(records);
        }
        Ok(inputs)
    }

    /// Whether all have a result, with the same content whatever its compression.
    fn same_content<'n>(&self, mut nodes: impl Iterator<Item = &'n NodeId>) -> bool {
        let content = |&node: &NodeId| self.graph.nodes[node as usize].result.map(|result| result.content);
        let first = nodes.next().and_then(content);
        first.is_some() && nodes.all(|node| content(node) == first)
    }
}

/// Whether all have the same links of every input but one.
fn differ_in_one_input(ways: &[Links]) -> bool {
    let [first, others @ ..] = ways else { return true };
    let differs = |&input: &usize| others.iter().any(|links| links[input] != first[input]);
    (0..first.len()).filter(differs).count() <= 1
}

/// All links of each input.
fn united(ways: &[Links]) -> Links {
    let mut united = vec![Vec::new(); ways.first().map_or(0, Vec::len)];
    for links in ways {
        united.iter_mut().zip(links).for_each(|(all, links)| all.extend_from_slice(links));
    }
    for links in &mut united {
        links.sort_unstable();
        links.dedup();
    }
    united
}
