//! The classes of records that are the same step: a congruence closure over the records of all pushes.
//!
//! A record has no identity of its own, as its links are alternatives of which two exporters may know different ones.
//! BuildKit takes two records for one step if they have the same digest, the same number of inputs, and for every input
//! at least one link in common: same selector, same linked step (`chains.go`, `Add`). Roots are the same if their
//! digests are. Whether two records have a link in common depends on which steps are the same, so the rule is applied
//! until nothing changes.
//!
//! A class has the links of all its members. It is found again by its links: a map leads from (digest, number of
//! inputs, input, selector, linked class) to the classes with that link. When two classes become one, only the users of
//! the smaller one have new links to look up.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use super::error::NoView;
use super::graph::{Graph, NodeId, Symbol};
use super::view::Work;

/// A class: an index into [`Classes::members`].
pub type ClassId = u32;

pub struct Classes {
    /// The class of each node.
    pub of: Vec<ClassId>,
    members: Groups,
}

impl Classes {
    pub fn of(graph: &Graph, work: &mut Work) -> Result<Classes, NoView> {
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

    pub fn len(&self) -> usize {
        self.members.starts.len() - 1
    }

    /// The nodes of a class, in order. Classes are in order of their first node.
    pub fn members(&self, class: ClassId) -> &[NodeId] {
        &self.members.items[self.members.range(class)]
    }
}

/// Numbers in groups, in one allocation.
struct Groups {
    /// The items of all groups, one group after the other.
    items: Vec<u32>,
    /// The start of each group, and the end of the last.
    starts: Vec<u32>,
}

impl Groups {
    /// Groups items, given with the number of their group, and keeps their order.
    fn new(groups: usize, items: impl Iterator<Item = (u32, u32)> + Clone) -> Groups {
        let mut starts = vec![0; groups + 1];
        items.clone().for_each(|(group, _)| starts[group as usize + 1] += 1);
        (0..groups).for_each(|group| starts[group + 1] += starts[group]);
        let mut free = starts.clone();
        let mut grouped = vec![0; starts[groups] as usize];
        for (group, item) in items {
            grouped[free[group as usize] as usize] = item;
            free[group as usize] += 1;
        }
        Groups { items: grouped, starts }
    }

    fn range(&self, group: u32) -> Range<usize> {
        self.starts[group as usize] as usize..self.starts[group as usize + 1] as usize
    }
}

/// A link of a class: the input, and the linked class by its representative.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ClassLink {
    input: u32,
    selector: Symbol,
    class: NodeId,
}

impl ClassLink {
    /// A number for the link of a step with this digest: it costs a quarter of hashing the four numbers.
    fn key(self, digest: Symbol) -> u128 {
        [digest, self.input, self.selector, self.class].into_iter().fold(0, |key, part| key << 32 | u128::from(part))
    }
}

struct Closure<'g, 'a> {
    graph: &'g Graph<'a>,
    /// Union-find: a representative is its own parent.
    parent: Vec<NodeId>,
    /// The next node of the same class, in a ring.
    next: Vec<NodeId>,
    /// The links of each representative's class, sorted. They may name classes that have since become part of others;
    /// the class is then queued.
    links: Vec<Vec<ClassLink>>,
    /// For each node the nodes that link to it, and for each representative the number of links to its class.
    users: Groups,
    users_of_class: Vec<usize>,
    /// The number of each link that some class with a digest has; `sharing` has its classes, some of them by former
    /// representatives.
    link_ids: HashMap<u128, u32>,
    sharing: Vec<Vec<NodeId>>,
    queue: VecDeque<NodeId>,
    queued: Vec<bool>,
}

impl<'g, 'a> Closure<'g, 'a> {
    fn new(graph: &'g Graph<'a>) -> Self {
        let len = graph.nodes.len();
        let nodes = 0..len as NodeId;
        let user_of = |user| graph.links_of(user).iter().map(move |link| (link.node, user));
        let users = Groups::new(len, nodes.clone().flat_map(user_of));
        let links = |node| {
            let inputs = (0..).zip(graph.inputs(node));
            let links = inputs.flat_map(|(input, links)| {
                links.iter().map(move |link| ClassLink { input, selector: link.selector, class: link.node })
            });
            links.collect()
        };
        Closure {
            graph,
            parent: nodes.clone().collect(),
            next: nodes.clone().collect(),
            links: nodes.clone().map(links).collect(),
            users_of_class: nodes.map(|node| users.range(node).len()).collect(),
            users,
            link_ids: HashMap::with_capacity(graph.links().len()),
            sharing: Vec::with_capacity(graph.links().len()),
            queue: VecDeque::with_capacity(len),
            queued: vec![false; len],
        }
    }

    fn unite_roots(&mut self) {
        let mut first = vec![None; self.graph.texts.len()];
        for node in 0..self.parent.len() as NodeId {
            if self.graph.arity(node) == 0 {
                let root = *first[self.digest(node) as usize].get_or_insert(node);
                if root != node {
                    self.join(node, root);
                }
            }
        }
    }

    fn digest(&self, node: NodeId) -> Symbol {
        self.graph.nodes[node as usize].digest
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

    /// Updates the links of a class and unites it with every class that has a link of each input in common with it.
    fn settle(&mut self, mut class: NodeId, work: &mut Work) -> Result<(), NoView> {
        loop {
            let narrowest = self.refresh(class, work)?;
            let Some(other) = self.find_equal(class, &narrowest, work)? else { return Ok(()) };
            let known = self.links[other as usize].len();
            class = self.unite(class, other, work)?;
            // Usually the other class has been settled and has all the links: then all of its equals have been found.
            if self.links[class as usize].len() == known && class == other && !self.queued[class as usize] {
                return Ok(());
            }
        }
    }

    /// Updates the links of a class. Returns those of the input that shares links with the fewest classes.
    fn refresh(&mut self, class: NodeId, work: &mut Work) -> Result<Vec<u32>, NoView> {
        let digest = self.digest(class);
        let mut links = std::mem::take(&mut self.links[class as usize]);
        work.spend(links.len())?;
        links.iter_mut().for_each(|link| link.class = self.find(link.class));
        links.sort_unstable();
        links.dedup();
        let (mut narrowest, mut fewest) = (Vec::new(), usize::MAX);
        for links in links.chunk_by(|a, b| a.input == b.input) {
            let mut ids = Vec::with_capacity(links.len());
            let mut classes = 0;
            for &link in links {
                let next = self.sharing.len() as u32;
                let id = *self.link_ids.entry(link.key(digest)).or_insert(next);
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

    /// Finds a class that is the same step among those that share one of these links.
    fn find_equal(&mut self, class: NodeId, links: &[u32], work: &mut Work) -> Result<Option<NodeId>, NoView> {
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

    /// Whether two classes of one digest, and so of one number of inputs, have a link of every input in common.
    fn overlap(&self, a: NodeId, b: NodeId, work: &mut Work) -> Result<bool, NoView> {
        let (a, b) = (&self.links[a as usize], &self.links[b as usize]);
        let (few, many) = if a.len() < b.len() { (a, b) } else { (b, a) };
        let mut input = 0;
        for link in few {
            if link.input > input {
                return Ok(false);
            }
            work.spend(1)?;
            if link.input == input && many.binary_search(link).is_ok() {
                input += 1;
            }
        }
        Ok(few.last().is_some_and(|last| input > last.input))
    }

    /// Makes one class of two and returns its representative.
    fn unite(&mut self, a: NodeId, b: NodeId, work: &mut Work) -> Result<NodeId, NoView> {
        let size = |class: NodeId| self.users_of_class[class as usize] + self.links[class as usize].len();
        let (small, large) = if size(a) < size(b) { (a, b) } else { (b, a) };

        let mut new = std::mem::take(&mut self.links[small as usize]);
        let known = &mut self.links[large as usize];
        new.retain(|link| known.binary_search(link).is_err());
        if !new.is_empty() {
            known.append(&mut new);
            work.spend(known.len())?;
            known.sort_unstable();
        }

        let mut member = small;
        loop {
            let users = self.users.range(member);
            work.spend(1 + users.len())?;
            for at in users {
                let user = self.find(self.users.items[at]);
                self.enqueue(user);
            }
            member = self.next[member as usize];
            if member == small {
                break;
            }
        }
        self.join(small, large);
        Ok(large)
    }

    /// Appends the nodes of one class to another.
    fn join(&mut self, small: NodeId, large: NodeId) {
        self.parent[small as usize] = large;
        self.next.swap(small as usize, large as usize);
        self.users_of_class[large as usize] += self.users_of_class[small as usize];
    }

    /// Numbers the classes by their first node.
    fn finish(mut self) -> Classes {
        let len = self.parent.len();
        let mut number = vec![None; len];
        let mut classes = 0;
        let mut of = Vec::with_capacity(len);
        for node in 0..len as NodeId {
            let representative = self.find(node) as usize;
            of.push(*number[representative].get_or_insert_with(|| {
                classes += 1;
                classes - 1
            }));
        }
        let members = Groups::new(classes as usize, of.iter().copied().zip(0..));
        Classes { of, members }
    }
}
