//! Health, metrics, and what operators ask of a running server.

use axum::Json;
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;

use crate::access::{Pull, Tags};
use crate::auth::{Caller, Refusal};
use crate::config::Challenge;
use crate::deadline::Deadline;
use crate::doors::Doors;
use crate::doors::who::Sender;
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
        && let Err(refusal) = admit(&doors, request.map(drop), |caller| doors.gate.admit_metrics(caller)).await
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
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let admitted = match doors.gate.identify(&Sender::new(&doors, &request).knock()).await {
        Ok(caller) => doors.gate.admit::<Pull>(&caller, repo, Tags::Named(vec![tag.clone()])),
        Err(refusal) => Err(refusal),
    };
    let permit = match admitted {
        Ok(permit) => permit,
        Err(refusal) => return refused(&doors, &request, &refusal),
    };
    let repo = doors.store.repo(permit, Deadline::of_each_call());
    match doors.store.caches().inspect(&repo, &tag).await {
        Ok(inspection) => Json(inspection).into_response(),
        Err(error @ (Error::ManifestUnknown(_) | Error::RepoUnknown(_))) => {
            refuse(StatusCode::NOT_FOUND, &error.to_string())
        }
        Err(error @ Error::Busy) => refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// Lets in who may administer, and who can read the files of the store.
pub(super) async fn admit_operator(doors: &Doors, request: http::Request<()>) -> Result<(), Response> {
    admit(doors, request, |caller| doors.gate.admit_admin(caller)).await
}

async fn admit(
    doors: &Doors,
    request: http::Request<()>,
    may: impl FnOnce(&Caller) -> Result<(), Refusal>,
) -> Result<(), Response> {
    let sender = Sender::new(doors, &request);
    let knock = sender.knock();
    let bearer = knock.authorization.and_then(|shown| shown.strip_prefix("Bearer "));
    if doors.gate.is_operator(bearer) {
        return Ok(());
    }
    let admitted = match doors.gate.identify(&knock).await {
        Ok(caller) => may(&caller),
        Err(refusal) => Err(refusal),
    };
    admitted.map_err(|refusal| refused(doors, &request, &refusal))
}

/// A refusal for want of a right.
pub(super) fn refused(doors: &Doors, request: &http::Request<()>, refusal: &Refusal) -> Response {
    let status = match refusal {
        Refusal::Denied(_) => StatusCode::FORBIDDEN,
        Refusal::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::UNAUTHORIZED,
    };
    let mut response = refuse(status, &refusal.to_string());
    if let Some(challenge) = Sender::new(doors, request).challenge(Challenge::Basic, refusal, None) {
        response.headers_mut().insert(http::header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// What each tenant stores and may store, in bytes, and what was counted of its repositories last.
pub async fn usage(State(doors): State<Doors>, request: Request) -> Response {
    if let Err(refusal) = admit_operator(&doors, request.map(drop)).await {
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
pub async fn jobs(State(doors): State<Doors>, request: Request) -> Response {
    if let Err(refusal) = admit_operator(&doors, request.map(drop)).await {
        return refusal;
    }
    Json(json!({ "jobs": doors.jobs.all() })).into_response()
}

/// What the last collection of this server found and did; `null` before the first.
pub async fn last_collection(State(doors): State<Doors>, request: Request) -> Response {
    if let Err(refusal) = admit_operator(&doors, request.map(drop)).await {
        return refusal;
    }
    Json(doors.collector.last().as_deref()).into_response()
}

pub(super) fn refuse(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "errors": [{ "message": message }] }))).into_response()
}
