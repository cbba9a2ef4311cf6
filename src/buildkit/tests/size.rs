//! Views stay below BuildKit's import limit, and drop the least useful parts first.

use proptest::prelude::*;

use super::generate::{Builder, Links, Random, World, builds, digest};
use super::importer::{Imported, import};
use super::*;

#[derive(Clone, Copy, PartialEq)]
enum On {
    Parent,
    Scratch,
}

/// A build of `targets` chains of `steps` on one base. Each step has a result, the later the newer: one layer on top of
/// its parent's, or on `scratch`.
fn wide(name: &str, targets: usize, steps: usize, on: On) -> Source {
    let mut builder = Builder::default();
    let base = builder.root(&digest(&[&"base"]));
    for target in 0..targets {
        let (mut record, mut layer) = (base, -1);
        for step in 0..steps {
            let diff_id = digest(&[&name, &target, &step]);
            layer = builder.layer(&diff_id, &diff_id, if on == On::Parent { layer } else { -1 });
            let created_at = format!("2026-01-01T{:02}:{:02}:{:02}Z", step / 60 % 24, step % 60, target % 60);
            let op = digest(&[&"op", &name, &target, &step]);
            record = builder.record(&op, &[vec![(String::new(), record)]], Some((layer, created_at)));
        }
    }
    builder.finish(&mut Random(1), || false)
}

fn results(imported: &Imported) -> usize {
    imported.items.iter().filter(|item| item.content.is_some()).count()
}

/// The leaves below the sink that have a result.
fn leaf_results(imported: &Imported) -> usize {
    let sink = imported.items.iter().rfind(|item| item.digest == SINK);
    let leaves = sink.into_iter().flat_map(|sink| sink.inputs.iter().flatten());
    leaves.filter(|(_, leaf)| imported.items[*leaf].content.is_some()).count()
}

#[test]
fn whole_old_pushes_go_first() {
    let sources: Vec<Source> = (0..6).map(|push| wide(&format!("push {push}"), 100, 7, On::Parent)).collect();
    let (merged, explanation) = merge(&read_all(&sources), &|_| true, &BOUNDS.limits);
    // The first is the empty push that `merge` adds.
    assert!(!explanation.trimmed_pushes.is_empty());
    assert_eq!(explanation.trimmed_pushes, (0..explanation.trimmed_pushes.len()).collect::<Vec<_>>());
    assert_eq!(explanation.pushes_out, 7 - explanation.trimmed_pushes.len());
    let kept = 6 - (explanation.trimmed_pushes.len() - 1);
    assert_eq!((explanation.records_out, explanation.results_out), (1 + kept * 700, kept * 700));
    assert_eq!(results(&import(&read(&merged.manifest, &merged.config)).unwrap()), kept * 700);
    assert!(merged.manifest.len() > TARGET_BYTES * 2 / 3, "more was dropped than had to be");
}

#[test]
fn of_a_push_that_is_too_large_the_results_of_leaves_stay() {
    let source = wide("one", 400, 10, On::Scratch);
    let push = read(&source.manifest, &source.config);
    let view = view(&[push], &|_| true, &BOUNDS).unwrap();
    let ViewOutcome::Merged(merged) = view.outcome else { panic!("BuildKit would not import it") };
    let imported = import(&read(&merged.manifest, &merged.config)).unwrap();
    assert_eq!(leaf_results(&imported), 400);
    assert_eq!(view.explanation.records_out, 4_001);
    assert_eq!(view.explanation.results_out + view.explanation.trimmed_results, 4_000);
    assert!(view.explanation.config_bytes <= TARGET_BYTES && view.explanation.manifest_bytes <= TARGET_BYTES);
}

#[test]
fn where_the_keys_alone_are_too_many_whole_chains_stay() {
    let source = wide("one", 1_000, 10, On::Parent);
    let (merged, explanation) = merge(&read_all(&[source]), &|_| true, &BOUNDS.limits);
    let imported = import(&read(&merged.manifest, &merged.config)).unwrap();
    assert!(explanation.records_out > 1_500 && explanation.records_out < 4_000, "{}", explanation.records_out);
    // All except the base, and at most one chain is cut.
    assert_eq!(results(&imported), explanation.records_out - 1);
    let whole = imported.items.iter().filter(|item| item.content.as_ref().is_some_and(|content| content.len() == 10));
    assert!(leaf_results(&imported) - whole.count() <= 1);
}

#[test]
fn a_manifest_has_no_more_layers_than_fit() {
    let limits = Limits { layers: 25, ..UNLIMITED };
    let source = wide("one", 10, 5, On::Parent);
    let (merged, explanation) = merge(&read_all(&[source]), &|_| true, &limits);
    assert_eq!(explanation.layers_out, 25);
    assert!(import(&read(&merged.manifest, &merged.config)).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn limits_hold_and_no_index_dangles(seed: u64, share in 1usize..100, dimension in 0..3) {
        let world = World { steps: 20, varying_percent: 20, edited_percent: 40, built_percent: 90, links: Links::Any };
        let pushes = read_all(&builds(seed, 1 + seed as usize % 5, world));
        let (all, all_explained) = merge(&pushes, &|_| true, &UNLIMITED);
        let mut limits = UNLIMITED;
        match dimension {
            0 => limits.config_bytes = (all.config.len() * share / 100).max(200),
            1 => limits.manifest_bytes = (all.manifest.len() * share / 100).max(400),
            _ => limits.layers = all_explained.layers_out * share / 100,
        }
        let (merged, explanation) = merge(&pushes, &|_| true, &limits);
        prop_assert!(merged.config.len() <= limits.config_bytes);
        prop_assert!(merged.manifest.len() <= limits.manifest_bytes);
        prop_assert!(explanation.layers_out <= limits.layers);
        // Parsing finds links that dangle or loop, importing finds empty inputs.
        let view = read(&merged.manifest, &merged.config);
        let imported = import(&view);
        prop_assert!(imported.is_ok_and(|imported| imported.united == 0));
        prop_assert_eq!(
            explanation.records_out + explanation.trimmed_records,
            all_explained.records_out + all_explained.trimmed_records
        );
        // All remaining records are useful: a leaf without a result is kept only if nothing had to be dropped.
        let config = view.config.unwrap();
        let leaves = config.leaves().into_iter().zip(&config.records).filter(|(leaf, _)| *leaf);
        let useless = leaves.filter(|(_, record)| record.results.is_empty());
        prop_assert!(useless.count() <= 1 || explanation.pushes_out > 1 || explanation.trimmed_records == 0);
    }

    #[test]
    fn sizes_are_estimated_closely(seed: u64) {
        let world = World { steps: 30, varying_percent: 20, edited_percent: 40, built_percent: 90, links: Links::Any };
        let pushes = read_all(&builds(seed, 4, world));
        let (all, _) = merge(&pushes, &|_| true, &UNLIMITED);
        let room = |bytes: usize| bytes + bytes / 10 + 250;
        let (config_bytes, manifest_bytes) = (room(all.config.len()), room(all.manifest.len()));
        let limits = Limits { config_bytes, manifest_bytes, ..UNLIMITED };
        prop_assert!(merge(&pushes, &|_| true, &limits).0 == all);
    }
}
