//! Pages for people: what is stored, what happens, what went and why. Rendered here, without a script.
//!
//! Each page is a value first, then HTML or JSON: as `Accept` asks, and always JSON below `/api/`.
//!
//! Invariant: no page lists the store. They show what memory has, with its age; but for the page of a tag, which reads
//! what an import of it would read.
//! Invariant: what a caller may see is decided by `Visibility` and nowhere else.

mod evictions;
mod frame;
mod graph;
mod history;
mod jobs;
mod overview;
mod pending;
mod repos;
mod scopes;
mod show;
mod tag;
mod visibility;

use axum::Json;
use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY, VARY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use maud::Markup;
use serde::Serialize;
use serde_json::json;

use super::Doors;
use visibility::Visibility;

/// Nothing is loaded but our own style sheet, nothing runs, and no other site shows a page in a frame of its own.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";
const STYLE: &str = include_str!("style.css");

/// All that is here.
pub fn routes() -> Router<Doors> {
    Router::new()
        .route("/", get(overview))
        .route("/repositories", get(repositories))
        .route("/repo/{*name}", get(repository))
        .route("/evictions", get(evicted))
        .route("/scopes", get(scopes_page))
        .route("/jobs", get(jobs_page))
        .route("/style.css", get(style))
        .route("/api/overview", get(overview))
        .route("/api/repositories", get(repositories))
        .route("/api/repo/{*name}", get(repository))
        .route("/api/evictions", get(evicted))
        .route("/api/scopes", get(scopes_page))
}

async fn overview(State(doors): State<Doors>, request: Request) -> Response {
    let request = request.map(drop);
    let page = ContentNegotiation::of(&request);
    page.reply(Visibility::of(&doors, &request).await.map(|visible| overview::gather(&doors, &visible)))
}

async fn repositories(
    State(doors): State<Doors>,
    Query(wanted): Query<repos::RepoQuery>,
    request: Request,
) -> Response {
    let request = request.map(drop);
    let page = ContentNegotiation::of(&request);
    page.reply(Visibility::of(&doors, &request).await.map(|visible| repos::list(&doors, &visible, wanted)))
}

/// A repository, or a tag of it: `app`, `app:cache`.
async fn repository(
    State(doors): State<Doors>,
    Path(name): Path<String>,
    Query(wanted): Query<repos::RepoQuery>,
    request: Request,
) -> Response {
    let request = request.map(drop);
    let page = ContentNegotiation::of(&request);
    let visible = match Visibility::of(&doors, &request).await {
        Ok(visible) => visible,
        Err(error) => return page.refuse(error),
    };
    match name.split_once(':') {
        Some((repo, tag)) => page.reply(tag::gather(&doors, &visible, repo, tag).await),
        None => page.reply(repos::one(&doors, &visible, &name, wanted)),
    }
}

async fn evicted(State(doors): State<Doors>, request: Request) -> Response {
    let request = request.map(drop);
    let page = ContentNegotiation::of(&request);
    page.reply(Visibility::of(&doors, &request).await.map(|visible| evictions::gather(&doors, &visible)))
}

async fn scopes_page(State(doors): State<Doors>, request: Request) -> Response {
    let request = request.map(drop);
    let page = ContentNegotiation::of(&request);
    page.reply(Visibility::of(&doors, &request).await.and_then(|visible| scopes::page(&doors, &visible)))
}

async fn jobs_page(State(doors): State<Doors>, request: Request) -> Response {
    let request = request.map(drop);
    let page = ContentNegotiation::of(&request);
    page.reply(Visibility::of(&doors, &request).await.and_then(|visible| jobs::gather(&doors, &visible)))
}

async fn style() -> Response {
    let headers = [
        (CONTENT_TYPE, "text/css; charset=utf-8"),
        (CACHE_CONTROL, "max-age=300"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, STYLE).into_response()
}

/// The reason why there is no page.
pub struct PageError {
    status: StatusCode,
    why: String,
    /// The challenge, for requests without credentials.
    challenge: Option<HeaderValue>,
}

impl PageError {
    fn new(status: StatusCode, why: impl ToString) -> PageError {
        PageError { status, why: why.to_string(), challenge: None }
    }

    fn unknown(what: impl std::fmt::Display) -> PageError {
        PageError::missing(format!("{what} is unknown"))
    }

    fn missing(why: impl ToString) -> PageError {
        PageError::new(StatusCode::NOT_FOUND, why)
    }

    /// The heading of the page that says so.
    fn title(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "Log in to see this page",
            StatusCode::FORBIDDEN => "You may not see this page",
            StatusCode::NOT_FOUND => "Nothing here",
            _ => "No page",
        }
    }
}

/// A page as a value, and how people see it.
trait HtmlPage: Serialize {
    fn title(&self) -> String;
    fn body(&self) -> Markup;
}

/// The format that a request asks for.
struct ContentNegotiation {
    json: bool,
}

impl ContentNegotiation {
    fn of(request: &http::Request<()>) -> ContentNegotiation {
        let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        let json = accept.find("application/json");
        let html = accept.find("text/html");
        // The first type that is named counts: clients that want JSON do not name HTML.
        let preferred = json.is_some_and(|json| html.is_none_or(|html| json < html));
        ContentNegotiation { json: preferred || request.uri().path().starts_with("/api/") }
    }

    fn reply(&self, page: Result<impl HtmlPage, PageError>) -> Response {
        match page {
            Ok(page) if self.json => guarded(Json(page).into_response()),
            Ok(page) => guarded(html(frame::page(&page.title(), &page.body()))),
            Err(error) => self.refuse(error),
        }
    }

    fn refuse(&self, error: PageError) -> Response {
        let mut response = match self.json {
            true => Json(json!({ "errors": [{ "message": error.why }] })).into_response(),
            false => html(frame::page(error.title(), &frame::refused(&error.why))),
        };
        *response.status_mut() = error.status;
        if let Some(challenge) = error.challenge {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        guarded(response)
    }
}

fn html(page: Markup) -> Response {
    ([(CONTENT_TYPE, "text/html; charset=utf-8")], page.into_string()).into_response()
}

fn guarded(mut response: Response) -> Response {
    const HEADERS: [(HeaderName, &str); 6] = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (VARY, "accept"),
    ];
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_get_json_and_browsers_get_pages() {
        let json = |path: &str, accept: &str| {
            ContentNegotiation::of(&http::Request::get(path).header(ACCEPT, accept).body(()).unwrap()).json
        };
        assert!(!json("/", "text/html,application/xhtml+xml,*/*;q=0.8"));
        assert!(!json("/", "*/*"));
        assert!(json("/", "application/json"));
        assert!(json("/", "application/json, text/html;q=0.1"));
        assert!(json("/api/overview", "text/html"));
    }
}
