//! Whether a cache was exported without `mode=max`, as far as the cache itself tells.

use std::collections::HashSet;

use super::SINK;
use super::config::{CacheConfig, Record, Stack};

/// Whether a push was exported without `mode=max`, so that a later build finds no results of its intermediate stages.
///
/// BuildKit writes a record for each step in either mode, and in `mode=min` results for the steps of the final image
/// alone. So some step has no result, and every chain of layers that nothing builds upon is one of a final image. In
/// doubt the answer is no: a builder that had lost a result in between exports a step without one in `mode=max`, too, but
/// then a step above it has layers below its own.
///
/// Inline caches know no modes.
pub fn lacks_intermediate_results(config: &CacheConfig) -> bool {
    let is_step = |record: &&Record| !record.inputs.is_empty() && &*record.digest != SINK;
    if !config.records.iter().filter(is_step).any(|record| record.results.is_empty()) {
        return false;
    }
    let tops = |record: &Record| -> Option<Vec<u32>> {
        let top = |stack: &Stack| match stack {
            Stack::Top(top) => Some(*top),
            Stack::Listed(_) => None,
        };
        record.results.iter().map(|result| top(&result.stack)).collect()
    };
    let Some(tops) = config.records.iter().map(tops).collect::<Option<Vec<Vec<u32>>>>() else { return false };
    if tops.iter().all(Vec::is_empty) {
        return false;
    }
    let parent = |layer: u32| config.layers.get(layer as usize).and_then(|layer| layer.parent);
    // Layers that a result has below its topmost one.
    let mut below = HashSet::new();
    for top in tops.iter().flatten() {
        let mut next = parent(*top);
        // What is below a layer that was seen before was seen, too.
        while let Some(layer) = next.filter(|layer| below.insert(*layer)) {
            next = parent(layer);
        }
    }
    let leaves = config.leaves();
    config.records.iter().zip(&tops).enumerate().all(|(at, (record, tops))| {
        let ends = tops.iter().any(|top| !below.contains(top));
        (!ends || leaves[at]) && tops.iter().all(|top| parent(*top).is_none() || has_what_it_builds_on(config, record))
    })
}

/// Whether what a record builds upon, its first input, has a result or is a source, as far as one of its links tells.
fn has_what_it_builds_on(config: &CacheConfig, record: &Record) -> bool {
    let Some(links) = record.inputs.first() else { return true };
    links.iter().any(|link| {
        config.records.get(link.record as usize).is_some_and(|from| from.inputs.is_empty() || !from.results.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> CacheConfig {
        let path = format!("{}/tests/fixtures/modes/{name}.json", env!("CARGO_MANIFEST_DIR"));
        CacheConfig::parse(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn a_cache_of_buildkit_tells_whether_intermediate_stages_are_in_it() {
        for name in ["multi", "scratch", "diamond"] {
            assert!(lacks_intermediate_results(&fixture(&format!("{name}-min"))), "{name}");
            assert!(!lacks_intermediate_results(&fixture(&format!("{name}-max"))), "{name}");
        }
        // One stage is the same in both modes.
        for name in ["chain-min", "chain-max", "single-min", "single-max"] {
            assert!(!lacks_intermediate_results(&fixture(name)), "{name}");
        }
    }

    #[test]
    fn a_result_that_was_lost_in_between_says_nothing_of_the_mode() {
        for name in ["multi-max", "scratch-max", "diamond-max", "chain-max", "single-max"] {
            let whole = fixture(name);
            let leaves = whole.leaves();
            for at in (0..whole.records.len()).filter(|at| !leaves[*at]) {
                let mut config = whole.clone();
                config.records[at].results.clear();
                // Where it was the only result of a stage, nothing tells the two apart.
                let is_stage = config.records.iter().all(|record| {
                    record.inputs.first().is_none_or(|links| links.iter().all(|link| link.record as usize != at))
                });
                assert!(is_stage || !lacks_intermediate_results(&config), "{name} without the results of {at}");
            }
        }
        assert!(!lacks_intermediate_results(&CacheConfig::parse(b"{}").unwrap()));
    }
}
