//! BuildKit's remote cache: its format, and the view that a cache tag serves.
//!
//! A client exports its cache as a *cache manifest*: a list of layer blobs and one cacheconfig, a JSON graph that says
//! which build step, reached in which way, produced which layers. A tag holds one manifest, so of several builds that
//! export to one tag the last would win. The tag serves a [`view()`] instead: one cache manifest that answers for all
//! of them, references no missing layer, and stays small enough for BuildKit to import.
//!
//! # Words
//!
//! - **record**: a build step as the cache knows it: a key digest and, for each input, the links that lead to it. Any
//!   one link of an input will do; every input needs one. A record without inputs is a *root*, one without links to it
//!   a *leaf*.
//! - **result**: the chain of layers that a record's step produced. A record without one is a mere key.
//! - **content link**: a link from the checksum of files, next to the *definition links* from the steps that made them.
//! - **class**: the records, of any push, that BuildKit itself would take for the same step.
//! - **sink**: a synthetic record above all leaves, against a bug of the importer ([`SINK`]).
//!
//! # From pushes to a view
//!
//! `graph` loads the records of all pushes, `layers` their layers; `classes` finds the records that are one step;
//! `union` emits each class, cut by `split` where its results differ; `trim` holds the size; `write` numbers what is
//! left.
//!
//! Invariant: nothing here does I/O, reads a clock, or recurses to a depth that input controls. The order in which a
//! hash map yields its entries never reaches the output.
//!
//! Source of the format: moby/buildkit, `cache/remotecache/v1` (`doc.go`, `spec.go`, `parse.go`, `chains.go`).

mod config;
mod error;
mod family;
mod inline;
mod json;
mod manifest;
mod mode;
mod push;

mod classes;
mod explain;
mod graph;
mod layers;
mod split;
mod trim;
mod union;
mod view;
mod write;

#[cfg(test)]
mod tests;

pub use config::{CONFIG_BYTES_MAX, CacheConfig, CreatedAt, Layer, Link, Record, Stack, StoredResult};
pub use error::{FormatError, NoView};
pub use explain::{Explanation, InvalidPush};
pub use family::{FAMILY_ROOTS_MAX, Family, FamilyMember, surplus};
pub use inline::{from_inline, to_inline};
pub use manifest::{CacheManifest, Descriptor, Form, MANIFEST_BYTES_MAX};
pub use mode::lacks_intermediate_results;
pub use push::Push;
pub use trim::Limits;
pub use view::{BOUNDS, Bounds, Merged, View, ViewOutcome, view};

/// The media type of a cacheconfig, which makes a manifest a cache manifest.
pub const CONFIG_MEDIA_TYPE: &str = crate::oci::CACHE_CONFIG;

/// The largest manifest and the largest cacheconfig that BuildKit imports, in bytes (`cache/remotecache/import.go`,
/// `readBlob`). Above it the whole cache is ignored, without failing the build.
pub const IMPORT_LIMIT_BYTES: u64 = 1 << 20;

/// Largest manifest and largest cacheconfig of a view, in bytes each: the import limit less a margin.
pub const TARGET_BYTES: usize = 900_000;

/// Maximum number of layers in the manifest of a view. At 350 to 400 bytes each, [`TARGET_BYTES`] has no space for
/// more.
pub const VIEW_LAYERS_MAX: usize = 2_400;

/// The digest of the sink, `sha256("union-sink-v0")`.
///
/// BuildKit's importer walks from the leaves, and before moby/buildkit#7053 it loses links to records which an earlier
/// leaf has reached already. A config with one leaf is immune, so a view with several gets one synthetic record above
/// them. No build step has its digest: clients neither match nor re-export it, and it is dropped when a push has it.
pub const SINK: &str = "sha256:afba09c1faa70bb41ded90434bd82d3ed1ad51756fd1a9477447cc948ead72b3";

/// Annotation of a layer: the digest of its uncompressed bytes. BuildKit cannot load a layer without it.
const DIFF_ID: &str = "containerd.io/uncompressed";
/// Annotation of a layer: its creation time, RFC 3339.
const CREATED_AT: &str = "buildkit/createdat";
/// Annotations that name the repositories a layer was pulled from. They come and go between exports of the same cache.
const DISTRIBUTION_SOURCE: &str = "containerd.io/distribution.source.";
