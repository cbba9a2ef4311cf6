//! What operators order of a running server: long work, told line by line in JSON as it goes on.
//!
//! An order ends with the connection that gave it.

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::Doors;
use crate::store::check::{Depth, Event};
use crate::store::collect::Wish;

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct CheckOrder {
    read_data: bool,
    repair: bool,
}

/// Checks the store: see `larder check`.
pub async fn check(State(doors): State<Doors>, headers: HeaderMap, Query(order): Query<CheckOrder>) -> Response {
    if let Some(refusal) = refusal(&doors, &headers) {
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
pub async fn collect(State(doors): State<Doors>, headers: HeaderMap, Query(order): Query<CollectOrder>) -> Response {
    if let Some(refusal) = refusal(&doors, &headers) {
        return refusal;
    }
    told(|lines| async move {
        let pressed = doors.store.room().is_short();
        match doors.collector.run(Wish { dry: order.dry_run, pressed }).await {
            Ok(report) => tell(&lines, &json!({ "done": report })),
            Err(error) => tell(&lines, &json!({ "failed": error.to_string() })),
        }
    })
}

/// What everybody else is told: only who can read the files of the store may give orders.
pub fn refusal(doors: &Doors, headers: &HeaderMap) -> Option<Response> {
    let field = headers.get(AUTHORIZATION).and_then(|field| field.to_str().ok());
    let token = field.and_then(|field| field.strip_prefix("Bearer "));
    let denied = doors.gate.admit_operator(token).err()?;
    Some(super::admin::refuse(StatusCode::FORBIDDEN, &denied.to_string()))
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
