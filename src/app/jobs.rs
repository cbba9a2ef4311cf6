//! Background jobs of a running server.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;
use tokio::task::JoinSet;

use super::{App, learn_of_revoked};
use crate::capacity::Round;
use crate::deadline::{Deadline, SHORT};
use crate::jobs::{About, Done, Job, Outcome, Timed, failed};
use crate::lifetime::collect::{Collector, Report, Wish};
use crate::metrics::recent;
use crate::store::Store;

/// Interval of the search for idle uploads.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// Interval of the counts of usage.
const COUNT_EVERY: Duration = Duration::from_secs(12 * 3600);
/// The shortest pause between two counts, and the part of all time that they may take, one in so many.
const COUNT_PAUSE: Duration = Duration::from_secs(60);
const COUNT_PAUSE_REMOTE: Duration = Duration::from_secs(3600);
const COUNT_SHARE: u32 = 100;
/// Delay of the first collection after the start; less if collections are more frequent.
const COLLECT_FIRST: Duration = Duration::from_secs(60);
/// Interval of reading which sessions other servers have revoked: as long may a revoked session still be accepted.
const REVOKED_EVERY: Duration = Duration::from_secs(30);
/// Interval of reading which objects other servers have quarantined.
const QUARANTINE_EVERY: Duration = Duration::from_secs(60);

/// Starts all jobs except the reload of the configuration. They end when the set is dropped.
pub(super) fn start(app: &App) -> JoinSet<Infallible> {
    let (jobs, mut tasks) = (&app.jobs, JoinSet::new());
    tasks.spawn(jobs.add(sweep(app)));
    tasks.spawn(jobs.add(CountJob(app.store.clone())));
    tasks.spawn(jobs.add(pending_deletions(app)));
    if app.config.collect.enabled {
        let every = app.config.collect.interval.get();
        tasks.spawn(jobs.add(Collect { collector: app.collector.clone(), store: app.store.clone(), every }));
    }
    tasks.spawn(jobs.add(history(app)));
    tasks.spawn(jobs.add(revoked_sessions(app)));
    if app.config.store.s3.is_some() {
        tasks.spawn(jobs.add(quarantine(app)));
    }
    tasks
}

fn timed(name: &'static str, what: &'static str, failing: &'static str, (first, every): (Duration, Duration)) -> About {
    About { name, what, failing, notified_by: None, first, every: Some(every) }
}

fn sweep(app: &App) -> impl Job + use<> {
    let what = "Removes idle uploads and unfinished objects. Reads the store's format again.";
    let about = timed("sweep", what, "cannot remove idle uploads", (Duration::ZERO, SWEEP_EVERY));
    let (store, idle) = (app.store.clone(), app.config.limits.upload_idle.get());
    let work = move || {
        let store = store.clone();
        async move {
            let now = SystemTime::now();
            // The failure of one does not stop the other.
            let (uploads, drafts) =
                (store.sweep_all_uploads(idle, now).await, store.content().sweep_drafts(idle, now).await);
            Ok(match (uploads.map_err(failed)?, drafts.map_err(failed)?) {
                (0, 0) => Done::Quiet,
                (uploads, drafts) => Done::Did(format!("removed {uploads} idle uploads, {drafts} unfinished objects")),
            })
        }
    };
    Timed { about, work }
}

/// Refreshes the snapshot of condemned objects, so that no answer has to wait for the lists.
fn pending_deletions(app: &App) -> impl Job + use<> {
    let every = app.config.collect.poll();
    let what = "Lists condemned objects, which every answer takes into account.";
    let about = timed("pending-deletions", what, "cannot list pending deletions", (Duration::ZERO, every));
    let store = app.store.clone();
    let work = move || {
        let store = store.clone();
        async move {
            // Requests that need a snapshot wait for this one.
            let listed = store.condemned().refresh(Deadline::within(SHORT)).await;
            listed.map(|_| Done::Quiet).map_err(failed)
        }
    };
    Timed { about, work }
}

fn history(app: &App) -> impl Job + use<> {
    let what = "Reads the counters, for the charts on the pages.";
    let about = timed("history", what, "cannot read the counters", (recent::READ_EVERY, recent::READ_EVERY));
    let metrics = app.metrics.clone();
    let work = move || {
        metrics.recent.read(&metrics.tenants, jiff::Timestamp::now());
        std::future::ready(Ok(Done::Quiet))
    };
    Timed { about, work }
}

fn revoked_sessions(app: &App) -> impl Job + use<> {
    let what = "Learns which sessions other servers have revoked, and removes the notes of ended ones.";
    let about =
        timed("revoked-sessions", what, "cannot read which sessions are revoked", (REVOKED_EVERY, REVOKED_EVERY));
    let (store, gate) = (app.store.clone(), app.gate.clone());
    let work = move || {
        let (store, gate) = (store.clone(), gate.clone());
        async move { learn_of_revoked(&store, &gate).await.map(|()| Done::Quiet).map_err(failed) }
    };
    Timed { about, work }
}

fn quarantine(app: &App) -> impl Job + use<> {
    let what = "Learns which objects other servers have found damaged.";
    let about = timed("quarantine", what, "cannot read the quarantine", (Duration::ZERO, QUARANTINE_EVERY));
    let store = app.store.clone();
    let work = move || {
        let store = store.clone();
        async move { store.content().load_quarantine().await.map(|_| Done::Quiet).map_err(failed) }
    };
    Timed { about, work }
}

/// Counts usage: at the start, some time after changes, and now and then. Listing a whole bucket costs money, so there
/// it is done less often.
struct CountJob(Store);

impl Job for CountJob {
    type Notice = ();

    fn about(&self) -> About {
        let what = "Counts what is stored, for quotas and pages.";
        let about = timed("count", what, "cannot count what is stored", (Duration::ZERO, COUNT_EVERY));
        About { notified_by: Some("the store has changed"), ..about }
    }

    async fn notified(&mut self) {
        self.0.stock().changed().await;
    }

    async fn run(&mut self, _: Option<()>) -> Outcome {
        self.0.scan_usage().await.map(|_| Done::Quiet).map_err(failed)
    }

    fn pause(&self, took: Duration) -> Duration {
        let least = if self.0.content().objects().traits().remote { COUNT_PAUSE_REMOTE } else { COUNT_PAUSE };
        least.max(took * COUNT_SHARE)
    }
}

/// Collects at intervals, and when space is short.
struct Collect {
    collector: Arc<Collector>,
    store: Store,
    every: Duration,
}

impl Job for Collect {
    /// Uploads wait until it is dropped.
    type Notice = Round;

    fn about(&self) -> About {
        // The first collection is delayed: a server that has just started has other work.
        let first = self.every.min(COLLECT_FIRST);
        let what = "Deletes unreferenced content, and content that policies expire or quotas evict.";
        let about = timed("collection", what, "collection failed", (first, self.every));
        About { notified_by: Some("space is needed"), ..about }
    }

    async fn notified(&mut self) -> Round {
        self.store.room().pressed().await
    }

    async fn run(&mut self, round: Option<Round>) -> Outcome {
        let report = self.collector.run(Wish { dry: false }).await.map_err(failed)?;
        Ok(match &report.skipped {
            Some(reason) => Done::Skipped(reason.clone()),
            None => Done::Did(said(&report, round.is_some())),
        })
    }
}

/// Maximum number of tenants over their limit in a result.
const SHORT_TENANTS_MAX: usize = 3;

fn said(report: &Report, at_once: bool) -> String {
    let bytes = |bytes| ByteSize(bytes).display().iec();
    let (condemned, deleted) = (report.condemned, report.deleted);
    let mut said = format!(
        "collected{}: {} objects ({}) condemned, {} objects ({}) deleted",
        if at_once { " to free space" } else { "" },
        condemned.objects,
        bytes(condemned.bytes),
        deleted.objects,
        bytes(deleted.bytes),
    );
    let short = report.tenants.iter().filter_map(|(tenant, found)| Some((tenant, found.shortfall.as_ref()?)));
    for (tenant, shortfall) in short.take(SHORT_TENANTS_MAX) {
        said.push_str(&format!("; tenant {tenant} {shortfall}"));
    }
    said
}
