//! The view: the cache that a tag serves for its live pushes.

use std::borrow::Borrow;

use bytes::Bytes;

use super::classes::Classes;
use super::config::CacheConfig;
use super::error::NoView;
use super::explain::{Explanation, InvalidPush};
use super::graph::Graph;
use super::layers::{BlobState, Layers};
use super::manifest::CacheManifest;
use super::push::Push;
use super::trim::{Limits, trim};
use super::union::Union;
use super::write::write;
use super::{IMPORT_LIMIT_BYTES, TARGET_BYTES, VIEW_LAYERS_MAX};
use crate::digest::Digest;

/// Bounds on a view and on the work of making it.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Maximum number of records, links and layers of all united pushes together; the oldest pushes beyond are left
    /// out.
    pub nodes: usize,
    /// Maximum number of steps of uniting them: lookups and comparisons of links, a few nanoseconds each. Ordinary
    /// pushes take some ten for each of their links.
    pub work: usize,
    pub limits: Limits,
}

/// Bounds for 64 pushes of 1,600 records with three links and a layer each, of which a view holds some 3,500. To unite
/// as many takes a third of a second and 100 MiB.
pub const BOUNDS: Bounds = Bounds {
    nodes: 1 << 19,
    work: 100_000_000,
    limits: Limits { config_bytes: TARGET_BYTES, manifest_bytes: TARGET_BYTES, layers: VIEW_LAYERS_MAX },
};

#[derive(Clone, Debug, PartialEq)]
pub struct View {
    pub outcome: ViewOutcome,
    pub explanation: Explanation,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ViewOutcome {
    /// The view is the manifest of this push, byte for byte.
    Unchanged(usize),
    Merged(Merged),
}

/// A manifest, always in the OCI image form, and the blob that is its config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    pub manifest: Bytes,
    pub config: Bytes,
    pub config_digest: Digest,
}

/// A valid push and its place in the list.
type Valid<'a> = (usize, &'a CacheManifest, &'a CacheConfig);

/// Makes the view of `pushes`, oldest first. The store has those of their layers that are `present`.
///
/// The newest push decides: if several have a result for the same step reached in the same way, its result is served. A
/// push that cannot be read is left out and reported.
///
/// # Errors
///
/// When there is nothing to serve or the newest push is beyond all bounds. The caller then serves that push as it is.
pub fn view<P: Borrow<Push>>(pushes: &[P], present: &dyn Fn(&Digest) -> bool, bounds: &Bounds) -> Result<View, NoView> {
    let mut explanation = Explanation { pushes_in: pushes.len(), ..Explanation::default() };
    let mut valid = Vec::new();
    for (index, push) in pushes.iter().map(Borrow::borrow).enumerate() {
        match &push.config {
            Ok(config) => valid.push((index, &push.manifest, config)),
            Err(error) => {
                explanation.invalid_pushes.push(InvalidPush { push: index, reason: error.to_string() });
            }
        }
    }
    let valid = newest_within(bounds.nodes, valid, &mut explanation)?;
    explanation.pushes_out = valid.len();

    let mut layers = Layers::collect(valid.iter().map(|&(_, manifest, _)| manifest), present);
    explain_layers(&layers, &mut explanation);
    explanation.records_in = valid.iter().map(|(_, _, config)| config.records.len()).sum();
    let records = valid.iter().flat_map(|(_, _, config)| &config.records);
    explanation.results_in = records.map(|record| record.results.len()).sum();

    if let &[(index, manifest, config)] = &valid[..]
        && is_servable(manifest, config, &explanation)
    {
        explanation.records_out = explanation.records_in;
        explanation.results_out = explanation.results_in;
        explanation.layers_out = explanation.layers_in;
        explanation.manifest_bytes = manifest.bytes as usize;
        explanation.config_bytes = manifest.config.size as usize;
        return Ok(View { outcome: ViewOutcome::Unchanged(index), explanation });
    }

    let indices: Vec<usize> = valid.iter().map(|&(index, _, _)| index).collect();
    let pushes: Vec<_> = valid.into_iter().map(|(_, manifest, config)| (manifest, config)).collect();
    let graph = Graph::load(&pushes, &mut layers);
    let mut work = Work { left: bounds.work };
    let classes = Classes::of(&graph, &mut work)?;
    let union = Union::of(&graph, &classes, &mut work)?;
    let kept = trim(&graph, &layers, &union, &bounds.limits);
    let written = write(&graph, &layers, &union, &kept);
    let import_limit = IMPORT_LIMIT_BYTES as usize;
    if written.manifest.len() > import_limit || written.config.len() > import_limit {
        return Err(NoView::Oversize);
    }

    explanation.trimmed_pushes.extend(&indices[..kept.first_push as usize]);
    explanation.pushes_out -= kept.first_push as usize;
    explanation.records_out = written.records;
    explanation.ephemeral_records = graph.dropped.ephemeral_records;
    explanation.unlinked_records = graph.dropped.unlinked_records;
    explanation.ambiguous_records = graph.dropped.ambiguous_records;
    explanation.uncovered_records = union.uncovered_records;
    explanation.trimmed_records = union.records.len() - written.records;
    explanation.classes = classes.len();
    explanation.splits = union.splits;
    explanation.bounded_splits = union.bounded_splits;
    explanation.uniform_splits = union.uniform_splits;
    explanation.loop_links = union.loop_links;
    explanation.leaves = written.leaves;
    explanation.results_out = written.results;
    explanation.broken_results = graph.dropped.results;
    explanation.trimmed_results =
        union.records.iter().filter(|record| record.result.is_some()).count() - written.results;
    explanation.layers_out = written.layers;
    explanation.manifest_bytes = written.manifest.len();
    explanation.config_bytes = written.config.len();
    let merged = Merged { manifest: written.manifest, config: written.config, config_digest: written.config_digest };
    Ok(View { outcome: ViewOutcome::Merged(merged), explanation })
}

/// Leaves out the oldest pushes beyond `nodes_max` records, links and layers.
fn newest_within<'a>(
    nodes_max: usize,
    valid: Vec<Valid<'a>>,
    explanation: &mut Explanation,
) -> Result<Vec<Valid<'a>>, NoView> {
    let mut nodes = 0;
    let fits = |(_, manifest, config): &Valid| {
        let links = config.records.iter().flat_map(|record| &record.inputs).map(Vec::len).sum::<usize>();
        nodes += config.records.len() + links + config.layers.len() + manifest.layers.len();
        nodes <= nodes_max
    };
    let fitting = valid.iter().rev().map(fits).take_while(|fits| *fits).count();
    match (valid.is_empty(), fitting) {
        (true, _) => Err(NoView::NoValidPush),
        (false, 0) => Err(NoView::TooLarge),
        (false, _) => {
            let (old, new) = valid.split_at(valid.len() - fitting);
            explanation.trimmed_pushes = old.iter().map(|&(index, _, _)| index).collect();
            Ok(new.to_vec())
        }
    }
}

/// Whether a push that is alone can be served as it is: BuildKit imports it whole, and none of its content is missing.
fn is_servable(manifest: &CacheManifest, config: &CacheConfig, explanation: &Explanation) -> bool {
    let leaves = config.leaves().into_iter().filter(|leaf| *leaf).count();
    leaves <= 1
        && explanation.missing_layers.is_empty()
        && manifest.bytes <= IMPORT_LIMIT_BYTES
        && manifest.config.size <= IMPORT_LIMIT_BYTES
}

fn explain_layers(layers: &Layers, explanation: &mut Explanation) {
    explanation.layers_in = layers.blobs.len();
    for blob in &layers.blobs {
        match blob.state {
            BlobState::Usable(_) => {}
            BlobState::Missing => explanation.missing_layers.push(blob.descriptor.digest),
            BlobState::NoDiffId => explanation.layers_without_diff_id += 1,
        }
    }
}

/// The steps that a union may still take. Input made to be slow uses them up.
pub struct Work {
    left: usize,
}

impl Work {
    pub fn spend(&mut self, steps: usize) -> Result<(), NoView> {
        self.left = self.left.checked_sub(steps).ok_or(NoView::TooMuchWork)?;
        Ok(())
    }
}
