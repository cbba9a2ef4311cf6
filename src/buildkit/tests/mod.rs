//! Tests of the format and the view. Beside the cases: [`generate`] generates pushes, [`importer`] models BuildKit, and
//! [`model`] says which answers of a view are allowed.

mod generate;
mod importer;
mod model;

mod family;
mod fixtures;
mod format;
mod hostile;
mod oracle;
mod properties;
mod size;

use generate::Source;

use super::trim::Limits;
use super::view::{BOUNDS, Bounds, view};
use super::*;

/// Limits that no test reaches.
const UNLIMITED: Limits = Limits { config_bytes: usize::MAX, manifest_bytes: usize::MAX, layers: usize::MAX };

fn read(manifest: &[u8], config: &[u8]) -> Push {
    Push::new(CacheManifest::detect(manifest).unwrap().expect("a cache manifest"), config)
}

fn read_all<'a>(sources: impl IntoIterator<Item = &'a Source>) -> Vec<Push> {
    sources.into_iter().map(|source| read(&source.manifest, &source.config)).collect()
}

/// The view of pushes whose layers all exist, without limits; always written, even if it would be a push unchanged.
fn union(pushes: &[Push]) -> (Push, Explanation) {
    let (merged, explanation) = merge(pushes, &|_| true, &UNLIMITED);
    (read(&merged.manifest, &merged.config), explanation)
}

fn merge(pushes: &[Push], present: &dyn Fn(&crate::digest::Digest) -> bool, limits: &Limits) -> (Merged, Explanation) {
    // An empty push keeps a single one from being served as it is.
    let nothing = read(
        br#"{"config":{"mediaType":"application/vnd.buildkit.cacheconfig.v0","size":2,
            "digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}}"#,
        b"{}",
    );
    let pushes: Vec<Push> = std::iter::once(nothing).chain(pushes.iter().cloned()).collect();
    let view = view(&pushes, present, &Bounds { limits: *limits, ..BOUNDS }).unwrap();
    match view.outcome {
        ViewOutcome::Merged(merged) => (merged, view.explanation),
        ViewOutcome::Unchanged(push) => panic!("push {push} unchanged"),
    }
}
