//! Jobs that operators start on a running server: long work that reports its progress line by line, in JSON.
//!
//! A job ends with the connection that started it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

use crate::auth::AuthError;
use crate::check::{CheckEvent, Depth};
use crate::config::Config;
use crate::doors::Doors;
use crate::doors::kit::admit::{admit_operator, refused};
use crate::doors::kit::audit::Note;
use crate::doors::kit::origin::RequestOrigin;
use crate::lifetime::collect::Wish;

/// Maximum number of report lines that wait for a slow reader. Then the work waits.
const LINES_MAX: usize = 64;

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct CheckJob {
    read_data: bool,
    repair: bool,
}

/// Checks the store: see `larder check`.
pub async fn check(State(doors): State<Doors>, Query(job): Query<CheckJob>, request: Request) -> Response {
    let order = match admit(&doors, request.map(drop)).await {
        Ok(order) => order,
        Err(refusal) => return refusal,
    };
    let depth = if job.read_data { Depth::Bytes } else { Depth::Names };
    ordered(order, |lines| async move {
        let report = |event| {
            let lines = lines.clone();
            async move { send_line(&lines, &event).await }
        };
        if let Err(error) = doors.store.check(depth, job.repair, report).await {
            send_line(&lines, &CheckEvent::Failed(error.to_string())).await;
        }
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct CollectJob {
    dry_run: bool,
}

/// Policies that are to be tried, in bytes of TOML.
const POLICIES_BYTES_MAX: usize = 256 << 10;
/// They come from this host.
const POLICIES_TIMEOUT: Duration = Duration::from_secs(10);

/// Collects once: see `larder gc`. A dry run goes by the policies in the body, if there are any.
pub async fn collect(State(doors): State<Doors>, Query(job): Query<CollectJob>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let request = http::Request::from_parts(parts, ());
    let from = RequestOrigin::new(&doors, &request).address();
    let order = match admit(&doors, request).await {
        Ok(order) => order,
        Err(refusal) => return refusal,
    };
    let policies = match read_policies(&doors, from, body).await {
        Ok(policies) => policies.filter(|_| job.dry_run),
        Err(reason) => {
            order.note.refused(Some(&order.who), "admin", StatusCode::BAD_REQUEST, &reason);
            return (StatusCode::BAD_REQUEST, reason).into_response();
        }
    };
    ordered(order, |lines| async move {
        let collected = match policies {
            Some(policies) => doors.collector.try_policies(&policies).await,
            None => doors.collector.run(Wish { dry: job.dry_run }).await,
        };
        match collected {
            Ok(report) => send_line(&lines, &json!({ "done": &*report })).await,
            Err(error) => send_line(&lines, &json!({ "failed": error.to_string() })).await,
        }
    })
}

/// The configuration of this server with the policies of a body; nothing if it is empty.
async fn read_policies(doors: &Doors, from: Option<IpAddr>, body: Body) -> Result<Option<Config>, String> {
    let bytes = doors.collecting.form(from, None, body, POLICIES_BYTES_MAX, POLICIES_TIMEOUT).await;
    let bytes = bytes.map_err(|error| format!("cannot read the policies: {error}"))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| "the policies are not UTF-8".to_string())?;
    let tried = Config::of_policies(text).map_err(|error| error.to_string())?;
    Ok(Some(doors.config.with_policies(&tried)))
}

/// An order that was let in, for the audit log.
struct Order {
    note: Arc<Note>,
    who: String,
}

/// Where everybody may everything, still only who can read the files of the store may start jobs.
async fn admit(doors: &Doors, request: http::Request<()>) -> Result<Order, Response> {
    let credentials = RequestOrigin::new(doors, &request).credentials();
    if doors.gate.is_open() && !doors.gate.is_operator(credentials.bearer()) {
        return Err(refused(doors, &request, None, &AuthError::Denied("access denied".into())));
    }
    Ok(Order { who: admit_operator(doors, &request).await?, note: Note::of(doors, &request) })
}

/// The answer to an order, when its work begins.
fn ordered<F: Future<Output = ()> + Send + 'static>(order: Order, work: impl FnOnce(Sender<Bytes>) -> F) -> Response {
    let answer = stream_json_lines(work);
    order.note.written(Some(&order.who), answer.status());
    answer
}

/// An answer whose body is the report of `work`, line by line.
pub fn stream_json_lines<F: Future<Output = ()> + Send + 'static>(work: impl FnOnce(Sender<Bytes>) -> F) -> Response {
    let (lines, report) = channel(LINES_MAX);
    let work = StreamedWork { report, task: tokio::spawn(work(lines)) };
    let lines = stream::unfold(work, |mut work| async move {
        let line = work.report.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(line), work))
    });
    ([(CONTENT_TYPE, "application/jsonl")], Body::from_stream(lines)).into_response()
}

/// Sends one line of a job's report, once there is space in the queue.
pub async fn send_line(lines: &Sender<Bytes>, what: &impl Serialize) {
    match serde_json::to_vec(what) {
        Ok(mut line) => {
            line.push(b'\n');
            // If the reader has left, the work ends anyway.
            let _ = lines.send(line.into()).await;
        }
        Err(error) => tracing::error!(%error, "cannot send a line"),
    }
}

/// Work that ends when its reader leaves.
struct StreamedWork {
    report: Receiver<Bytes>,
    task: JoinHandle<()>,
}

impl Drop for StreamedWork {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn who_reads_slowly_slows_the_report_and_fills_no_memory() {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        let answer = stream_json_lines(move |lines| async move {
            for line in 0..10_000 {
                send_line(&lines, &line).await;
                count.fetch_add(1, Relaxed);
            }
        });
        let mut body = answer.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "0\n");
        // As long as the report can make progress by itself.
        let mut before = usize::MAX;
        while std::mem::replace(&mut before, sent.load(Relaxed)) != before {
            tokio::task::yield_now().await;
        }
        assert!(sent.load(Relaxed) <= LINES_MAX + 2, "{} lines are in memory", sent.load(Relaxed));
        assert!(body.collect().await.unwrap().to_bytes().ends_with(b"\n9999\n"));
    }
}
