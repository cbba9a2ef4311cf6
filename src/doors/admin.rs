//! Health and metrics.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use super::Doors;

/// The process answers.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// The store answers and takes writes.
pub async fn readyz(State(doors): State<Doors>) -> Response {
    match doors.store.probe().await {
        Ok(()) => "ready\n".into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {error}\n")).into_response(),
    }
}

pub async fn metrics(State(doors): State<Doors>) -> Response {
    let kind = [(http::header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, doors.metrics.render()).into_response()
}
