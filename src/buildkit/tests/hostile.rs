//! Inputs made to be slow, large or deep: an answer or a clean refusal, within the bounds on work.

use std::fmt::Write as _;

use super::generate::{Builder, Random, digest};
use super::importer::import;
use super::*;

/// A push without layers.
fn push(config: &str) -> Push {
    let manifest = format!(
        r#"{{"config":{{"mediaType":"{CONFIG_MEDIA_TYPE}","size":{},"digest":"{}"}}}}"#,
        config.len(),
        crate::digest::Digest::sha256(config.as_bytes())
    );
    read(manifest.as_bytes(), config.as_bytes())
}

/// A config of records given by their digest and inputs; a link is a record.
fn keys(records: impl IntoIterator<Item = (usize, Vec<Vec<usize>>)>) -> Push {
    let mut config = String::from(r#"{"records":["#);
    for (at, (digest, inputs)) in records.into_iter().enumerate() {
        let inputs = inputs.iter().map(|links| {
            let links = links.iter().map(|link| format!(r#"{{"link":{link}}}"#));
            format!("[{}]", links.collect::<Vec<_>>().join(","))
        });
        let inputs = inputs.collect::<Vec<_>>().join(",");
        write!(config, r#"{}{{"digest":"sha256:{digest:064x}","inputs":[{inputs}]}}"#, if at > 0 { "," } else { "" })
            .unwrap();
    }
    push(&(config + "]}"))
}

fn explain(pushes: &[Push]) -> Result<Explanation, NoView> {
    explain_within(pushes, &BOUNDS)
}

fn explain_within(pushes: &[Push], bounds: &Bounds) -> Result<Explanation, NoView> {
    view(pushes, &|_| true, bounds).map(|view| {
        if let ViewOutcome::Merged(merged) = &view.outcome {
            assert!(merged.config.len() <= TARGET_BYTES && merged.manifest.len() <= TARGET_BYTES);
            assert!(read(&merged.manifest, &merged.config).config.is_ok());
        }
        view.explanation
    })
}

/// The exact split has 2ⁿ⁺¹ records, and grows with the number of pushes.
#[test]
fn a_step_of_twenty_inputs_built_differently_by_eight_pushes() {
    let push = |at: usize| {
        let mut builder = Builder::default();
        let inputs: Vec<_> = (0..20)
            .map(|input| {
                let definition = builder.root(&digest(&[&"definition", &input]));
                vec![(String::new(), definition), (String::new(), builder.root(&digest(&[&input, &at])))]
            })
            .collect();
        let layer = builder.layer(&digest(&[&at]), &digest(&[&at]), -1);
        builder.record(&digest(&[&"step"]), &inputs, Some((layer, format!("2026-01-0{}T00:00:00Z", at + 1))));
        builder.finish(&mut Random(at as u64), || false)
    };
    let sources: Vec<Source> = (0..8).map(push).collect();
    let (view, explanation) = union(&read_all(&sources));
    assert_eq!((explanation.splits, explanation.bounded_splits), (1, 1));
    // One record for the common links of all and one for each push.
    assert_eq!(explanation.records_out, 20 + 8 * 20 + 9);
    let imported = import(&view).unwrap();
    let content_of = |files: &dyn Fn(usize) -> usize| {
        let files: Vec<String> = (0..20).map(|input| digest(&[&input, &files(input)])).collect();
        let matched = imported.matched(&|key| key == digest(&[&"step"]) || files.iter().any(|file| file == key));
        let found = imported.items.iter().zip(matched).filter(|(_, matched)| *matched);
        found.filter_map(|(item, _)| item.content.clone()).collect::<Vec<_>>()
    };
    for at in 0..8 {
        assert_eq!(content_of(&|_| at), [[digest(&[&at])]], "a build with the files of push {at}");
        assert!(content_of(&|input| (at + input) % 8).is_empty(), "files that nobody had together");
    }
}

#[test]
fn a_chain_of_a_hundred_thousand_records_and_layers() {
    let depth = 100_000;
    let chain = keys((0..depth).map(|at| (at, (at > 0).then(|| vec![at - 1]).into_iter().collect())));
    let explanation = explain(&[chain.clone(), chain]).unwrap();
    assert_eq!(explanation.classes, depth);
    // Keys alone are useless, and these do not fit.
    assert_eq!(explanation.trimmed_records, depth);

    let mut builder = Builder::default();
    let mut config = String::from(r#"{"layers":["#);
    for at in 0..depth {
        write!(config, r#"{{"blob":"{}","parent":{}}},"#, digest(&[&(at % 7)]), at as i64 - 1).unwrap();
        builder.root(&digest(&[&(at % 7)]));
    }
    config.pop();
    write!(config, r#"],"records":[{{"digest":"a","layers":[{{"layer":{}}}]}},{{"digest":"b"}}]}}"#, depth - 1)
        .unwrap();
    let mut deep = push(&config);
    for at in 0..7 {
        let source = wide_layer(at);
        deep.manifest.layers.extend(source.manifest.layers);
    }
    let explanation = explain(&[deep]).unwrap();
    assert_eq!((explanation.results_in, explanation.broken_results), (1, 0));
    assert_eq!((explanation.results_out, explanation.trimmed_results), (0, 1));
}

fn wide_layer(at: usize) -> Push {
    let mut builder = Builder::default();
    builder.layer(&digest(&[&at]), &digest(&[&"diff", &at]), -1);
    let source = builder.finish(&mut Random(0), || false);
    read(&source.manifest, &source.config)
}

#[test]
fn a_hundred_thousand_records_of_one_digest() {
    // Each shares either of its two links with 316 others, and both with none.
    let side = 316;
    let roots = (0..2 * side).map(|root| (root, Vec::new()));
    let grid = (0..side * side).map(|at| (9_999_999, vec![vec![at / side], vec![side + at % side]]));
    let explanation = explain(&[keys(roots.chain(grid))]).unwrap();
    assert_eq!(explanation.classes, 2 * side + side * side);
}

#[test]
fn links_that_all_records_share_run_out_of_work() {
    // Inputs of two links each: half of all records have any given link.
    let inputs = 12;
    let roots = (0..2 * inputs).map(|root| (root, Vec::new()));
    let cube =
        (0..1 << inputs).map(|at: usize| (9_999_999, (0..inputs).map(|i| vec![2 * i + (at >> i & 1)]).collect()));
    let bounds = Bounds { work: BOUNDS.work / 100, ..BOUNDS };
    assert_eq!(explain_within(&[keys(roots.chain(cube))], &bounds), Err(NoView::TooMuchWork));
}

#[test]
fn a_huge_fan_in_and_a_huge_fan_out() {
    let wide = 100_000;
    let roots = || (0..wide).map(|root| (root, Vec::new()));
    let fan_in = keys(roots().chain([(wide, vec![(0..wide).collect::<Vec<_>>()])]));
    let fan_out = keys([(0, Vec::new())].into_iter().chain((1..wide).map(|at| (at, vec![vec![0]]))));
    let explanation = explain(&[fan_in, fan_out]).unwrap();
    // As roots and as children of the first, and the record above all.
    assert_eq!(explanation.classes, wide + wide - 1 + 1);
}

#[test]
fn pushes_that_disagree_which_comes_first_make_no_loop() {
    // Both have x as a root; the first has a before b, the second b before a, and x leads to each of them.
    let first = keys([(0, vec![]), (1, vec![vec![0]]), (2, vec![vec![1, 0]])]);
    let second = keys([(0, vec![]), (2, vec![vec![0]]), (1, vec![vec![1, 0]])]);
    let (view, explanation) = union(&[first, second]);
    assert_eq!(explanation.loop_links, 1);
    assert!(import(&view).is_ok());
    assert_eq!(explanation.uncovered_records, 0);
}

#[test]
fn records_of_one_digest_and_another_number_of_inputs_are_kept_apart() {
    let two = keys([(0, vec![]), (1, vec![vec![0], vec![0]])]);
    let one = keys([(0, vec![]), (1, vec![vec![0]])]);
    for (pushes, inputs) in [([two.clone(), one.clone()], 1), ([one, two], 2)] {
        let (view, explanation) = union(&pushes);
        assert_eq!((explanation.ambiguous_records, explanation.records_out), (1, 2));
        let imported = import(&view).unwrap();
        assert_eq!((imported.united, imported.items.last().map(|item| item.inputs.len())), (0, Some(inputs)));
    }
}

#[test]
fn what_is_too_large_to_read_is_refused_before_it_is_parsed() {
    let nodes = format!(r#"{{"records":[{}{{}}]}}"#, "{},".repeat(1 << 20));
    assert!(matches!(CacheConfig::parse(nodes.as_bytes()), Err(FormatError::TooMany { .. })));
    let bytes = vec![b' '; (16 << 20) + 1];
    assert!(matches!(CacheConfig::parse(&bytes), Err(FormatError::TooLarge { .. })));
    let deep =
        |inner: &str| format!(r#"{{"records":{}{inner}{}}}"#, "[       ".repeat(1_000_000), "]".repeat(1_000_000));
    assert!(matches!(CacheConfig::parse(deep("").as_bytes()), Err(FormatError::Json { .. })));
    let unknown = deep("").replace("records", "unknown");
    assert!(CacheConfig::parse(unknown.as_bytes()).is_ok());
}

#[test]
fn the_oldest_pushes_beyond_all_bounds_are_left_out() {
    let pushes: Vec<Push> = (0..3).map(|push| keys((0..100).map(|at| (1_000 * push + at, Vec::new())))).collect();
    let bounds = |nodes| Bounds { nodes, ..BOUNDS };
    let explanation = explain_within(&pushes, &bounds(200)).unwrap();
    assert_eq!((explanation.trimmed_pushes, explanation.records_in), (vec![0], 200));
    let explanation = explain_within(&pushes, &bounds(199)).unwrap();
    assert_eq!((explanation.trimmed_pushes, explanation.records_in), (vec![0, 1], 100));
    assert_eq!(explain_within(&pushes, &bounds(99)), Err(NoView::TooLarge));
}
