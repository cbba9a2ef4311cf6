//! The collector and the doors' half of the protocol, in every order that seeds can think of.
//!
//! The code is the real one; only the bucket and the clock are played. The full form: `LARDER_MODEL_PLAYS=100000 cargo test
//! --release --test it collect::model`.

mod clients;
mod ghost;
mod play;
mod sim;

use play::{Outcome, Setting, play};

/// Plays of the short form.
const PLAYS: u64 = 400;

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
        let setting = Setting::default();
        let outcome = run(seed, setting, false);
        if let Some(violation) = outcome.violation {
            let again = run(seed, setting, true);
            panic!("seed {seed}: {violation}\n{}", again.trace.join("\n"));
        }
        steps += outcome.steps;
        deleted += outcome.deleted;
        spared += outcome.spared;
    }
    println!("{steps} steps, {deleted} objects deleted, {spared} stayed because they were used again");
    assert!(deleted > 0 && spared > 0, "{deleted} {spared}");
}
