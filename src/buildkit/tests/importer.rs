//! A model of BuildKit's importer: how it reads a cacheconfig, and which records a build finds in it.
//!
//! After moby/buildkit `cache/remotecache/v1`: `parse.go` adds the records of a config one by one, parents first, and
//! `chains.go` unites an added record with the one that has a link of every input in common with it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::super::{DIFF_ID, Push, Stack};
use crate::digest::Digest;

/// An imported cache.
pub struct Imported {
    pub items: Vec<Item>,
    /// Number of records that the importer united with an earlier one.
    pub united: usize,
}

pub struct Item {
    pub digest: String,
    /// The links of each input: a selector and an item.
    pub inputs: Vec<BTreeSet<(String, usize)>>,
    /// Content of the newest result, as the diff IDs of its layers from the bottom.
    pub content: Option<Vec<String>>,
}

/// The diff IDs of a result, if the manifest has all its layers, `present` and loadable.
pub fn content(push: &Push, stack: &Stack, present: &dyn Fn(&Digest) -> bool) -> Option<Vec<String>> {
    let config = push.config.as_ref().unwrap();
    let mut diff_ids = Vec::new();
    let mut listed = match stack {
        Stack::Top(top) => vec![*top],
        Stack::Listed(listed) => listed.iter().rev().copied().collect(),
    };
    if matches!(stack, Stack::Top(_)) {
        while let Some(parent) = config.layers[listed[listed.len() - 1] as usize].parent {
            listed.push(parent);
        }
    }
    for layer in listed.into_iter().rev() {
        let blob = config.layers[layer as usize].blob?;
        let descriptor = push.manifest.layers.iter().rfind(|descriptor| descriptor.digest == blob && present(&blob))?;
        diff_ids.push(descriptor.annotations.get(DIFF_ID)?.clone());
    }
    (!diff_ids.is_empty()).then_some(diff_ids)
}

/// Imports a push, or returns the reason why BuildKit would refuse it.
pub fn import(push: &Push) -> Result<Imported, String> {
    let config = push.config.as_ref().map_err(ToString::to_string)?;
    let mut imported = Imported { items: Vec::new(), united: 0 };
    let mut roots = HashMap::new();
    let mut children: HashMap<(usize, usize, String, String), HashSet<usize>> = HashMap::new();
    let mut item_of: BTreeMap<usize, usize> = BTreeMap::new();
    for index in config.parents_first() {
        let record = &config.records[index];
        let digest = record.digest.to_string();
        let links = record.inputs.iter().map(|links| {
            links.iter().map(|link| (link.selector.to_string(), item_of[&(link.record as usize)])).collect()
        });
        let inputs: Vec<BTreeSet<(String, usize)>> = links.collect();
        let newest = record.results.iter().max_by_key(|result| result.created_at);
        let content = newest.and_then(|result| content(push, &result.stack, &|_| true));

        let mut equal: Option<HashSet<usize>> = None;
        for (input, links) in inputs.iter().enumerate() {
            let sharing = links.iter().flat_map(|(selector, parent)| {
                children.get(&(*parent, input, selector.clone(), digest.clone())).into_iter().flatten().copied()
            });
            let sharing: HashSet<usize> = sharing.collect();
            equal = Some(equal.map_or(sharing.clone(), |equal| &equal & &sharing));
        }
        let equal = match equal {
            None => roots.get(&digest).copied(),
            Some(equal) if equal.len() > 1 => return Err(format!("multiple matching dependencies for {digest}")),
            Some(equal) => equal.into_iter().next(),
        };
        imported.united += usize::from(equal.is_some());
        let item = equal.unwrap_or(imported.items.len());
        if equal.is_none() {
            let inputs = vec![BTreeSet::new(); inputs.len()];
            imported.items.push(Item { digest: digest.clone(), inputs, content: None });
        }
        imported.items[item].content = content.or(imported.items[item].content.take());
        for (input, links) in inputs.into_iter().enumerate() {
            for (selector, parent) in links {
                children.entry((parent, input, selector.clone(), digest.clone())).or_default().insert(item);
                imported.items[item].inputs[input].insert((selector, parent));
            }
        }
        if record.inputs.is_empty() {
            roots.insert(digest, item);
        }
        item_of.insert(index, item);
    }
    Ok(imported)
}

impl Imported {
    /// For each item, whether a build finds it whose steps and files have the digests that `has` accepts. Parents come
    /// first.
    pub fn matched(&self, has: &dyn Fn(&str) -> bool) -> Vec<bool> {
        let mut matched = vec![false; self.items.len()];
        for (index, item) in self.items.iter().enumerate() {
            let reached = item.inputs.iter().all(|links| links.iter().any(|(_, parent)| matched[*parent]));
            matched[index] = reached && has(&item.digest);
        }
        matched
    }
}
