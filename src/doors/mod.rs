//! The protocol fronts, and all that knows HTTP.
//!
//! Invariant: axum and http types stay in this folder. Doors do not know each other.

pub mod admin;
mod connection;
pub mod listen;
pub mod observe;
pub mod registry;
pub mod token;
pub mod who;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::routing::{any, get, post};

use crate::auth::Gate;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::Store;

/// What every door needs.
#[derive(Clone)]
pub struct Doors {
    pub store: Store,
    pub gate: Arc<Gate>,
    pub config: Arc<Config>,
    pub metrics: Arc<Metrics>,
}

/// All that the server answers.
pub fn router(doors: Doors) -> Router {
    let registry = any(|State(doors): State<Doors>, request: Request| registry::serve(doors, request));
    Router::new()
        .route("/healthz", get(admin::healthz))
        .route("/readyz", get(admin::readyz))
        .route("/metrics", get(admin::metrics))
        .route("/token", get(token::token).post(token::token))
        .route("/token/exchange", post(token::exchange))
        .route("/api/inspect", get(admin::inspect))
        .route("/v2", registry.clone())
        .route("/v2/", registry.clone())
        .route("/v2/{*path}", registry)
        .layer(axum::middleware::from_fn_with_state(doors.clone(), observe::observe))
        .with_state(doors)
}
