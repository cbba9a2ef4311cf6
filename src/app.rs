//! From a configuration to a running server, and down again.

pub mod reload;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use tokio::sync::watch;

use crate::auth::Gate;
use crate::config::{Config, Secret};
use crate::doors::listen::Listener;
use crate::doors::{self, Doors};
use crate::metrics::Metrics;
use crate::names::Tenant;
use crate::objects::Objects;
use crate::objects::fs::FsObjects;
use crate::objects::s3::S3Objects;
use crate::store::{Store, format};

/// How often idle uploads are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// A server that has not begun to listen.
pub struct App {
    /// What it was told.
    pub config: Arc<Config>,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// What it keeps.
    pub store: Store,
    /// Whom it lets in.
    pub gate: Arc<Gate>,
}

impl App {
    /// Opens the store that the configuration names.
    pub async fn open(config: Config) -> anyhow::Result<App> {
        let objects: Arc<dyn Objects> = match &config.store.s3 {
            Some(s3) => Arc::new(S3Objects::open(s3).await?),
            None => Arc::new(FsObjects::open(&config.store.path)?),
        };
        App::over(objects, config).await
    }

    /// Builds the server over any objects.
    pub async fn over(objects: Arc<dyn Objects>, config: Config) -> anyhow::Result<App> {
        format::open(&*objects).await.context("cannot use the store")?;
        let (config, metrics) = (Arc::new(config), Arc::new(Metrics::default()));
        let store = Store::new(objects, config.clone(), metrics.clone());
        warn(&config);
        let gate = Gate::open(&config, signing_key(&store, &config).await?)?;
        Ok(App { config, metrics, store, gate: Arc::new(gate) })
    }

    /// All that the server answers.
    pub fn router(&self) -> axum::Router {
        doors::router(Doors {
            store: self.store.clone(),
            gate: self.gate.clone(),
            config: self.config.clone(),
            metrics: self.metrics.clone(),
        })
    }
}

/// Says what an operator may not have meant.
fn warn(config: &Config) {
    let (server, closed) = (&config.server, config.is_closed());
    let remote = |addresses: &[SocketAddr]| addresses.iter().any(|address| !address.ip().is_loopback());
    if !closed && (remote(&server.listen) || remote(&server.listen_plain)) {
        tracing::warn!("no authentication is configured: whoever can reach the server may read and write the cache");
    }
    let plain = if config.tls.is_none() { &server.listen } else { &server.listen_plain };
    if closed && remote(plain) && server.trusted_proxies.is_empty() {
        tracing::warn!("passwords and tokens cross the network in the clear: configure [tls], or put a proxy in front");
    }
    if closed && config.rules.is_empty() {
        tracing::warn!("there are identities but no [[rules]]: nobody may do anything");
    }
}

/// The key that the store keeps, where tokens are issued and none is configured.
async fn signing_key(store: &Store, config: &Config) -> anyhow::Result<Option<Secret>> {
    if !config.is_closed() || !config.signing_keys()?.is_empty() {
        return Ok(None);
    }
    let key = store.signing_key().await.context("the key that signs tokens cannot be read or made")?;
    Ok(Some(Secret::new(key)))
}

/// Serves until `shutdown` resolves, then lets requests under way finish, for as long as the configuration grants.
pub async fn run(app: App, listeners: Vec<impl Into<Listener>>, shutdown: impl Future<Output = ()>) {
    let (stop, stopped) = watch::channel(false);
    let router = app.router();
    let listeners = listeners.into_iter().map(Into::into).collect();
    let sweeping = tokio::spawn(sweep(app.store.clone(), app.config.clone()));
    let serving =
        doors::listen::serve(listeners, router, app.gate.clone(), &app.config.limits, app.metrics.clone(), stopped);
    let stopping = async {
        shutdown.await;
        tracing::info!(drain_seconds = app.config.server.drain.get().as_secs(), "stopping: no new connections");
        stop.send_replace(true);
        tokio::time::sleep(app.config.server.drain.get()).await;
    };
    tokio::select! {
        () = serving => tracing::info!("stopped"),
        () = stopping => tracing::warn!("stopped with requests under way: the time to drain has run out"),
    }
    sweeping.abort();
}

async fn sweep(store: Store, config: Arc<Config>) {
    let mut timer = tokio::time::interval(SWEEP_EVERY);
    loop {
        timer.tick().await;
        let idle = config.limits.upload_idle.get();
        match store.sweep_uploads(&Tenant::default_tenant(), idle, SystemTime::now()).await {
            Ok(0) => {}
            Ok(uploads) => tracing::info!(uploads, "idle uploads were removed"),
            Err(error) => tracing::warn!(%error, "idle uploads cannot be removed"),
        }
    }
}
