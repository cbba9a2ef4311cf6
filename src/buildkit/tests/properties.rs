//! Properties of every union, tested on pushes generated from a seed.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::generate::{Random, World, builds, digest, tangles};
use super::importer::{Imported, import};
use super::model::Model;
use super::oracle::record_set;
use super::*;
use crate::digest::Digest;

/// Pushes of one to `most` builds, or of as many tangles.
fn sources(seed: u64, most: usize) -> Vec<Source> {
    let mut random = Random(seed ^ 0x5eed);
    let pushes = 1 + random.below(most);
    if random.percent(30) {
        return tangles(seed, pushes, 3 + random.below(10));
    }
    builds(seed, pushes, World::any(&mut random))
}

/// The items of an import that represent each record of a push: same digest, and a link of each input in common.
fn standing_for(imported: &Imported, push: &Push) -> Vec<BTreeSet<usize>> {
    let config = push.config.as_ref().unwrap();
    let mut items: BTreeMap<(&str, usize), Vec<usize>> = BTreeMap::new();
    for (index, item) in imported.items.iter().enumerate() {
        items.entry((&item.digest, item.inputs.len())).or_default().push(index);
    }
    let mut standing = vec![BTreeSet::new(); config.records.len()];
    for index in config.parents_first() {
        let record = &config.records[index];
        let reached = |item: &&usize| {
            record.inputs.iter().zip(&imported.items[**item].inputs).all(|(links, known)| {
                links.iter().any(|link| {
                    let parents: &BTreeSet<usize> = &standing[link.record as usize];
                    parents.iter().any(|parent| known.contains(&(link.selector.to_string(), *parent)))
                })
            })
        };
        let items = items.get(&(&*record.digest, record.inputs.len())).into_iter().flatten();
        standing[index] = items.filter(reached).copied().collect();
    }
    standing
}

/// The first answer of an imported view that no push gives to the same build.
fn unsound(view: &Push, model: &Model, seed: u64) -> Option<String> {
    let imported = match import(view) {
        Ok(imported) => imported,
        Err(error) => return Some(error),
    };
    let mut random = Random(seed);
    for _ in 0..12 {
        let (build, percent) = (random.next(), 50 + random.below(50));
        let hash = |key: &str| key.bytes().fold(build, |sum: u64, byte| sum.wrapping_mul(31) ^ u64::from(byte));
        let has = |key: &str| Random(hash(key)).percent(percent);
        let truth = model.truth(&has);
        let matched = imported.matched(&has);
        for (item, _) in imported.items.iter().zip(matched).filter(|(_, matched)| *matched) {
            if let Some(content) = &item.content
                && !truth.contains(&(&item.digest, content))
            {
                return Some(format!("{} gets {content:?}", item.digest));
            }
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The hazard of the naive union: a build gets a result that no push has for the links that it matched.
    #[test]
    fn a_build_gets_nothing_that_no_push_vouches_for(seed: u64) {
        let sources = sources(seed, 8);
        let gone = |blob: &Digest| blob.bytes()[0] % 16 != (seed % 16) as u8;
        let pushes = read_all(&sources);
        let (merged, explanation) = merge(&pushes, &gone, &UNLIMITED);
        let view = read(&merged.manifest, &merged.config);
        let imported = import(&view).unwrap();
        prop_assert_eq!(imported.united, 0, "the importer unites records of the view");
        if explanation.loop_links == 0 {
            prop_assert_eq!(unsound(&view, &Model::of(&pushes, &gone), seed), None);
        }
    }

    #[test]
    fn every_record_of_every_push_is_in_the_view_and_keeps_a_result(seed: u64) {
        let pushes = read_all(&sources(seed, 20));
        let (view, explanation) = union(&pushes);
        let imported = import(&view).unwrap();
        let mut uncovered = 0;
        for push in &pushes {
            let model = Model::of(std::slice::from_ref(push), &|_| true);
            let usable = model.nodes.iter().map(|node| (node.digest.as_str(), node.content.is_some()));
            let usable: BTreeSet<_> = usable.collect();
            for (record, items) in push.config.as_ref().unwrap().records.iter().zip(standing_for(&imported, push)) {
                let results = usable.contains(&(&record.digest, true)) && !usable.contains(&(&record.digest, false));
                let covered = items.iter().any(|item| !results || imported.items[*item].content.is_some());
                uncovered += usize::from(!covered);
            }
        }
        let reported = explanation.ephemeral_records + explanation.unlinked_records + explanation.uncovered_records;
        prop_assert!(uncovered <= reported, "{uncovered} of {reported}");
        prop_assert!(explanation.records_out <= 2 * explanation.records_in);
    }

    #[test]
    fn a_union_is_idempotent_and_absorbs_its_pushes(seed: u64) {
        let pushes = read_all(&sources(seed, 6));
        let (view, explanation) = union(&pushes);
        let (again, _) = union(std::slice::from_ref(&view));
        prop_assert_eq!(&again.config, &view.config);
        let all: Vec<Push> = [vec![view.clone()], pushes].concat();
        let (more, more_explained) = union(&all);
        if explanation.bounded_splits + more_explained.bounded_splits + more_explained.loop_links == 0 {
            prop_assert_eq!(record_set(&more), record_set(&view));
        }
    }

    #[test]
    fn the_records_of_a_union_do_not_depend_on_the_order_of_pushes(seed: u64) {
        let mut pushes = read_all(&sources(seed, 8));
        let (view, explanation) = union(&pushes);
        let rotation = seed as usize % pushes.len();
        pushes.rotate_left(rotation);
        pushes.reverse();
        let (other, _) = union(&pushes);
        if explanation.bounded_splits + explanation.loop_links == 0 {
            let keys = |push: &Push| -> Vec<String> {
                record_set(push).into_iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
            };
            prop_assert_eq!(keys(&other), keys(&view));
        }
    }

    #[test]
    fn a_view_is_the_same_whenever_it_is_made(seed: u64) {
        let pushes = read_all(&sources(seed, 8));
        prop_assert_eq!(view(&pushes, &|_| true, &BOUNDS), view(&pushes, &|_| true, &BOUNDS));
    }
}

/// Two builders run a step whose result varies, and copy a file from it. A third has a file with the first one's
/// content.
fn hazard() -> Vec<Source> {
    let push = |at: usize| {
        let mut builder = generate::Builder::default();
        let base = builder.root(&digest(&[&"base"]));
        let varying = builder.record(&digest(&[&"run"]), &[vec![(String::new(), base)]], None);
        let checksum = builder.root(&digest(&[&"checksum", &at]));
        let file = digest(&[&"file", &at]);
        let layer = builder.layer(&file, &file, -1);
        let inputs = [vec![(String::new(), base)], vec![(String::new(), varying), (String::new(), checksum)]];
        builder.record(&digest(&[&"copy"]), &inputs, Some((layer, format!("2026-01-0{at}T00:00:00Z"))));
        builder.finish(&mut Random(at as u64), || false)
    };
    vec![push(1), push(2)]
}

#[test]
fn a_file_is_not_mistaken_for_another_build_of_it() {
    for order in [[0, 1], [1, 0]] {
        let sources = hazard();
        let pushes = read_all(order.map(|at| &sources[at]));
        let imported = import(&union(&pushes).0).unwrap();
        for at in 1..=2 {
            // The third build has no `run`: it copies a file of its own.
            let has = |key: &str| key != digest(&[&"run"]);
            let has = |key: &str| has(key) && key != digest(&[&"checksum", &(3 - at)]);
            let copies = imported
                .items
                .iter()
                .zip(imported.matched(&has))
                .filter(|(item, matched)| *matched && item.digest == digest(&[&"copy"]));
            let contents: Vec<_> = copies.map(|(item, _)| item.content.clone().unwrap()).collect();
            assert_eq!(contents, [[digest(&[&"file", &at])]]);
        }
        // A build that runs the step finds the newest result.
        let has = |key: &str| !key.contains("checksum");
        assert!(imported.matched(&has).iter().all(|matched| *matched));
    }
}

/// Two builders check two varying files against each other. Both checks pass and leave the same empty result; a third
/// build still has to check whether the first one's `a` fits the second one's `b`.
#[test]
fn a_check_of_two_inputs_is_not_taken_for_passed() {
    let push = |at: usize| {
        let mut builder = generate::Builder::default();
        let inputs = ["a", "b"].map(|file| {
            let definition = builder.root(&digest(&[&file]));
            vec![(String::new(), definition), (String::new(), builder.root(&digest(&[&file, &at])))]
        });
        let layer = builder.layer(&digest(&[&"passed"]), &digest(&[&"passed"]), -1);
        builder.record(&digest(&[&"check"]), &inputs, Some((layer, format!("2026-01-0{at}T00:00:00Z"))));
        builder.finish(&mut Random(at as u64), || false)
    };
    let imported = import(&union(&read_all(&[push(1), push(2)])).0).unwrap();
    let passes = |files: [usize; 2]| {
        let files = [digest(&[&"a", &files[0]]), digest(&[&"b", &files[1]]), digest(&[&"check"])];
        let matched = imported.matched(&|key| files.iter().any(|file| file == key));
        imported.items.iter().zip(matched).any(|(item, matched)| matched && item.content.is_some())
    };
    assert_eq!([[1, 1], [2, 2], [1, 2], [2, 1]].map(passes), [true, true, false, false]);
}

/// Tests the test: the union that gives wrong build output fails it.
#[test]
fn the_naive_union_gives_a_build_what_no_push_vouches_for() {
    let pushes = read_all(&hazard());
    let model = Model::of(&pushes, &|_| true);
    let naive = model.naive_union().unwrap();
    assert!((0..32).any(|seed| unsound(&naive, &model, seed).is_some()));
    assert!((0..32).all(|seed| unsound(&union(&pushes).0, &model, seed).is_none()));

    let found = (0..200).filter(|&seed| {
        let model = Model::of(&read_all(&sources(seed, 8)), &|_| true);
        model.naive_union().is_some_and(|naive| unsound(&naive, &model, seed).is_some())
    });
    let found = found.count();
    println!("the naive union is wrong for {found} of 200 seeds");
    assert!(found >= 20);
}

/// Tests the test: one record for each push, with its own links and result, is not sound either. The importer unites
/// them, because they share links.
#[test]
fn records_that_share_links_would_be_united_by_the_importer() {
    let source = |results: [&str; 2]| {
        let mut builder = generate::Builder::default();
        let roots = ["x", "a", "b"].map(|root| (String::new(), builder.root(&digest(&[&root]))));
        for (links, result) in [(vec![0, 1], results[0]), (vec![0, 2], results[1])] {
            let links = links.into_iter().map(|root| roots[root].clone()).collect();
            let layer = builder.layer(&digest(&[&result]), &digest(&[&result]), -1);
            builder.record(&digest(&[&"step"]), &[links], Some((layer, "2026-01-01T00:00:00Z".to_owned())));
        }
        builder.finish(&mut Random(1), || false)
    };
    let source = source(["A", "B"]);
    assert_eq!(import(&read(&source.manifest, &source.config)).unwrap().united, 1);
}
