//! Which records are the same step: a congruence closure over the records of all pushes.
//!
//! A record has no identity of its own, as its links are alternatives of which two exporters may know different ones.
//! BuildKit takes two records for one step if they have the same digest, the same number of inputs, and for every input
//! at least one link in common: same selector, same linked step (`chains.go`, `Add`). Roots are the same if their digests
//! are. What a link has in common depends on which steps are the same, so the rule is applied until nothing changes.
//!
//! A class has the links of all its members. It is found again by its links: a map leads from (digest, number of inputs,
//! input, selector, linked class) to the classes with that link. When two classes become one, only the users of the
//! smaller one have new links to look up.

use std::collections::{HashMap, VecDeque};

use super::error::Refused;
use super::graph::{Graph, NodeId, Symbol};
use super::view::Work;

/// A class: an index into [`Classes::members`].
pub type ClassId = u32;

pub struct Classes {
    /// The class of each node.
    pub of: Vec<ClassId>,
    /// The nodes of each class, in order. Classes are in order of their first node.
    pub members: Vec<Vec<NodeId>>,
}

impl Classes {
    pub fn of(graph: &Graph, work: &mut Work) -> Result<Classes, Refused> {
        let mut closure = Closure::new(graph);
        closure.unite_roots();
        // By depth, so that the steps which links lead to have mostly been united before.
        let mut nodes: Vec<NodeId> = (0..graph.nodes.len() as NodeId).filter(|&node| graph.arity(node) > 0).collect();
        nodes.sort_by_key(|&node| graph.nodes[node as usize].depth);
        nodes.into_iter().for_each(|node| closure.enqueue(node));
        while let Some(node) = closure.queue.pop_front() {
            closure.queued[node as usize] = false;
            let class = closure.find(node);
            closure.settle(class, work)?;
        }
        Ok(closure.finish())
    }
}

/// A link of a class, by the representative of the linked class.
type Link = (Symbol, NodeId);

/// Digest and number of inputs, input, selector, representative of the linked class.
type Key = (u32, u32, Symbol, NodeId);

struct Closure<'g, 'a> {
    graph: &'g Graph<'a>,
    /// Union-find: a representative is its own parent.
    parent: Vec<NodeId>,
    /// What two records must share to be one: their digest and their number of inputs, numbered.
    shape: Vec<u32>,
    /// Of each representative, the links of each input, sorted. May name classes that have since become part of others;
    /// the class is then queued.
    links: Vec<Vec<Vec<Link>>>,
    /// Of each representative, the nodes that link to its class.
    users: Vec<Vec<NodeId>>,
    /// The number of each link that some class has; `sharing` has its classes, some of them by former representatives.
    link_ids: HashMap<Key, u32>,
    sharing: Vec<Vec<NodeId>>,
    queue: VecDeque<NodeId>,
    queued: Vec<bool>,
}

impl<'g, 'a> Closure<'g, 'a> {
    fn new(graph: &'g Graph<'a>) -> Self {
        let len = graph.nodes.len();
        let mut shapes = HashMap::new();
        let mut closure = Closure {
            graph,
            parent: (0..len as NodeId).collect(),
            shape: Vec::with_capacity(len),
            links: Vec::with_capacity(len),
            users: vec![Vec::new(); len],
            link_ids: HashMap::new(),
            sharing: Vec::new(),
            queue: VecDeque::new(),
            queued: vec![false; len],
        };
        for node in 0..len as NodeId {
            let next = shapes.len() as u32;
            let key = (graph.nodes[node as usize].digest, graph.arity(node));
            closure.shape.push(*shapes.entry(key).or_insert(next));
            for link in graph.inputs(node).flatten() {
                closure.users[link.node as usize].push(node);
            }
            let links = graph.inputs(node).map(|links| links.iter().map(|link| (link.selector, link.node)).collect());
            closure.links.push(links.collect());
        }
        closure
    }

    fn unite_roots(&mut self) {
        let mut first = HashMap::new();
        for node in 0..self.parent.len() as NodeId {
            if self.graph.arity(node) == 0 {
                let root = *first.entry(self.shape[node as usize]).or_insert(node);
                if root != node {
                    self.parent[node as usize] = root;
                    let users = std::mem::take(&mut self.users[node as usize]);
                    self.users[root as usize].extend(users);
                }
            }
        }
    }

    fn enqueue(&mut self, node: NodeId) {
        if !std::mem::replace(&mut self.queued[node as usize], true) {
            self.queue.push_back(node);
        }
    }

    fn find(&mut self, node: NodeId) -> NodeId {
        let mut at = node;
        while self.parent[at as usize] != at {
            let above = self.parent[self.parent[at as usize] as usize];
            self.parent[at as usize] = above;
            at = above;
        }
        at
    }

    /// Brings the links of a class up to date and unites it with every class it has a link of each input in common with.
    fn settle(&mut self, mut class: NodeId, work: &mut Work) -> Result<(), Refused> {
        loop {
            let narrowest = self.refresh(class, work)?;
            let Some(other) = self.find_equal(class, &narrowest, work)? else { return Ok(()) };
            let known = self.link_count(other);
            class = self.unite(class, other, work)?;
            // Usually the other has been settled and has all the links: then all that it equals has been found.
            if self.link_count(class) == known && class == other && !self.queued[class as usize] {
                return Ok(());
            }
        }
    }

    /// Brings the links of a class up to date. Returns those of the input that has them in common with the fewest classes.
    fn refresh(&mut self, class: NodeId, work: &mut Work) -> Result<Vec<u32>, Refused> {
        let shape = self.shape[class as usize];
        let mut links = std::mem::take(&mut self.links[class as usize]);
        let (mut narrowest, mut fewest) = (Vec::new(), usize::MAX);
        for (input, links) in (0..).zip(&mut links) {
            work.spend(links.len())?;
            links.iter_mut().for_each(|(_, linked)| *linked = self.find(*linked));
            links.sort_unstable();
            links.dedup();
            let mut ids = Vec::with_capacity(links.len());
            let mut classes = 0;
            for &(selector, linked) in links.iter() {
                let next = self.sharing.len() as u32;
                let id = *self.link_ids.entry((shape, input, selector, linked)).or_insert(next);
                if id == next {
                    self.sharing.push(Vec::new());
                }
                let sharing = &mut self.sharing[id as usize];
                if sharing.last() != Some(&class) {
                    sharing.push(class);
                }
                classes += sharing.len();
                ids.push(id);
            }
            if classes < fewest {
                (narrowest, fewest) = (ids, classes);
            }
        }
        self.links[class as usize] = links;
        Ok(narrowest)
    }

    /// Looks for a class that is the same step among those that share one of these links.
    fn find_equal(&mut self, class: NodeId, links: &[u32], work: &mut Work) -> Result<Option<NodeId>, Refused> {
        for &link in links {
            let mut sharing = std::mem::take(&mut self.sharing[link as usize]);
            let mut equal = None;
            if sharing.len() > 1 {
                work.spend(sharing.len())?;
                sharing.iter_mut().for_each(|other| *other = self.find(*other));
                sharing.sort_unstable();
                sharing.dedup();
                for &other in sharing.iter().filter(|&&other| other != class) {
                    if self.overlap(class, other, work)? {
                        equal = Some(other);
                        break;
                    }
                }
            }
            self.sharing[link as usize] = sharing;
            if equal.is_some() {
                return Ok(equal);
            }
        }
        Ok(None)
    }

    /// Whether the classes have a link of every input in common.
    fn overlap(&self, a: NodeId, b: NodeId, work: &mut Work) -> Result<bool, Refused> {
        for (a, b) in self.links[a as usize].iter().zip(&self.links[b as usize]) {
            let (few, many) = if a.len() < b.len() { (a, b) } else { (b, a) };
            work.spend(few.len())?;
            if !few.iter().any(|link| many.binary_search(link).is_ok()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn link_count(&self, class: NodeId) -> usize {
        self.links[class as usize].iter().map(Vec::len).sum()
    }

    /// Makes one class of two and returns its representative.
    fn unite(&mut self, a: NodeId, b: NodeId, work: &mut Work) -> Result<NodeId, Refused> {
        let size = |class: NodeId| self.users[class as usize].len() + self.link_count(class);
        let (small, large) = if size(a) < size(b) { (a, b) } else { (b, a) };
        self.parent[small as usize] = large;

        let links = std::mem::take(&mut self.links[small as usize]);
        for (known, new) in self.links[large as usize].iter_mut().zip(links) {
            let before = known.len();
            known.extend(
                new.into_iter().filter(|link| known[..before].binary_search(link).is_err()).collect::<Vec<_>>(),
            );
            if known.len() > before {
                work.spend(known.len())?;
                known.sort_unstable();
            }
        }
        let users = std::mem::take(&mut self.users[small as usize]);
        work.spend(users.len())?;
        for &user in &users {
            let user = self.find(user);
            self.enqueue(user);
        }
        self.users[large as usize].extend(users);
        Ok(large)
    }

    /// Numbers the classes by their first node.
    fn finish(mut self) -> Classes {
        let len = self.parent.len();
        let mut number = vec![None; len];
        let mut classes = Classes { of: Vec::with_capacity(len), members: Vec::new() };
        for node in 0..len as NodeId {
            let representative = self.find(node) as usize;
            let class = *number[representative].get_or_insert_with(|| {
                classes.members.push(Vec::new());
                classes.members.len() as ClassId - 1
            });
            classes.of.push(class);
            classes.members[class as usize].push(node);
        }
        classes
    }
}
