//! Health, metrics, and what operators ask of a running server.

pub mod jobs;

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

/// The process answers.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// The store answers. One that is full still does: to take its server away from builders would only make it worse.
pub async fn readyz(State(doors): State<Doors>) -> Response {
    match doors.store.probe().await {
        Ok(()) => "ready\n".into_response(),
        Err(error @ Error::Full) => format!("ready to be read, but {error}\n").into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {error}\n")).into_response(),
    }
}

/// What is counted: for everybody, or for whom the configuration names and who may administer.
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

/// What a tag is made of.
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

/// What each tenant stores and may store, in bytes, and what was counted of its repositories last.
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

/// The background jobs of this server, and how they went.
pub async fn background_jobs(State(doors): State<Doors>, request: Request) -> Response {
    if let Err(refused) = admit_operator(&doors, &request.map(drop)).await {
        return refused;
    }
    Json(json!({ "jobs": doors.jobs.all() })).into_response()
}

/// What the last collection of this server found and did; `null` before the first.
pub async fn last_collection(State(doors): State<Doors>, request: Request) -> Response {
    if let Err(refusal) = admit_operator(&doors, &request.map(drop)).await {
        return refusal;
    }
    Json(doors.collector.last().as_deref()).into_response()
}
