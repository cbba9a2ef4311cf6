//! Identity, families, and which push expires when there are too many.

use super::generate::{Builder, Random, digest};
use super::*;
use crate::digest::Digest;

#[test]
fn a_reexport_of_an_import_is_the_same_push_and_other_caches_are_not() {
    let push = read_all(&[fixtures::fixture("t1")]).remove(0);
    let mut reexport = push.clone();
    for layer in &mut reexport.manifest.layers {
        layer.annotations.insert(format!("{DISTRIBUTION_SOURCE}example.org"), "team/app".to_owned());
        layer.annotations.insert(CREATED_AT.to_owned(), "2030-01-01T00:00:00Z".to_owned());
    }
    reexport.manifest.form = Form::Index;
    assert_eq!(reexport.identity(), push.identity());

    let changes: [fn(&mut Push); 4] = [
        |push| push.manifest.config.digest = Digest::sha256(b"other"),
        |push| push.manifest.layers[0].media_type.push_str("+zstd"),
        |push| drop(push.manifest.layers[0].annotations.remove(DIFF_ID)),
        |push| drop(push.manifest.layers.remove(0)),
    ];
    for change in changes {
        let mut other = push.clone();
        change(&mut other);
        assert_ne!(other.identity(), push.identity());
    }
}

/// A push of the target `leaf` with these roots.
fn target(leaf: &str, roots: &[String]) -> Push {
    let mut builder = Builder::default();
    let inputs: Vec<_> = roots.iter().map(|root| vec![(String::new(), builder.root(root))]).collect();
    builder.record(&digest(&[&leaf]), &inputs, None);
    let source = builder.finish(&mut Random(0), || false);
    read(&source.manifest, &source.config)
}

fn roots(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| digest(&[name])).collect()
}

#[test]
fn a_family_is_its_leaves_whatever_the_sources() {
    let one = target("server", &roots(&["base", "v1"])).family().unwrap();
    let two = target("server", &roots(&["base", "v2"])).family().unwrap();
    assert_eq!(one.leaves, two.leaves);
    assert_eq!(one.roots.intersection(&two.roots).count(), 1);
    assert_ne!(one.leaves, target("web", &roots(&["base", "v1"])).family().unwrap().leaves);

    let many: Vec<String> = (0..200).map(|root| digest(&[&root])).collect();
    let (all, most) = (target("x", &many).family().unwrap(), target("x", &many[1..]).family().unwrap());
    assert_eq!(all.roots.len(), 64);
    assert!(all.roots.intersection(&most.roots).count() >= 63);

    // The sink of a view that was pushed again is no leaf.
    let (view, _) = union(&read_all(&[fixtures::fixture("t1"), fixtures::fixture("t2")]));
    assert_eq!(view.family(), union(std::slice::from_ref(&view)).0.family());
}

fn live(pushes: impl IntoIterator<Item = Push>) -> Vec<FamilyMember<usize, usize>> {
    let pushes = pushes.into_iter().enumerate();
    pushes.map(|(at, push)| FamilyMember { id: at, order: at, family: push.family().unwrap() }).collect()
}

#[test]
fn a_busy_target_does_not_push_its_sibling_out() {
    // The sibling shares all but one root with each push of the busy target.
    let mut pushes = vec![target("web", &roots(&["base", "lib", "deps", "web"]))];
    pushes
        .extend((0..200).map(|at| target("server", &[roots(&["base", "lib", "deps"]), vec![digest(&[&at])]].concat())));
    let mut expired = surplus(&live(pushes), 64);
    assert_eq!(expired, (1..138).collect::<Vec<_>>());
    expired.sort_unstable();
    assert!(!expired.contains(&0) && !expired.contains(&200));
}

#[test]
fn pushes_whose_leaves_change_are_kin_by_their_roots() {
    let mut pushes = vec![target("web", &roots(&["base", "web"])), target("tool", &roots(&["other", "tool"]))];
    pushes.extend((0..10).map(|at| target(&format!("server {at}"), &roots(&["base", "lib", "server"]))));
    assert_eq!(surplus(&live(pushes), 6), [2, 3, 4, 5, 6, 7]);
}

#[test]
fn of_equally_large_families_the_oldest_push_goes_and_the_newest_never() {
    let pushes = || live(["a", "b", "c", "d"].map(|name| target(name, &roots(&[name]))));
    assert_eq!(surplus(&pushes(), 2), [0, 1]);
    assert_eq!(surplus(&pushes(), 0), [0, 1, 2]);
    assert_eq!(surplus(&pushes(), 4), [0; 0]);
    assert_eq!(surplus::<usize, usize>(&[], 0), [0; 0]);
    // The order of the list does not matter.
    let mut shuffled = pushes();
    shuffled.swap(0, 3);
    assert_eq!(surplus(&shuffled, 2), [0, 1]);
}
