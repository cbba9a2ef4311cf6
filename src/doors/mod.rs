//! The protocol fronts, and all that knows HTTP.
//!
//! Invariant: axum and http types stay in this folder. Doors do not know each other.

pub mod admin;
mod connection;
pub mod listen;
pub mod observe;
pub mod orders;
pub mod pages;
pub mod registry;
pub mod token;
pub mod who;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::{get, post};
use futures::FutureExt;
use futures::future::BoxFuture;
use tower::{Service, ServiceExt};

use crate::auth::Gate;
use crate::config::Config;
use crate::jobs::Jobs;
use crate::lifetime::collect::Collector;
use crate::metrics::Metrics;
use crate::store::Store;

/// What every door needs.
#[derive(Clone)]
pub struct Doors {
    pub store: Store,
    pub gate: Arc<Gate>,
    pub config: Arc<Config>,
    pub metrics: Arc<Metrics>,
    pub collector: Arc<Collector>,
    pub jobs: Arc<Jobs>,
}

/// All that the server answers. The registry has its own routes, and is asked so often that another router in front of it
/// would show: all else goes through one.
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
            .route("/api/inspect", get(admin::inspect))
            .route("/api/usage", get(admin::usage))
            .route("/api/jobs", get(admin::jobs))
            .route("/api/check", post(orders::check))
            .route("/api/gc", get(admin::last_collection).post(orders::collect))
            .merge(pages::routes())
            .with_state(doors.clone());
        Front { doors, others }
    }

    /// Answers one request. The answer counts and logs itself when its last byte has gone.
    pub fn answer(&self, request: Request) -> impl Future<Output = Response> + Send + use<> {
        let (doors, others) = (self.doors.clone(), self.others.clone());
        observe::observe(self.doors.metrics.clone(), request, move |request| async move {
            if is_registry(request.uri().path()) {
                return registry::serve(doors, request).await;
            }
            let label = if pages::is_page(request.uri().path()) { "page" } else { "admin" };
            let Ok(response) = Box::pin(others.oneshot(request)).await;
            (label, response)
        })
    }
}

fn is_registry(path: &str) -> bool {
    path.strip_prefix("/v2").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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
