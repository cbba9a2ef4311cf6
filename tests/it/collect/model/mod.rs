//! The collector and the doors' half of the protocol, in every order that seeds can think of.
//!
//! The code is the real one; only the bucket and the clock are played. The full form: `LARDER_MODEL_PLAYS=100000 cargo test
//! --release --test it collect::model`.

mod clients;
mod ghost;
mod play;
mod quiet;
mod sim;

use play::{Outcome, Setting, play};

/// Plays of the short form.
const PLAYS: u64 = 250;

fn run(seed: u64, setting: Setting, traced: bool) -> Outcome {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).max_blocking_threads(1);
    runtime.build().unwrap().block_on(play(seed, setting, traced))
}

fn plays(default: u64) -> u64 {
    std::env::var("LARDER_MODEL_PLAYS").ok().and_then(|plays| plays.parse().ok()).unwrap_or(default)
}

fn first() -> u64 {
    std::env::var("LARDER_MODEL_FIRST").ok().and_then(|first| first.parse().ok()).unwrap_or(1)
}

#[test]
fn no_order_of_events_breaks_a_promise() {
    let (mut steps, mut deleted, mut spared) = (0, 0, 0);
    for seed in first()..first() + plays(PLAYS) {
        let outcome = run(seed, Setting::of(seed), false);
        if let Some(violation) = outcome.violation {
            let again = run(seed, Setting::of(seed), true);
            panic!("seed {seed}: {violation}\n{}", again.trace.join("\n"));
        }
        steps += outcome.steps;
        deleted += outcome.deleted;
        spared += outcome.spared;
    }
    println!("{steps} steps, {deleted} objects deleted, {spared} stayed because they were used again");
    // Fewer are played to look at one seed again.
    assert!(plays(PLAYS) < PLAYS || deleted > 0 && spared > 0, "{deleted} {spared}");
}

/// The settings in which most plays are about one moment.
#[test]
fn no_order_of_events_breaks_a_promise_from_near() {
    let near = [
        Setting::of_seconds(),
        Setting::of_late_writes(),
        Setting::of_dead_claims(),
        Setting::of_pushes(),
        Setting::of_claims(),
    ];
    let (plays, mut deleted) = (plays(PLAYS / 5), 0);
    for (number, setting) in near.into_iter().enumerate() {
        for seed in first()..first() + plays {
            let outcome = run(seed, setting, false);
            if let Some(violation) = outcome.violation {
                let again = run(seed, setting, true);
                panic!("setting {number}, seed {seed}: {violation}\n{}", again.trace.join("\n"));
            }
            deleted += outcome.deleted;
        }
        println!("setting {number}: {plays} plays, {deleted} objects deleted so far");
    }
}

/// Otherwise a seed would be of no use.
#[test]
fn a_seed_decides_everything() {
    for seed in first()..first() + plays(40) {
        let [one, two] = [(); 2].map(|()| run(seed, Setting::of(seed), true).trace);
        let differs = one.iter().zip(&two).position(|(one, two)| one != two);
        let around = |at: usize| (&one[at.saturating_sub(4)..=at], &two[at]);
        assert!(differs.is_none() && one.len() == two.len(), "seed {seed}: {:#?}", differs.map(around));
    }
}

/// Each ingredient by itself, in plays of the kind in which it counts, and within how many its absence is noticed.
#[test]
#[cfg(feature = "mutations")]
#[ignore = "takes minutes: cargo test --release --features mutations --test it collect::model -- --ignored"]
fn without_any_one_ingredient_a_promise_is_broken() {
    type Change = fn(&mut Setting);
    let missing: [(&str, Setting, Change); 15] = [
        ("age at the answer", Setting::of_pauses(), |s| s.ingredients.age_at_answer = false),
        ("spare", Setting::of_deletes(), |s| s.ingredients.spare = false),
        ("look for a claim", Setting::of_deletes(), |s| s.ingredients.look_for_claim = false),
        ("HEAD after the list", Setting::of_deletes(), |s| s.ingredients.head_after_list = false),
        ("memory dropped", Setting::of_deletes(), |s| s.ingredients.drop_memory = false),
        ("grace from the list's own time", Setting::of_pauses(), |s| s.ingredients.grace_from_list = false),
        ("re-mark", Setting::for_faults(), |s| s.ingredients.re_mark = false),
        ("exclusive claim", Setting::of_claims(), |s| s.ingredients.exclusive_claim = false),
        ("list after the claim", Setting::of_deletes(), |s| s.ingredients.list_after_claim = false),
        ("list before the claim", Setting::of_seconds(), |s| s.ingredients.list_before_claim = false),
        ("unanswered batches left", Setting::of_late_writes(), |s| s.ingredients.keep_unanswered = false),
        ("lease", Setting::for_faults(), |s| s.ingredients.lease = false),
        ("content before pointer", Setting::for_faults(), |s| s.ingredients.content_before_pointer = false),
        ("record before pointer", Setting::of_pushes(), |s| s.ingredients.record_before_pointer = false),
        ("fence", Setting::of_dead_claims(), |s| s.fenced = false),
    ];
    let only = std::env::var("LARDER_MODEL_ONLY").unwrap_or_default();
    let mut unnoticed = Vec::new();
    for (name, setting, change) in missing.into_iter().filter(|(name, ..)| name.contains(&only)) {
        let mut without = setting;
        change(&mut without);
        let found =
            (first()..first() + plays(20_000)).find_map(|seed| Some((seed, run(seed, without, false).violation?)));
        let Some((seed, violation)) = found else {
            println!("without {name:32} not noticed");
            unnoticed.push(name);
            continue;
        };
        println!("without {name:32} seed {seed:6}: {violation}");
        if std::env::var("LARDER_MODEL_TRACE").is_ok() {
            run(seed, without, true).trace.iter().for_each(|line| println!("{line}"));
        }
        // With it, the same play and others of its kind break nothing.
        for seed in [seed, seed + 1, seed + 2] {
            assert_eq!(run(seed, setting, false).violation, None, "{name}: seed {seed}");
        }
    }
    assert!(unnoticed.is_empty(), "not noticed: {unnoticed:?}");
}

#[test]
#[cfg(not(feature = "mutations"))]
#[ignore = "needs --features mutations: without it no ingredient can be removed"]
fn without_any_one_ingredient_a_promise_is_broken() {
    panic!("run this with --features mutations");
}
