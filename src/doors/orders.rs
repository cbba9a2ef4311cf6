//! What operators order of a running server: long work, told line by line in JSON as it goes on.
//!
//! An order ends with the connection that gave it.

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use http::StatusCode;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use crate::check::{Depth, Event};
use crate::doors::Doors;
use crate::lifetime::collect::Wish;

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct CheckOrder {
    read_data: bool,
    repair: bool,
}

/// Checks the store: see `larder check`.
pub async fn check(State(doors): State<Doors>, Query(order): Query<CheckOrder>, request: Request) -> Response {
    if let Err(refusal) = admit(&doors, request).await {
        return refusal;
    }
    let depth = if order.read_data { Depth::Bytes } else { Depth::Names };
    told(|lines| async move {
        let report = |event| tell(&lines, &event);
        if let Err(error) = doors.store.check(depth, order.repair, report).await {
            tell(&lines, &Event::Failed(error.to_string()));
        }
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct CollectOrder {
    dry_run: bool,
}

/// Collects once: see `larder gc`.
pub async fn collect(State(doors): State<Doors>, Query(order): Query<CollectOrder>, request: Request) -> Response {
    if let Err(refusal) = admit(&doors, request).await {
        return refusal;
    }
    told(|lines| async move {
        match doors.collector.run(Wish { dry: order.dry_run }).await {
            Ok(report) => tell(&lines, &json!({ "done": &*report })),
            Err(error) => tell(&lines, &json!({ "failed": error.to_string() })),
        }
    })
}

/// Where everybody may everything, still only who can read the files of the store may give orders.
async fn admit(doors: &Doors, request: Request) -> Result<(), Response> {
    let shown = request.headers().get(AUTHORIZATION).and_then(|shown| shown.to_str().ok());
    let is_operator = doors.gate.is_operator(shown.and_then(|shown| shown.strip_prefix("Bearer ")));
    if doors.gate.is_open() && !is_operator {
        return Err(crate::doors::admin::refuse(StatusCode::FORBIDDEN, "access denied"));
    }
    crate::doors::admin::admit_operator(doors, request.map(drop)).await
}

/// Does the work, and answers with what it tells.
pub fn told<F: Future<Output = ()> + Send + 'static>(work: impl FnOnce(UnboundedSender<Bytes>) -> F) -> Response {
    let (lines, told) = unbounded_channel();
    let work = Work { told, task: tokio::spawn(work(lines)) };
    let lines = stream::unfold(work, |mut work| async move {
        let line = work.told.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(line), work))
    });
    ([(CONTENT_TYPE, "application/jsonl")], Body::from_stream(lines)).into_response()
}

/// One line.
pub fn tell(lines: &UnboundedSender<Bytes>, what: &impl Serialize) {
    match serde_json::to_vec(what) {
        Ok(mut line) => {
            line.push(b'\n');
            // Who does not listen any more has ended the work.
            let _ = lines.send(line.into());
        }
        Err(error) => tracing::error!(%error, "line cannot be told"),
    }
}

/// Work that ends when nobody listens.
struct Work {
    told: UnboundedReceiver<Bytes>,
    task: JoinHandle<()>,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.task.abort();
    }
}
