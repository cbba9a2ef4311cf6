//! The protocol fronts, and all that knows HTTP.
//!
//! Invariant: axum and http types stay in this folder. Doors do not know each other: they share the [`kit`].

pub mod admin;
pub mod claims;
mod connection;
pub mod kit;
pub mod listen;
pub mod observe;
pub mod pages;
pub mod registry;
pub mod token;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, StatusCode};
use tower::{Service, ServiceExt};

use crate::auth::Gate;
use crate::config::Config;
use crate::doors::claims::Door;
use crate::doors::kit::answer::without_body;
use crate::doors::kit::audit::Note;
use crate::doors::kit::body::Collecting;
use crate::doors::kit::browser::{self, BrowserRefusal};
use crate::doors::kit::origin::RequestOrigin;
use crate::doors::kit::refusal::{Refusal, RefusalKind};
use crate::events::Events;
use crate::jobs::Jobs;
use crate::lifetime::collect::Collector;
use crate::metrics::Metrics;
use crate::store::Store;

/// The services that all doors use.
#[derive(Clone)]
pub struct Doors {
    pub store: Store,
    pub gate: Arc<Gate>,
    pub config: Arc<Config>,
    pub metrics: Arc<Metrics>,
    pub events: Events,
    pub collector: Arc<Collector>,
    pub jobs: Arc<Jobs>,
    pub collecting: Collecting,
    /// Set when the server was told to stop.
    pub draining: Arc<AtomicBool>,
}

/// Routes all requests, by the table of [`claims`]. The registry has its own routes, and so many requests that another
/// router in front of it would cost measurably: all others share one router.
#[derive(Clone)]
pub struct Front {
    doors: Doors,
    others: Router,
}

impl Front {
    pub fn new(doors: Doors) -> Front {
        let others = Router::new()
            .route("/healthz", get(admin::healthz))
            .route("/readyz", get(admin::readyz))
            .route("/metrics", get(admin::metrics))
            .route("/token", get(token::token).post(token::token))
            .route("/token/exchange", post(token::exchange))
            .route("/token/revoke", post(token::revoke))
            .route("/api/inspect", get(admin::inspect))
            .route("/api/usage", get(admin::usage))
            .route("/api/jobs", get(admin::background_jobs))
            .route("/api/check", post(admin::jobs::check))
            .route("/api/gc", get(admin::last_collection).post(admin::jobs::collect))
            .merge(pages::routes())
            .with_state(doors.clone());
        Front { doors, others }
    }

    /// Answers one request. The answer counts and logs itself when its last byte is sent.
    pub fn answer(&self, request: Request) -> impl Future<Output = Response> + Send + use<> {
        let (doors, others) = (self.doors.clone(), self.others.clone());
        observe::observe(self.doors.metrics.clone(), request, move |mut request| async move {
            let is_head = request.method() == Method::HEAD;
            let note = Note::leave_on(&doors, &mut request);
            let foreign = browser::refuse_foreign(&RequestOrigin::new(&doors, &request), request.method());
            let (label, response) = match foreign {
                Err(error) => ("none", refuse(&doors, &request, &error)),
                Ok(()) => match claims::door(request.uri(), request.headers(), &[]) {
                    Door::Registry => {
                        let (label, response) = registry::serve(doors, request).await;
                        (label, registry::versioned(response))
                    }
                    // No request is routed to an unclaimed path.
                    Door::Reserved | Door::Nobody => ("admin", StatusCode::NOT_FOUND.into_response()),
                    door @ (Door::Pages | Door::Admin) => {
                        let Ok(response) = Box::pin(others.oneshot(request)).await;
                        (if door == Door::Pages { "page" } else { "admin" }, response)
                    }
                },
            };
            if let Some(note) = note {
                note.close(label, response.status());
            }
            (label, if is_head { without_body(response) } else { response })
        })
    }
}

/// The refusal of a browser that another site has led here, for all doors.
fn refuse(doors: &Doors, request: &Request, error: &BrowserRefusal) -> Response {
    let refusal = Refusal::from(RefusalKind::Denied);
    Note::of(doors, request).refused(None, "none", refusal.status, &error.to_string());
    refusal.told(error)
}

impl Service<Request<Body>> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.answer(request).map(Ok).boxed()
    }
}
