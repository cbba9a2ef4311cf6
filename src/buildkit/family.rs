//! Families of pushes: which pushes of a tag are the same, which belong to one target, and which expire when there are
//! too many.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::manifest::CacheManifest;
use super::push::Push;
use super::{DIFF_ID, SINK};
use crate::digest::Digest;

/// Maximum number of roots that a family remembers: those with the smallest digests, so that two pushes with equal
/// roots remember equal ones.
pub const FAMILY_ROOTS_MAX: usize = 64;

/// The properties that tell pushes of one build target from those of its siblings.
///
/// The digest of a record names the step and not its inputs, so a target whose sources change keeps its leaves. A
/// target whose last Dockerfile step changes still has most of its roots: base images and files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// Hash of the digests of all leaf records.
    pub leaves: Digest,
    /// Hashes of the digests of root records, at most [`FAMILY_ROOTS_MAX`].
    pub roots: BTreeSet<Digest>,
}

/// A live push of a tag, with the data that [`surplus`] needs.
#[derive(Clone, Debug)]
pub struct FamilyMember<Id, Order> {
    pub id: Id,
    /// Smaller is older.
    pub order: Order,
    pub family: Family,
}

impl CacheManifest {
    /// The identity of a push: a hash of the content of its manifest, without its form and the annotations on where
    /// layers were pulled from. A re-export of an imported cache has the identity of the import, though its manifest
    /// differs.
    pub fn identity(&self) -> Digest {
        let layer = |layer: &'_ super::Descriptor| {
            (layer.digest, layer.annotations.get(DIFF_ID).cloned(), layer.media_type.clone())
        };
        let layers: BTreeSet<_> = self.layers.iter().map(layer).collect();
        hash(&(self.config.digest, layers))
    }
}

impl Push {
    /// The identity of its manifest.
    pub fn identity(&self) -> Digest {
        self.manifest.identity()
    }

    /// The family of the push, or `None` if its config cannot be read.
    pub fn family(&self) -> Option<Family> {
        let config = self.config.as_ref().ok()?;
        let is_sink = |digest: &str| digest == SINK;
        let mut is_leaf = vec![true; config.records.len()];
        for record in config.records.iter().filter(|record| !is_sink(&record.digest)) {
            record.inputs.iter().flatten().for_each(|link| is_leaf[link.record as usize] = false);
        }
        let lasting = |digest: &str| !is_sink(digest) && !digest.starts_with("random:");
        let records = config.records.iter().zip(is_leaf).filter(|(record, _)| lasting(&record.digest));
        let (mut leaves, mut roots) = (BTreeSet::new(), BTreeSet::new());
        for (record, is_leaf) in records {
            if is_leaf {
                leaves.insert(&record.digest);
            }
            if record.inputs.is_empty() {
                roots.insert(Digest::sha256(record.digest.as_bytes()));
            }
        }
        Some(Family { leaves: hash(&leaves), roots: roots.into_iter().take(FAMILY_ROOTS_MAX).collect() })
    }
}

/// A hash of the JSON of a value, which is the same for the same value since sets are ordered.
fn hash(value: &impl Serialize) -> Digest {
    Digest::sha256(&serde_json::to_vec(value).expect("tuples and sets of texts have a JSON form"))
}

/// The pushes to expire so that at most `bound` stay, in order: each time the oldest of the largest family, so that one
/// busy target does not displace its siblings. The newest push stays whatever the bound.
///
/// Pushes with the same leaves are one family. Pushes whose leaves no other push has form families among themselves:
/// each, oldest first, joins the family whose newest push has the most roots in common with it, if that is more than
/// half of the roots of both. They never join pushes with equal leaves: siblings share roots, too.
pub fn surplus<Id: Clone, Order: Ord + Clone>(pushes: &[FamilyMember<Id, Order>], bound: usize) -> Vec<Id> {
    let mut by_age: Vec<&FamilyMember<Id, Order>> = pushes.iter().collect();
    by_age.sort_by(|a, b| a.order.cmp(&b.order));
    let mut families = families(&by_age);
    let newest = by_age.len().wrapping_sub(1);

    let mut expired = Vec::new();
    while by_age.len() - expired.len() > bound.max(1) {
        // Of the largest families, the one with the oldest push is chosen.
        let largest =
            families.iter_mut().max_by_key(|family| (family.len(), std::cmp::Reverse(family.first().copied())));
        let Some(family) = largest else { break };
        let oldest = family.iter().position(|&push| push != newest);
        let Some(oldest) = oldest else { break };
        expired.push(by_age[family.remove(oldest)].id.clone());
    }
    expired
}

/// Groups pushes, given oldest first, into families: indices in order of age.
fn families<Id, Order>(by_age: &[&FamilyMember<Id, Order>]) -> Vec<Vec<usize>> {
    let mut by_leaves: BTreeMap<Digest, Vec<usize>> = BTreeMap::new();
    for (index, push) in by_age.iter().enumerate() {
        by_leaves.entry(push.family.leaves).or_default().push(index);
    }
    let (alone, mut families): (Vec<_>, Vec<_>) = by_leaves.into_values().partition(|family| family.len() == 1);
    let mut alone: Vec<usize> = alone.into_iter().flatten().collect();
    alone.sort_unstable();

    let mut kin: Vec<Vec<usize>> = Vec::new();
    for index in alone {
        let roots = &by_age[index].family.roots;
        let shared = |family: &Vec<usize>| {
            let theirs = &by_age[*family.last()?].family.roots;
            let shared = roots.intersection(theirs).count();
            (shared * 2 > roots.len().max(theirs.len())).then_some(shared)
        };
        // `max_by_key` takes the last of equals; reversed, that is the oldest family.
        let closest = kin.iter_mut().rev().filter_map(|family| Some((shared(family)?, family)));
        match closest.max_by_key(|(shared, _)| *shared) {
            Some((_, family)) => family.push(index),
            None => kin.push(vec![index]),
        }
    }
    families.append(&mut kin);
    families
}
