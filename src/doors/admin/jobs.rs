//! Jobs that operators start on a running server: long work that reports line by line, in JSON, as it goes on.
//!
//! A job ends with the connection that started it.

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use http::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use crate::auth::AuthError;
use crate::check::{CheckEvent, Depth};
use crate::doors::Doors;
use crate::doors::kit::admit::{admit_operator, refused};
use crate::doors::kit::audit::Note;
use crate::doors::kit::origin::RequestOrigin;
use crate::lifetime::collect::Wish;

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct CheckJob {
    read_data: bool,
    repair: bool,
}

/// Checks the store: see `larder check`.
pub async fn check(State(doors): State<Doors>, Query(job): Query<CheckJob>, request: Request) -> Response {
    let note = match admit(&doors, request).await {
        Ok(note) => note,
        Err(refusal) => return refusal,
    };
    let depth = if job.read_data { Depth::Bytes } else { Depth::Names };
    ordered(note, |lines| async move {
        let report = |event| send_line(&lines, &event);
        if let Err(error) = doors.store.check(depth, job.repair, report).await {
            send_line(&lines, &CheckEvent::Failed(error.to_string()));
        }
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct CollectJob {
    dry_run: bool,
}

/// Collects once: see `larder gc`.
pub async fn collect(State(doors): State<Doors>, Query(job): Query<CollectJob>, request: Request) -> Response {
    let note = match admit(&doors, request).await {
        Ok(note) => note,
        Err(refusal) => return refusal,
    };
    ordered(note, |lines| async move {
        match doors.collector.run(Wish { dry: job.dry_run }).await {
            Ok(report) => send_line(&lines, &json!({ "done": &*report })),
            Err(error) => send_line(&lines, &json!({ "failed": error.to_string() })),
        }
    })
}

/// Where everybody may everything, still only who can read the files of the store may start jobs.
async fn admit(doors: &Doors, request: Request) -> Result<Note, Response> {
    let request = request.map(drop);
    let credentials = RequestOrigin::new(doors, &request).credentials();
    if doors.gate.is_open() && !doors.gate.is_operator(credentials.bearer()) {
        return Err(refused(doors, &request, &AuthError::Denied("access denied".into())));
    }
    Ok(Note::new(doors, admit_operator(doors, &request).await?, &request))
}

/// The answer to an order: its work has begun.
fn ordered<F: Future<Output = ()> + Send + 'static>(
    note: Note,
    work: impl FnOnce(UnboundedSender<Bytes>) -> F,
) -> Response {
    let answer = stream_json_lines(work);
    note.write(answer.status());
    answer
}

/// The answer that is what `work` reports, line by line.
pub fn stream_json_lines<F: Future<Output = ()> + Send + 'static>(
    work: impl FnOnce(UnboundedSender<Bytes>) -> F,
) -> Response {
    let (lines, report) = unbounded_channel();
    let work = Work { report, task: tokio::spawn(work(lines)) };
    let lines = stream::unfold(work, |mut work| async move {
        let line = work.report.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(line), work))
    });
    ([(CONTENT_TYPE, "application/jsonl")], Body::from_stream(lines)).into_response()
}

/// Sends one line of a job's report.
pub fn send_line(lines: &UnboundedSender<Bytes>, what: &impl Serialize) {
    match serde_json::to_vec(what) {
        Ok(mut line) => {
            line.push(b'\n');
            // Who does not listen any more has ended the work.
            let _ = lines.send(line.into());
        }
        Err(error) => tracing::error!(%error, "line cannot be sent"),
    }
}

/// Work that ends when nobody listens.
struct Work {
    report: UnboundedReceiver<Bytes>,
    task: JoinHandle<()>,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.task.abort();
    }
}
