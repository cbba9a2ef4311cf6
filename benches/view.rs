//! What a view costs. The budget is 100 ms of CPU each, so that a push to a busy tag does not delay the next import.
//!
//! Criterion measures wall time, which on a shared machine is more; the CPU time is printed before.

#[path = "../src/buildkit/tests/generate.rs"]
#[expect(dead_code)]
mod generate;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use generate::{Links, Source, World, builds};
use larder::buildkit::{BOUNDS, CacheManifest, Push, view};

fn world(records: usize) -> World {
    World { steps: records * 2 / 3, varying_percent: 10, edited_percent: 20, built_percent: 100, links: Links::Alike }
}

/// Builds of one repository, whose sources change and of whose steps some vary.
fn related(pushes: usize, records: usize) -> Vec<Source> {
    builds(1, pushes, world(records))
}

/// Builds of a repository each.
fn unrelated(pushes: usize, records: usize) -> Vec<Source> {
    (0..pushes as u64).flat_map(|seed| builds(seed, 1, world(records))).collect()
}

fn read(sources: &[Source]) -> Vec<Push> {
    let manifest = |source: &Source| CacheManifest::detect(&source.manifest).unwrap().unwrap();
    sources.iter().map(|source| Push::new(manifest(source), &source.config)).collect()
}

/// The time this thread has had a CPU, in nanoseconds, where the kernel tells (Linux).
fn cpu_nanos() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
}

fn views(criterion: &mut Criterion) {
    let cases = [
        ("8 related pushes of 2,500 records", related(8, 2_500)),
        ("64 related pushes of 500 records", related(64, 500)),
        ("8 unrelated pushes of 2,500 records", unrelated(8, 2_500)),
        ("64 unrelated pushes of 500 records", unrelated(64, 500)),
    ];
    for (name, sources) in cases {
        let pushes = read(&sources);
        println!("{}", serde_json::to_string(&view(&pushes, &|_| true, &BOUNDS).unwrap().explanation).unwrap());
        const ROUNDS: u64 = 20;
        if let Some(before) = cpu_nanos() {
            (0..ROUNDS).for_each(|_| drop(view(&pushes, &|_| true, &BOUNDS)));
            let spent = cpu_nanos().map_or(0, |after| after - before);
            println!("{name}: {} µs of CPU for a view", spent / ROUNDS / 1_000);
        }
        let mut group = criterion.benchmark_group(name);
        group.sample_size(20);
        group.bench_function("read", |bench| bench.iter_batched(|| (), |()| read(&sources), BatchSize::LargeInput));
        group.bench_function("view", |bench| bench.iter(|| view(&pushes, &|_| true, &BOUNDS)));
        group.finish();
    }
}

criterion_group!(benches, views);
criterion_main!(benches);
