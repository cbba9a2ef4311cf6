//! What a view was made of, and what it leaves out: for logs, metrics and `inspect`.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Indices of pushes are those of the list that the view was made from, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Explanation {
    pub pushes_in: usize,
    /// Pushes that the view speaks for: those given, less the invalid and the trimmed.
    pub pushes_out: usize,
    pub invalid_pushes: Vec<InvalidPush>,
    /// Pushes left out whole, the oldest: of no use to a view that is full, or too much to unite.
    pub trimmed_pushes: Vec<usize>,

    /// Records of all pushes that were united.
    pub records_in: usize,
    /// Records of the view, without the sink.
    pub records_out: usize,
    /// `random:` keys and sinks of earlier views.
    pub ephemeral_records: usize,
    /// Records that only such records led to.
    pub unlinked_records: usize,
    /// Records whose digest a newer one has with another number of inputs.
    pub ambiguous_records: usize,
    /// Records that no record of the view stands for, since a loop or a bounded split took their links.
    pub uncovered_records: usize,
    /// Records left out to stay under the limits.
    pub trimmed_records: usize,
    /// Sets of records that are one step.
    pub classes: usize,
    /// Classes that are several records, since nobody vouches for all combinations of their links.
    pub splits: usize,
    /// Of the splits, those cut more coarsely than they could be.
    pub bounded_splits: usize,
    /// Of the splits, those whose results are the same for all that vouch for some.
    pub uniform_splits: usize,
    /// Links left out because they would have closed a loop.
    pub loop_links: usize,
    /// Records of the view that no other links to. More than one have a sink above them.
    pub leaves: usize,

    pub results_in: usize,
    pub results_out: usize,
    /// Results dropped since one of their layers is missing, has no diff ID, or is not in their manifest.
    pub broken_results: usize,
    /// Results left out to stay under the limits.
    pub trimmed_results: usize,

    /// Distinct layer blobs that the united pushes name.
    pub layers_in: usize,
    pub layers_out: usize,
    /// Layers that are not in the store.
    pub missing_layers: Vec<Digest>,
    /// Layers without the annotation that BuildKit needs to load them.
    pub layers_without_diff_id: usize,

    pub manifest_bytes: usize,
    pub config_bytes: usize,
}

/// A push that BuildKit could not have imported either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvalidPush {
    pub push: usize,
    pub reason: String,
}
