//! Views of pushes recorded from real builds (`tests/fixtures/union`).

use super::*;
use crate::digest::Digest;

pub fn fixture(name: &str) -> Source {
    let file = |kind| {
        let path = format!("{}/tests/fixtures/union/{name}.{kind}.json", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).unwrap()
    };
    Source { manifest: file("mf"), config: file("cfg") }
}

fn pushes(names: &[&str]) -> Vec<Push> {
    names.iter().map(|name| fixture(name)).map(|source| read(&source.manifest, &source.config)).collect()
}

#[test]
fn two_targets_and_a_third_share_what_they_can() {
    let (view, explanation) = union(&pushes(&["server", "web", "art"]));
    assert_eq!((explanation.records_in, explanation.records_out), (39, 19));
    assert_eq!((explanation.splits, explanation.bounded_splits), (0, 0));
    assert_eq!(view.config.unwrap().layers.len(), 17);
}

#[test]
fn a_step_whose_outcome_varies_is_split_and_never_mixed_up() {
    let (_, explanation) = union(&pushes(&["A", "B"]));
    assert_eq!((explanation.records_in, explanation.records_out), (14, 13));
    assert_eq!((explanation.splits, explanation.bounded_splits), (2, 0));
}

#[test]
fn several_leaves_get_a_sink_and_one_leaf_does_not() {
    let is_sink = |push: &Push| push.config.as_ref().unwrap().records.last().unwrap().digest.as_ref() == SINK;
    let (view, explanation) = union(&pushes(&["t1", "t2", "t3"]));
    assert_eq!((explanation.records_in, explanation.records_out, explanation.leaves), (30, 24, 3));
    assert!(is_sink(&view));
    assert_eq!(view.config.as_ref().unwrap().leaves().iter().filter(|leaf| **leaf).count(), 1);
    let (view, explanation) = union(&pushes(&["t1"]));
    assert_eq!(explanation.leaves, 1);
    assert!(!is_sink(&view));
}

#[test]
fn a_single_push_is_served_as_it_is() {
    let push = pushes(&["t1"]);
    let view = super::view(&push, &|_| true, &BOUNDS).unwrap();
    assert_eq!(view.outcome, ViewOutcome::Unchanged(0));
    let gone = push[0].manifest.layers[3].digest;
    let view = super::view(&push, &|digest: &Digest| *digest != gone, &BOUNDS).unwrap();
    let ViewOutcome::Merged(merged) = view.outcome else { panic!("a missing layer is served") };
    assert!(!String::from_utf8(merged.manifest.to_vec()).unwrap().contains(&gone.to_string()));
    assert_eq!(view.explanation.missing_layers, [gone]);
}

#[test]
fn the_canonical_form_of_a_canonical_push_is_the_push() {
    for name in ["A", "B", "server", "web", "t1"] {
        let source = fixture(name);
        let (merged, _) = merge(&[read(&source.manifest, &source.config)], &|_| true, &UNLIMITED);
        let (ours, theirs): (serde_json::Value, serde_json::Value) =
            (serde_json::from_slice(&merged.config).unwrap(), serde_json::from_slice(&source.config).unwrap());
        assert_eq!(ours["records"].as_array().unwrap().len(), theirs["records"].as_array().unwrap().len());
        // BuildKit orders records of one digest by their links; Larder by all records that lead to them. No digest
        // occurs twice here.
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn layers_stand_on_each_other_whatever_the_order_of_their_digests() {
    for name in ["A", "server", "web"] {
        let push = &pushes(&[name])[0];
        let config = push.config.as_ref().unwrap();
        let depths = config.depths();
        for layer in &config.layers {
            let of = |layer: &Layer| depths[&layer.blob.unwrap()];
            let below = layer.parent.map(|parent| of(&config.layers[parent as usize]) + 1);
            assert_eq!(of(layer), below.unwrap_or(0), "{name}");
        }
        let by_digest = config.layers.iter().map(|layer| depths[&layer.blob.unwrap()]);
        assert!(!by_digest.is_sorted(), "{name} would not tell");
    }
    // Two of its blobs are in two places each: at 3 and 1, and at 0 and 6.
    let push = &pushes(&["art"])[0];
    let config = push.config.as_ref().unwrap();
    let depths = config.depths();
    let in_order: Vec<u32> = config.layers.iter().map(|layer| depths[&layer.blob.unwrap()]).collect();
    assert_eq!(in_order, [1, 1, 0, 7, 1, 5, 0, 0, 2, 4, 3]);
}

#[test]
fn a_blob_in_two_places_is_as_deep_as_the_lower_one() {
    let [a, b] = [b"a", b"b"].map(|bytes| Digest::sha256(bytes).to_string());
    let config = format!(
        r#"{{"layers":[{{"blob":"{a}","parent":-1}},{{"blob":"{b}","parent":0}},{{"blob":"{a}","parent":1}},{{"blob":"{b}"}}],
            "records":[{{"digest":"sha256:top","layers":[{{"layer":2}}]}}]}}"#
    );
    let depths = CacheConfig::parse(config.as_bytes()).unwrap().depths();
    assert_eq!([&a, &b].map(|blob| depths[&blob.parse().unwrap()]), [0, 1]);
    let listed = format!(
        r#"{{"layers":[{{"blob":"{b}"}},{{"blob":"{a}"}}],"records":[{{"digest":"sha256:top","chains":[{{"layers":[1,0]}}]}}]}}"#
    );
    assert_eq!(CacheConfig::parse(listed.as_bytes()).unwrap().depths(), depths);
}
