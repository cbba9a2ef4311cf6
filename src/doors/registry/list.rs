//! Lists: tags, referrers, the catalog, and the base of the API.

use axum::response::Response;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderName, LINK};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use crate::auth::Caller;
use crate::deadline::{self, Deadline};
use crate::digest::Digest;
use crate::doors::kit::answer::{Answer, respond};
use crate::doors::registry::error::OciError;
use crate::names::{Tag, Tenant};
use crate::oci::OCI_INDEX;
use crate::refs::page::{Listed, Page};
use crate::refs::{Refs, Repo};

const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// Answers `GET /v2/`, by which clients check their credentials, and whether this is a registry at all.
pub fn base() -> Response {
    respond(StatusCode::OK).json(&json!({}))
}

pub async fn catalog(refs: &Refs, tenants: &[Tenant], page: &Page) -> Result<Response, OciError> {
    let listed = refs.catalog(tenants, page, Deadline::within(deadline::LONG)).await?;
    let names: Vec<String> = listed.entries.iter().map(ToString::to_string).collect();
    let answer = linked(respond(StatusCode::OK), "/v2/_catalog?", page, &listed, names.last());
    Ok(answer.json(&json!({ "repositories": names })))
}

/// Lists the tags that the caller may pull. The others, and their number, stay hidden.
pub async fn tags(repo: &Repo, caller: &Caller, page: Page) -> Result<Response, OciError> {
    let is_visible = |tag: &str| tag.parse::<Tag>().is_ok_and(|tag| caller.may_pull(repo.name(), &tag));
    let listed = repo.tags(&page, is_visible).await?;
    let path = format!("/v2/{}/tags/list?", repo.name());
    let answer = linked(respond(StatusCode::OK), &path, &page, &listed, listed.entries.last());
    Ok(answer.json(&json!({ "name": repo.name().to_string(), "tags": listed.entries })))
}

pub async fn referrers(repo: &Repo, subject: Digest, kind: Option<String>, page: Page) -> Result<Response, OciError> {
    let listed = repo.referrers(&subject, kind.as_deref(), &page).await?;
    let mut path = format!("/v2/{}/referrers/{subject}?", repo.name());
    let mut answer = respond(StatusCode::OK);
    if let Some(kind) = &kind {
        path.push_str(&format!("artifactType={}&", encode(kind)));
        answer = answer.set_const(OCI_FILTERS_APPLIED, "artifactType");
    }
    let last = listed.entries.last().map(|referrer| referrer.digest.to_string());
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed.entries });
    Ok(linked(answer, &path, &page, &listed, last.as_ref()).set_const(CONTENT_TYPE, OCI_INDEX).body(index.to_string()))
}

/// Adds a link to the next page, if there is one.
fn linked<T>(answer: Answer, path: &str, page: &Page, listed: &Listed<T>, last: Option<&String>) -> Answer {
    match last {
        Some(last) if listed.more => {
            answer.set(LINK, format!("<{path}n={}&last={}>; rel=\"next\"", page.limit, encode(last)))
        }
        _ => answer,
    }
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
