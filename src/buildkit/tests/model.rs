//! The truth about several pushes, computed the slow and plain way: which records are one step, which results a build
//! may get, and the naive union that gives too many.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::super::{Push, SINK};
use super::importer::content;
use crate::digest::Digest;

pub struct Model {
    pub nodes: Vec<Node>,
    /// The class of each node.
    pub class: Vec<usize>,
}

pub struct Node {
    pub push: usize,
    pub digest: String,
    pub inputs: Vec<BTreeSet<(String, usize)>>,
    pub content: Option<Vec<String>>,
    layers: Vec<(String, String)>,
}

impl Model {
    pub fn of(pushes: &[Push], present: &dyn Fn(&Digest) -> bool) -> Model {
        let mut nodes: Vec<Node> = Vec::new();
        for (push_index, push) in pushes.iter().enumerate() {
            let config = push.config.as_ref().unwrap();
            let mut node_of: BTreeMap<usize, usize> = BTreeMap::new();
            for index in config.parents_first() {
                let record = &config.records[index];
                if record.digest.starts_with("random:") || &*record.digest == SINK {
                    continue;
                }
                let inputs = record.inputs.iter().map(|links| {
                    let links = links.iter().filter_map(|link| Some((link, *node_of.get(&(link.record as usize))?)));
                    links.map(|(link, node)| (link.selector.to_string(), node)).collect::<BTreeSet<_>>()
                });
                let inputs: Vec<_> = inputs.collect();
                if inputs.iter().any(BTreeSet::is_empty) {
                    continue;
                }
                let usable = record
                    .results
                    .iter()
                    .filter_map(|result| Some((result.created_at, content(push, &result.stack, present)?)));
                let content = usable.max().map(|(_, content)| content);
                let layers = content.iter().flatten().map(|diff_id| (diff_id.clone(), diff_id.clone())).collect();
                node_of.insert(index, nodes.len());
                nodes.push(Node { push: push_index, digest: record.digest.to_string(), inputs, content, layers });
            }
        }
        let class = classes(&nodes);
        Model { nodes, class }
    }

    /// For each class, whether all of its members have the same content.
    fn uniform(&self) -> BTreeMap<usize, bool> {
        let mut contents: BTreeMap<usize, BTreeSet<Option<&Vec<String>>>> = BTreeMap::new();
        for (node, class) in self.nodes.iter().zip(&self.class) {
            contents.entry(*class).or_default().insert(node.content.as_ref());
        }
        contents
            .into_iter()
            .map(|(class, contents)| (class, contents.len() == 1 && !contents.contains(&None)))
            .collect()
    }

    /// The results that a build with these digests may get, as pairs of a digest and a content: every result that it
    /// finds in one push alone, where a step found in one push is found in all that have the same content for it.
    pub fn truth(&self, has: &dyn Fn(&str) -> bool) -> BTreeSet<(&str, &Vec<String>)> {
        let uniform = self.uniform();
        let mut matched = vec![false; self.nodes.len()];
        loop {
            let mut classes = BTreeSet::new();
            let mut changed = false;
            for (index, node) in self.nodes.iter().enumerate() {
                let reached = node.inputs.iter().all(|links| links.iter().any(|(_, parent)| matched[*parent]));
                changed |= !matched[index] && reached && has(&node.digest);
                matched[index] |= reached && has(&node.digest);
                if matched[index] && uniform[&self.class[index]] {
                    classes.insert(self.class[index]);
                }
            }
            for (index, class) in self.class.iter().enumerate() {
                changed |= !matched[index] && classes.contains(class);
                matched[index] |= classes.contains(class);
            }
            if !changed {
                break;
            }
        }
        let matched = self.nodes.iter().zip(matched).filter(|(_, matched)| *matched);
        matched.filter_map(|(node, _)| Some((node.digest.as_str(), node.content.as_ref()?))).collect()
    }

    /// One record for each class, with all links and the newest result: [`super::super::union`] must not do this.
    pub fn naive_union(&self) -> Option<Push> {
        let classes: BTreeSet<usize> = self.class.iter().copied().collect();
        let place: BTreeMap<usize, usize> = classes.iter().enumerate().map(|(at, class)| (*class, at)).collect();
        let (mut layers, mut records) = (Vec::<Value>::new(), Vec::<Value>::new());
        let mut descriptors = BTreeMap::new();
        for class in &classes {
            let members = || self.nodes.iter().zip(&self.class).filter(|(_, of)| *of == class).map(|(node, _)| node);
            let mut inputs: Vec<BTreeSet<(String, usize)>> = vec![BTreeSet::new(); members().next()?.inputs.len()];
            for node in members() {
                for (all, links) in inputs.iter_mut().zip(&node.inputs) {
                    all.extend(links.iter().map(|(selector, node)| (selector.clone(), place[&self.class[*node]])));
                }
            }
            let link = |(selector, link): &(String, usize)| json!({"selector": selector, "link": link});
            let inputs: Vec<Vec<Value>> = inputs.iter().map(|links| links.iter().map(link).collect()).collect();
            let mut record = json!({"digest": members().next()?.digest, "inputs": inputs});
            if let Some(newest) = members().filter(|node| node.content.is_some()).max_by_key(|node| node.push) {
                let mut parent = -1;
                for (blob, diff_id) in &newest.layers {
                    layers.push(json!({"blob": blob, "parent": parent}));
                    parent = layers.len() as i64 - 1;
                    descriptors.insert(blob.clone(), diff_id.clone());
                }
                record["layers"] = json!([{"layer": parent, "createdAt": "2026-01-01T00:00:00Z"}]);
            }
            records.push(record);
        }
        let config = json!({"layers": layers, "records": records}).to_string();
        let descriptors = descriptors.iter().map(|(blob, diff_id)| {
            json!({"mediaType": "layer", "digest": blob, "size": 1, "annotations": {super::super::DIFF_ID: diff_id}})
        });
        let manifest = json!({
            "config": {"mediaType": super::super::CONFIG_MEDIA_TYPE, "digest": Digest::sha256(b""), "size": config.len()},
            "layers": descriptors.collect::<Vec<_>>(),
        });
        let push = super::read(manifest.to_string().as_bytes(), config.as_bytes());
        push.config.is_ok().then_some(push)
    }
}

/// Unites classes, two by two, until nothing changes.
fn classes(nodes: &[Node]) -> Vec<usize> {
    let mut class: Vec<usize> = (0..nodes.len()).collect();
    loop {
        let mut links: BTreeMap<usize, Vec<BTreeSet<(&str, usize)>>> = BTreeMap::new();
        for (index, node) in nodes.iter().enumerate() {
            let all = links.entry(class[index]).or_insert_with(|| vec![BTreeSet::new(); node.inputs.len()]);
            for (all, links) in all.iter_mut().zip(&node.inputs) {
                all.extend(links.iter().map(|(selector, node)| (selector.as_str(), class[*node])));
            }
        }
        let pairs = links.iter().flat_map(|a| links.iter().map(move |b| (a, b)));
        let equal = pairs.filter(|((a, a_links), (b, b_links))| {
            let same_step = a < b && nodes[**a].digest == nodes[**b].digest && a_links.len() == b_links.len();
            same_step && a_links.iter().zip(*b_links).all(|(a, b)| !a.is_disjoint(b))
        });
        let equal: Vec<(usize, usize)> = equal.map(|((a, _), (b, _))| (*a, *b)).collect();
        if equal.is_empty() {
            return class;
        }
        for (a, b) in equal {
            // Earlier unions may have moved them.
            let (keep, gone) = (class[a].min(class[b]), class[a].max(class[b]));
            class.iter_mut().filter(|class| **class == gone).for_each(|class| *class = keep);
        }
    }
}
