//! The union against the reference, an independent program in Python (`tests/fixtures/union`): the same records with
//! the same links and results, on recorded pushes and on generated ones.
//!
//! The reference's answers are kept in `expected.txt`, so that the tests do not need Python. After a change to the
//! reference or to [`generate`](super::generate): `cargo test --lib -- --ignored ask_again`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::generate::{Random, World, builds, tangles};
use super::*;

const GRAPHS: u64 = 2_000;
const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/union");

fn graph(seed: u64) -> Vec<Source> {
    let mut random = Random(seed);
    let pushes = 1 + random.below(3);
    if seed.is_multiple_of(3) {
        return tangles(seed, pushes, 3 + random.below(10));
    }
    builds(seed, pushes, World::any(&mut random))
}

fn cases(seeds: impl Iterator<Item = u64>) -> impl Iterator<Item = (String, Vec<Source>)> {
    let recorded =
        [["A", "B", "A"], ["B", "A", "t1"], ["server", "web", "art"], ["art", "web", "A"], ["t3", "t1", "t2"]];
    let recorded = recorded.into_iter().map(|names| (names.join("+"), names.map(fixtures::fixture).to_vec()));
    recorded.chain(seeds.map(|seed| (seed.to_string(), graph(seed))))
}

/// The reference's answer to each case, a line each.
fn ask(cases: impl Iterator<Item = (String, Vec<Source>)>) -> String {
    let mut python = Command::new("python3")
        .arg(format!("{DIRECTORY}/oracle.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = python.stdin.take().unwrap();
    let lines: Vec<String> = cases
        .map(|(name, sources)| {
            let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
            let pushes: Vec<_> = sources.iter().map(|source| (json(&source.manifest), json(&source.config))).collect();
            json!({"name": name, "pushes": pushes}).to_string() + "\n"
        })
        .collect();
    let writer = std::thread::spawn(move || lines.iter().for_each(|line| stdin.write_all(line.as_bytes()).unwrap()));
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// As `record_set` in `oracle.py`.
pub fn record_set(push: &Push) -> Vec<String> {
    let config = push.config.as_ref().unwrap();
    let mut names = vec![String::new(); config.records.len()];
    let mut lines = Vec::new();
    for index in config.parents_first() {
        let record = &config.records[index];
        let mut text = record.digest.to_string();
        for (input, links) in record.inputs.iter().enumerate() {
            let mut links: Vec<String> =
                links.iter().map(|link| format!("{},{}", link.selector, names[link.record as usize])).collect();
            links.sort();
            text += &format!("|{input}{}", links.join(";"));
        }
        names[index] = crate::digest::Digest::sha256(text.as_bytes()).hex();
        if &*record.digest == SINK {
            continue;
        }
        let mut line = names[index].clone();
        for result in &record.results {
            let Stack::Top(mut layer) = result.stack else { unreachable!() };
            let mut blobs = Vec::new();
            loop {
                let Layer { blob, parent } = &config.layers[layer as usize];
                blobs.push(blob.unwrap().to_string());
                let Some(parent) = parent else { break };
                layer = *parent;
            }
            blobs.reverse();
            let created_at = serde_json::to_value(result.created_at).unwrap();
            line += &format!(" {} {}", created_at.as_str().unwrap(), blobs.join("/"));
        }
        lines.push(line);
    }
    lines.sort();
    lines
}

/// Compares with the reference's answers, and returns how many unions were the same.
fn compare(expected: &str, cases: impl Iterator<Item = (String, Vec<Source>)>) -> usize {
    let mut expected = expected.lines();
    let (mut compared, mut bounded, mut uniform, mut split) = (0, 0, 0, 0);
    for (name, sources) in cases {
        let line = expected.next().unwrap();
        let (view, explanation) = union(&read_all(&sources));
        if explanation.bounded_splits > 0 {
            bounded += 1;
            continue;
        }
        // The reference unites these, see `a_check_of_two_inputs_is_not_taken_for_passed`.
        if explanation.uniform_splits > 0 {
            uniform += 1;
            continue;
        }
        if line == format!("{name} loop") {
            assert!(explanation.loop_links > 0, "{name}");
            continue;
        }
        let records = record_set(&view);
        let hash = crate::digest::Digest::sha256(records.join("\n").as_bytes()).hex();
        let said = format!("{name} {} {} of {}", &hash[..16], explanation.records_out, explanation.records_in);
        assert_eq!(said, line);
        compared += 1;
        split += usize::from(explanation.splits > 0);
    }
    assert!(expected.next().is_none());
    println!("{compared} unions compared, {split} of them with splits; left out: {bounded} bounded, {uniform} uniform");
    compared
}

#[test]
fn unions_are_those_of_the_reference() {
    let expected = std::fs::read_to_string(format!("{DIRECTORY}/expected.txt")).unwrap();
    assert!(compare(&expected, cases(0..GRAPHS)) >= 1_000);
}

#[test]
#[ignore = "needs python3 and a while"]
fn unions_are_those_of_the_reference_asked_live() {
    let seeds = 1_000_000..1_010_000;
    compare(&ask(cases(seeds.clone())), cases(seeds));
}

#[test]
#[ignore = "writes expected.txt"]
fn ask_again() {
    std::fs::write(format!("{DIRECTORY}/expected.txt"), ask(cases(0..GRAPHS))).unwrap();
}
