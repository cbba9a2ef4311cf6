//! From a configuration to a running server, and down again.

pub mod reload;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::auth::Gate;
use crate::check::{Event, Summary};
use crate::config::{Config, Secret};
use crate::doors;
use crate::doors::listen::Listener;
use crate::doors::{Doors, Front};
use crate::lifetime::collect::{Collector, Report, Wish};
use crate::meta::format;
use crate::metrics::{Metrics, recent};
use crate::objects::Objects;
use crate::objects::fs;
use crate::objects::fs::FsObjects;
use crate::objects::s3::S3Objects;
use crate::objects::traced::traced;
use crate::operator::Operator;
use crate::store::Store;
use crate::trace;
use crate::{deadline, error};

pub use crate::check::Depth;

/// How often idle uploads are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// How often what is stored is counted anew.
const COUNT_EVERY: Duration = Duration::from_secs(12 * 3600);
/// When something has changed, sooner: but not sooner than this after the last count, and not for more than one part in
/// so many of the time.
const COUNT_PAUSE_NEAR: Duration = Duration::from_secs(60);
const COUNT_PAUSE_FAR: Duration = Duration::from_secs(3600);
const COUNT_SHARE: u32 = 100;
/// The first collection comes so long after the start, or sooner where they come more often.
const COLLECT_FIRST: Duration = Duration::from_secs(60);
/// How often a server asks what others have found wrong.
const LEARN_EVERY: Duration = Duration::from_secs(60);

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
    /// What deletes what nobody needs.
    pub collector: Arc<Collector>,
}

impl App {
    /// Opens the store that the configuration names.
    pub async fn open(config: Config) -> anyhow::Result<App> {
        let metrics = Arc::new(Metrics::default());
        let objects: Arc<dyn Objects> = match &config.store.s3 {
            Some(s3) => {
                let upload_memory = s3.upload_memory(config.hot.size);
                Arc::new(S3Objects::open_counted(s3, upload_memory, metrics.clone()).await?)
            }
            None => Arc::new(FsObjects::open(&config.store.path)?),
        };
        App::counted_over(traced(objects), config, metrics).await
    }

    /// Builds the server over any objects.
    pub async fn over(objects: Arc<dyn Objects>, config: Config) -> anyhow::Result<App> {
        App::counted_over(objects, config, Arc::default()).await
    }

    async fn counted_over(objects: Arc<dyn Objects>, config: Config, metrics: Arc<Metrics>) -> anyhow::Result<App> {
        format::open(&*objects).await.context("cannot use the store")?;
        let config = Arc::new(config);
        let store = Store::new(objects, config.clone(), metrics.clone());
        store.load_quarantine().await.context("cannot read what is in quarantine")?;
        warn(&config);
        let gate = Arc::new(Gate::open(config.clone(), signing_key(&store, &config).await?)?);
        let collector = Arc::new(Collector::new(store.clone()));
        collector.recover().await.context("cannot clear what a collection has left")?;
        Ok(App { config, metrics, store, gate, collector })
    }

    /// Opens a store that there is: where there is none, nothing is made.
    pub async fn open_existing(config: Config) -> anyhow::Result<App> {
        let path = &config.store.path;
        if config.store.s3.is_none() && !path.join(format::key().as_str()).exists() {
            anyhow::bail!("there is no store in {}", path.display());
        }
        App::open(config).await
    }

    /// Checks the store, and tells what it finds.
    pub async fn check(&self, depth: Depth, repair: bool, report: impl FnMut(Event) + Send) -> error::Result<Summary> {
        self.store.check(depth, repair, report).await
    }

    /// Collects once.
    pub async fn collect(&self, dry: bool) -> error::Result<Arc<Report>> {
        self.store.scan_usage().await?;
        self.collector.run(Wish { dry }).await
    }

    /// Tells commands on this host where the server is, when the store is its own.
    pub fn announce(&self, listeners: &[Listener]) -> anyhow::Result<()> {
        if self.config.store.s3.is_some() {
            return Ok(());
        }
        let secure = self.config.tls.is_some() && !listeners.iter().any(|listener| listener.plain);
        let reachable = listeners.iter().filter(|listener| secure || listener.plain || self.config.tls.is_none());
        let addresses = reachable.map(|listener| listener.socket.local_addr()).collect::<Result<_, _>>()?;
        let left = Operator { addresses, secure, token: self.gate.operator_token().clone() };
        // A server on a full disk has better things to do than to end here.
        if let Err(error) = left.announce(&self.config.store.path) {
            tracing::warn!(%error, "commands on this host cannot find this server");
        }
        Ok(())
    }

    /// All that the server answers.
    pub fn front(&self) -> Front {
        Front::new(Doors {
            store: self.store.clone(),
            gate: self.gate.clone(),
            config: self.config.clone(),
            metrics: self.metrics.clone(),
            collector: self.collector.clone(),
        })
    }
}

/// Whether a store could not be opened because another process has it open.
pub fn is_in_use(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(fs::OpenError::InUse(_)))
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
    let front = app.front();
    let listeners = listeners.into_iter().map(Into::into).collect();
    let mut jobs = JoinSet::new();
    jobs.spawn(sweep(app.store.clone(), app.config.clone()));
    jobs.spawn(count(app.store.clone()));
    jobs.spawn(poll(app.store.clone(), app.config.collect.poll()));
    if app.config.collect.enabled {
        jobs.spawn(collect(app.collector.clone(), app.store.clone(), app.config.collect.interval.get()));
    }
    jobs.spawn(remember(app.metrics.clone()));
    jobs.spawn(warn_of_reserved(app.store.clone()));
    if app.config.store.s3.is_some() {
        jobs.spawn(learn(app.store.clone()));
    }
    let serving =
        doors::listen::serve(listeners, front, app.gate.clone(), &app.config.limits, app.metrics.clone(), stopped);
    let deadline = OnceLock::new();
    let stopping = async {
        shutdown.await;
        tracing::info!(drain_seconds = app.config.server.drain.get().as_secs(), "stopping: no new connections");
        stop.send_replace(true);
        let end = deadline.get_or_init(|| Instant::now() + app.config.server.drain.get());
        tokio::time::sleep_until(*end).await;
    };
    tokio::select! {
        () = serving => tracing::info!("stopped"),
        () = stopping => tracing::warn!("stopped with requests under way: the time to drain has run out"),
    }
    jobs.shutdown().await;
    let left = deadline.get().map(|end| end.saturating_duration_since(Instant::now()));
    trace::finish(left.unwrap_or_default()).await;
}

async fn sweep(store: Store, config: Arc<Config>) {
    let mut timer = tokio::time::interval(SWEEP_EVERY);
    loop {
        timer.tick().await;
        let idle = config.limits.upload_idle.get();
        match store.sweep_all_uploads(idle, SystemTime::now()).await {
            Ok(0) => {}
            Ok(uploads) => tracing::info!(uploads, "idle uploads were removed"),
            Err(error) => tracing::warn!(%error, "idle uploads cannot be removed"),
        }
        match store.sweep_drafts(idle, SystemTime::now()).await {
            Ok(0) => {}
            Ok(drafts) => tracing::info!(drafts, "parts of objects that were given up were removed"),
            Err(error) => tracing::warn!(%error, "parts of objects that were given up cannot be removed"),
        }
    }
}

/// Counts what is stored: at the start, some time after changes, and now and then. To look at all of a bucket costs
/// money, so there it is done less often.
async fn count(store: Store) {
    let pause = if store.is_near() { COUNT_PAUSE_NEAR } else { COUNT_PAUSE_FAR };
    loop {
        let began = Instant::now();
        if let Err(error) = store.scan_usage().await {
            tracing::warn!(%error, "what is stored cannot be counted");
        }
        tokio::time::sleep(pause.max(began.elapsed() * COUNT_SHARE)).await;
        let changed = store.stock().changed();
        let _ = tokio::time::timeout(COUNT_EVERY, changed).await;
    }
}

/// Reads the counters now and then, for pictures of them.
async fn remember(metrics: Arc<Metrics>) {
    let mut timer = tokio::time::interval(recent::READ_EVERY);
    // What nobody has counted yet needs no reading.
    timer.tick().await;
    loop {
        timer.tick().await;
        metrics.recent.read(&metrics.tenants, jiff::Timestamp::now());
    }
}

/// Says which repositories have a name that is reserved by now.
async fn warn_of_reserved(store: Store) {
    match store.reserved_repos().await {
        Ok(found) => found.into_iter().for_each(|(tenant, repo)| {
            tracing::warn!(
                %tenant,
                %repo,
                "repository has a reserved name and is not served: move it (docs/operation.md, \"Reserved names\")"
            );
        }),
        Err(error) => tracing::warn!(%error, "cannot look for repositories with reserved names"),
    }
}

/// Learns which objects other servers have found wrong.
async fn learn(store: Store) {
    let mut timer = tokio::time::interval(LEARN_EVERY);
    loop {
        timer.tick().await;
        if let Err(error) = store.load_quarantine().await {
            tracing::warn!(%error, "what is in quarantine cannot be read");
        }
    }
}

/// Looks at what is condemned, so that no answer has to wait for it.
async fn poll(store: Store, every: Duration) {
    let mut timer = tokio::time::interval(every);
    loop {
        timer.tick().await;
        // Requests that want to look wait behind it.
        if let Err(error) = deadline::within(deadline::SHORT, store.condemned().refresh()).await {
            tracing::warn!(%error, "what is condemned cannot be looked at");
        }
    }
}

/// Collects from time to time, and when room is short.
async fn collect(collector: Arc<Collector>, store: Store, every: Duration) {
    // A server that has just started has other things to do.
    let first = Instant::now() + every.min(COLLECT_FIRST);
    let mut timer = tokio::time::interval_at(first, every);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let round = tokio::select! {
            _ = timer.tick() => None,
            round = store.room().pressed() => Some(round),
        };
        match collector.run(Wish { dry: false }).await {
            Ok(report) if report.skipped.is_some() => {
                tracing::warn!(reason = report.skipped.as_deref(), "nothing is collected")
            }
            Ok(report) => tracing::info!(
                at_once = round.is_some(),
                condemned = report.condemned.objects,
                condemned_bytes = report.condemned.bytes,
                deleted = report.deleted.objects,
                deleted_bytes = report.deleted.bytes,
                seconds = report.seconds,
                "collected"
            ),
            Err(error) => tracing::warn!(%error, "collection has failed"),
        }
        drop(round);
    }
}
