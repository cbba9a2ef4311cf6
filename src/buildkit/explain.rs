//! Explanation of a view: its pushes and records, and those that it leaves out. For logs, metrics and `inspect`.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The contents of a view, and its omissions. Indices of pushes are those of the list from which the view was made,
/// oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Explanation {
    pub pushes_in: usize,
    /// Pushes in the view: those given, less the invalid and the trimmed.
    pub pushes_out: usize,
    pub invalid_pushes: Vec<InvalidPush>,
    /// Pushes left out whole, the oldest: the view is full without them, or they are too much to unite.
    pub trimmed_pushes: Vec<usize>,

    /// Records of all pushes that were united.
    pub records_in: usize,
    /// Records of the view, without the sink.
    pub records_out: usize,
    /// `random:` keys and sinks of earlier views.
    pub ephemeral_records: usize,
    /// Records to which only such records led.
    pub unlinked_records: usize,
    /// Records whose digest a newer record has with another number of inputs.
    pub ambiguous_records: usize,
    /// Records that no record of the view represents, because a loop or a bounded split took their links.
    pub uncovered_records: usize,
    /// Records left out to stay under the limits.
    pub trimmed_records: usize,
    /// Sets of records that are one step.
    pub classes: usize,
    /// Classes that are several records, because no push vouches for all combinations of their links.
    pub splits: usize,
    /// Of the splits, those cut more coarsely than they could be.
    pub bounded_splits: usize,
    /// Of the splits, those whose vouchers all have the same results.
    pub uniform_splits: usize,
    /// Links left out because they would have closed a loop.
    pub loop_links: usize,
    /// Records of the view to which no other links. If there are several, a sink is above them.
    pub leaves: usize,

    pub results_in: usize,
    pub results_out: usize,
    /// Results dropped because one of their layers is missing, has no diff ID, or is not in their manifest.
    pub broken_results: usize,
    /// Results left out to stay under the limits.
    pub trimmed_results: usize,

    /// Distinct layer blobs of the united pushes.
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
