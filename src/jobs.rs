//! Background jobs: work that a server does by itself, each with a name, a schedule, and a status for operators.
//!
//! A job runs repeatedly, one run at a time: after a span, or as soon as something notifies it. The result of a run is
//! logged and counted here, and nowhere else. A run that panics has failed, and the job continues.
//!
//! Invariant: no lock is held while a job waits or works.

use std::any::Any;
use std::convert::Infallible;
use std::fmt::Display;
use std::future::{Future, pending};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use crate::metrics::Metrics;

/// Longest result that is kept, in characters.
const RESULT_MAX: usize = 500;

/// Description and schedule of a job.
#[derive(Clone, Debug)]
pub struct About {
    /// Name, as in metrics.
    pub name: &'static str,
    /// Purpose of the job, for display.
    pub what: &'static str,
    /// Log message of a failed run: "cannot list pending deletions".
    pub failing: &'static str,
    /// The cause of notifications, for display; absent if only time wakes the job.
    pub notified_by: Option<&'static str>,
    /// Time from the start of the server to the first run.
    pub first: Duration,
    /// Time from the beginning of one run to the next, unless the job is notified; absent if only notifications wake
    /// it.
    pub every: Option<Duration>,
}

/// Result of a run that did not fail.
#[derive(Debug)]
pub enum Done {
    /// A result that needs no line in the log.
    Quiet,
    /// The work that was done.
    Did(String),
    /// The reason why nothing could be done.
    Skipped(String),
}

/// Result of a run, or the reason why it failed.
pub type Outcome = Result<Done, String>;

/// An error with its causes, as a text.
pub fn failed(error: impl Display) -> String {
    format!("{error:#}")
}

/// Work that a server does by itself.
pub trait Job: Send + 'static {
    /// Data that a notification passes to the run that it causes.
    type Notice: Send;

    fn about(&self) -> About;

    /// Resolves when the job should run before its time.
    fn notified(&mut self) -> impl Future<Output = Self::Notice> + Send;

    /// Runs once. `notice` is that of the notification, if one was the cause.
    fn run(&mut self, notice: Option<Self::Notice>) -> impl Future<Output = Outcome> + Send;

    /// Least time between the end of a run, which took `took`, and the next run, notified or not.
    fn pause(&self, _took: Duration) -> Duration {
        Duration::ZERO
    }
}

/// A job that only time wakes.
pub struct Timed<R> {
    pub about: About,
    pub work: R,
}

impl<R, F> Job for Timed<R>
where
    R: FnMut() -> F + Send + 'static,
    F: Future<Output = Outcome> + Send,
{
    type Notice = Infallible;

    fn about(&self) -> About {
        self.about.clone()
    }

    fn notified(&mut self) -> impl Future<Output = Infallible> + Send {
        pending()
    }

    fn run(&mut self, _: Option<Infallible>) -> impl Future<Output = Outcome> + Send {
        (self.work)()
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Ok,
    Skipped,
    Failed,
}

impl Ending {
    pub const ALL: [Ending; 3] = [Ending::Ok, Ending::Skipped, Ending::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            Ending::Ok => "ok",
            Ending::Skipped => "skipped",
            Ending::Failed => "failed",
        }
    }
}

/// One run that has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    pub ended: Timestamp,
    pub seconds: f64,
    pub result: Ending,
    /// What was done, or why nothing was. Empty when there is nothing to say.
    pub text: String,
}

/// Status of a job, for operators.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub name: String,
    pub what: String,
    /// Seconds between runs that no notification causes.
    pub every_seconds: Option<f64>,
    pub notified_by: Option<String>,
    pub running: bool,
    /// Time since which the job has been running, or idle.
    pub since: Timestamp,
    /// Time of the next run, unless the job is notified before.
    pub next: Option<Timestamp>,
    pub last: Option<Run>,
    pub last_success: Option<Timestamp>,
    pub runs: u64,
    pub failures: u64,
    /// Failures since the last run that did not fail.
    pub failures_in_a_row: u64,
}

/// The jobs of one server.
pub struct Jobs {
    metrics: Arc<Metrics>,
    all: Mutex<Vec<Arc<Mutex<Status>>>>,
}

impl Jobs {
    pub fn new(metrics: Arc<Metrics>) -> Jobs {
        Jobs { metrics, all: Mutex::default() }
    }

    /// All jobs, in the order in which they were added.
    pub fn all(&self) -> Vec<Status> {
        lock(&self.all).iter().map(|status| lock(status).clone()).collect()
    }

    /// Adds a job, and returns the future that runs it while it is polled. A job of the same name is replaced.
    pub fn add<J: Job>(&self, job: J) -> impl Future<Output = Infallible> + Send + use<J> {
        let about = job.about();
        let status = Arc::new(Mutex::new(Status::new(&about)));
        for ending in Ending::ALL {
            self.metrics.job_runs.with_label_values(&[about.name, ending.as_str()]);
        }
        self.metrics.job_last_success.with_label_values(&[about.name]);
        let mut all = lock(&self.all);
        all.retain(|known| lock(known).name != about.name);
        all.push(status.clone());
        drop(all);
        Worker { about, status, metrics: self.metrics.clone() }.work(job)
    }
}

impl Status {
    fn new(about: &About) -> Status {
        Status {
            name: about.name.to_string(),
            what: about.what.to_string(),
            every_seconds: about.every.map(|every| every.as_secs_f64()),
            notified_by: about.notified_by.map(str::to_string),
            running: false,
            since: Timestamp::now(),
            next: None,
            last: None,
            last_success: None,
            runs: 0,
            failures: 0,
            failures_in_a_row: 0,
        }
    }
}

/// The loop of one job.
struct Worker {
    about: About,
    status: Arc<Mutex<Status>>,
    metrics: Arc<Metrics>,
}

impl Worker {
    async fn work(self, mut job: impl Job) -> Infallible {
        let (mut rested, mut due) = (Instant::now(), self.about.every.map(|_| Instant::now() + self.about.first));
        loop {
            self.note(|status| status.next = due.map(timestamp));
            let notified = async {
                sleep_until(rested).await;
                job.notified().await
            };
            let notice = tokio::select! {
                notice = notified => Some(notice),
                () = until(due) => None,
            };
            let began = Instant::now();
            self.note(|status| (status.running, status.since, status.next) = (true, Timestamp::now(), None));
            let outcome = AssertUnwindSafe(async { job.run(notice).await }).catch_unwind().await;
            self.ended(outcome.unwrap_or_else(|panic| Err(reason(&*panic))), began.elapsed());
            rested = Instant::now() + job.pause(began.elapsed());
            due = self.about.every.map(|every| rested.max(began + every));
        }
    }

    /// Logs and counts a run.
    fn ended(&self, outcome: Outcome, took: Duration) {
        let (job, seconds) = (self.about.name, took.as_secs_f64());
        let (result, text) = match outcome {
            Ok(Done::Quiet) => (Ending::Ok, String::new()),
            Ok(Done::Did(text)) => (Ending::Ok, text),
            Ok(Done::Skipped(reason)) => (Ending::Skipped, reason),
            Err(error) => (Ending::Failed, error),
        };
        let text: String = text.chars().take(RESULT_MAX).collect();
        self.log(result, &text, seconds);
        let ended = Timestamp::now();
        self.metrics.job_runs.with_label_values(&[job, result.as_str()]).inc();
        if result == Ending::Ok {
            self.metrics.job_last_success.with_label_values(&[job]).set(ended.as_second());
        }
        self.note(|status| {
            (status.running, status.since) = (false, ended);
            status.runs += 1;
            if result == Ending::Failed {
                status.failures += 1;
                status.failures_in_a_row += 1;
            } else {
                status.failures_in_a_row = 0;
            }
            status.last_success = if result == Ending::Ok { Some(ended) } else { status.last_success };
            status.last = Some(Run { ended, seconds, result, text });
        });
    }

    /// Logs the result of a run. A repeated failure is logged once, and again when it changes or ends.
    fn log(&self, result: Ending, text: &str, seconds: f64) {
        let (job, failing) = (self.about.name, self.about.failing);
        let (last, failures) = {
            let status = lock(&self.status);
            (status.last.as_ref().map(|run| (run.result, run.text.clone())), status.failures_in_a_row)
        };
        let is_new = last.is_none_or(|last| last != (result, text.to_string()));
        match result {
            Ending::Failed if is_new => tracing::warn!(job, error = text, "{failing}"),
            Ending::Skipped if is_new => tracing::warn!(job, reason = text, "{job} skipped"),
            Ending::Ok if !text.is_empty() => tracing::info!(job, seconds, "{text}"),
            _ => {}
        }
        if failures > 0 && result != Ending::Failed {
            tracing::info!(job, failures, "{job} works again");
        }
    }

    fn note(&self, change: impl FnOnce(&mut Status)) {
        change(&mut lock(&self.status));
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

fn timestamp(at: Instant) -> Timestamp {
    Timestamp::now() + at.saturating_duration_since(Instant::now())
}

/// The text of a panic.
fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("for an unknown reason"))
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about() -> About {
        let (first, every) = (Duration::from_secs(1), Some(Duration::from_secs(60)));
        About { name: "test", what: "Tests.", failing: "cannot test", notified_by: None, first, every }
    }

    fn metric(metrics: &Metrics, result: &str) -> u64 {
        metrics.job_runs.with_label_values(&["test", result]).get()
    }

    #[tokio::test(start_paused = true)]
    async fn failures_and_panics_show_and_the_job_goes_on() {
        let metrics = Arc::new(Metrics::default());
        let jobs = Arc::new(Jobs::new(metrics.clone()));
        let mut run = 0;
        let work = move || {
            run += 1;
            async move {
                match run {
                    1 => Err("the bucket is away".to_string()),
                    2 => panic!("on purpose"),
                    3 => Ok(Done::Skipped("not allowed".to_string())),
                    _ => Ok(Done::Did("tested".to_string())),
                }
            }
        };
        tokio::spawn(jobs.add(Timed { about: about(), work }));
        let status = || jobs.all().remove(0);
        assert!(status().last.is_none() && !status().running);
        let mut expected = [(Ending::Failed, "the bucket is away", 1), (Ending::Failed, "panicked: on purpose", 2)]
            .into_iter()
            .chain([(Ending::Skipped, "not allowed", 0), (Ending::Ok, "tested", 0)]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        for runs in 1..=4 {
            let (shown, (result, text, in_a_row)) = (status(), expected.next().unwrap());
            let last = shown.last.unwrap();
            assert_eq!((last.result, &*last.text, shown.failures_in_a_row, shown.runs), (result, text, in_a_row, runs));
            assert!(!shown.running && shown.next.is_some());
            assert_eq!(shown.last_success.is_some(), runs == 4);
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        assert_eq!(status().failures, 2);
        assert_eq!([metric(&metrics, "failed"), metric(&metrics, "skipped"), metric(&metrics, "ok")], [2, 1, 2]);
    }

    /// A job that is notified whenever it asks.
    struct Eager(Arc<Mutex<Vec<(Instant, bool)>>>);

    impl Job for Eager {
        type Notice = ();

        fn about(&self) -> About {
            About { first: Duration::ZERO, ..about() }
        }

        async fn notified(&mut self) {}

        async fn run(&mut self, notice: Option<()>) -> Outcome {
            tokio::time::sleep(Duration::from_secs(2)).await;
            lock(&self.0).push((Instant::now(), notice.is_some()));
            Ok(Done::Quiet)
        }

        fn pause(&self, took: Duration) -> Duration {
            took * 5
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_notified_job_rests_between_two_runs() {
        let (began, runs) = (Instant::now(), Arc::<Mutex<Vec<_>>>::default());
        let jobs = Arc::new(Jobs::new(Arc::default()));
        let _ = tokio::time::timeout(Duration::from_secs(30), jobs.add(Eager(runs.clone()))).await;
        let seconds: Vec<u64> = lock(&runs).iter().map(|(at, _)| (*at - began).as_secs()).collect();
        assert_eq!(seconds, [2, 14, 26]);
        assert!(lock(&runs).iter().skip(1).all(|(_, notified)| *notified));
        assert_eq!(jobs.all().len(), 1);
    }
}
