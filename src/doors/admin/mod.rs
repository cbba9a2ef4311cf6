//! Health, metrics, and requests of operators to a running server.

pub mod jobs;

use std::sync::atomic::Ordering::Relaxed;

use axum::Json;
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use crate::access::{Pull, Tags};
use crate::deadline::Deadline;
use crate::doors::Doors;
use crate::doors::kit::admit::{admit, admit_operator, refused};
use crate::doors::kit::nearby::unknown_tag;
use crate::doors::kit::origin::RequestOrigin;
use crate::doors::kit::refusal::{Refusal, RefusalKind};
use crate::error::Error;
use crate::names::{InvalidName, RepoName, Tag};

/// Answers that the process runs.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// Answers whether the store answers. A full store does: to take its server away from builders would only make it
/// worse.
pub async fn readyz(State(doors): State<Doors>) -> Response {
    if doors.draining.load(Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining: this server was told to stop\n").into_response();
    }
    match doors.store.probe().await {
        Ok(()) => "ready\n".into_response(),
        Err(error @ Error::Full) => format!("ready to be read, but {error}\n").into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {error}\n")).into_response(),
    }
}

/// Answers with the metrics: to all callers, or to the configured readers and to admins.
pub async fn metrics(State(doors): State<Doors>, request: Request) -> Response {
    if !doors.gate.has_open_metrics()
        && let Err(refusal) = admit(&doors, &request.map(drop), |caller| doors.gate.admit_metrics(caller)).await
    {
        return refusal;
    }
    let kind = [(http::header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, doors.metrics.render()).into_response()
}

/// A tag, written `repository:tag`; without a tag it is `latest`.
#[derive(Deserialize)]
pub struct Inspected {
    #[serde(rename = "ref")]
    reference: String,
}

impl Inspected {
    fn parse(&self) -> Result<(RepoName, Tag), InvalidName> {
        let (repo, tag) = self.reference.rsplit_once(':').unwrap_or((&self.reference, "latest"));
        Ok((repo.parse()?, tag.parse()?))
    }
}

/// Answers with the content of a tag.
pub async fn inspect(State(doors): State<Doors>, Query(asked): Query<Inspected>, request: Request) -> Response {
    let request = request.map(drop);
    let (repo, tag) = match asked.parse() {
        Ok(parsed) => parsed,
        Err(error) => return Refusal::from(&error).with_status(StatusCode::BAD_REQUEST).told(error),
    };
    let tags = Tags::Named(vec![tag.clone()]);
    let caller = match doors.gate.identify(&RequestOrigin::new(&doors, &request).credentials()).await {
        Ok(caller) => caller,
        Err(error) => return refused(&doors, &request, None, &error),
    };
    let permit = match doors.gate.admit::<Pull>(&caller, repo, tags) {
        Ok(permit) => permit,
        Err(error) => return refused(&doors, &request, Some(&caller), &error),
    };
    let repo = doors.store.repo(permit, Deadline::of_each_call());
    match doors.store.caches().inspect(&repo, &tag).await {
        Ok(inspection) => Json(&*inspection).into_response(),
        Err(Error::ManifestUnknown(_) | Error::RepoUnknown(_)) => {
            Refusal::from(RefusalKind::ManifestUnknown).told(unknown_tag(&doors, &caller, repo.name(), &tag))
        }
        Err(error) => Refusal::from(&error).told(error),
    }
}

/// Answers with usage and quota of each tenant, in bytes, and the last count of its repositories.
pub async fn usage(State(doors): State<Doors>, request: Request) -> Response {
    if let Err(refusal) = admit_operator(&doors, &request.map(drop)).await {
        return refusal;
    }
    let tenants = doors.store.usage().accounts().into_iter().map(|(tenant, account)| {
        let quota = doors.config.quota(&tenant);
        json!({
            "tenant": &*tenant,
            "bytes": account.stored(),
            "blobs": account.blobs(),
            "arriving": account.arriving(),
            "quota": { "max": quota.max, "high": quota.high, "low": quota.low },
            "counted": account.scanned(),
        })
    });
    Json(json!({ "tenants": tenants.collect::<Vec<_>>() })).into_response()
}

/// Answers with the background jobs of this server, and their results.
pub async fn background_jobs(State(doors): State<Doors>, request: Request) -> Response {
    if let Err(refused) = admit_operator(&doors, &request.map(drop)).await {
        return refused;
    }
    Json(json!({ "jobs": doors.jobs.all() })).into_response()
}

/// Answers with the report of this server's last collection; `null` before the first.
pub async fn last_collection(State(doors): State<Doors>, request: Request) -> Response {
    if let Err(refusal) = admit_operator(&doors, &request.map(drop)).await {
        return refusal;
    }
    Json(doors.collector.last().as_deref()).into_response()
}
