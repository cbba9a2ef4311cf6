//! From a configuration to a running server, and down again.

pub mod handover;
mod jobs;
pub mod reload;

use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::auth::Gate;
use crate::check::{CheckEvent, Summary};
use crate::config::{Config, Secret};
use crate::doors;
use crate::doors::kit::audit::AuditLog;
use crate::doors::kit::body::Collecting;
use crate::doors::listen::{Listener, Phase};
use crate::doors::{Doors, Front};
use crate::events::{Events, Subscriber};
use crate::jobs::Jobs;
use crate::lifetime::collect::{Collector, Report, Wish};
use crate::meta::{self, format};
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::objects::fs;
use crate::objects::fs::FsObjects;
use crate::objects::s3::S3Objects;
use crate::objects::traced::traced;
use crate::operator::Operator;
use crate::refs::Refs;
use crate::store::Store;
use crate::{error, trace};

pub use crate::check::Depth;
pub use crate::objects::s3::SDK_LOG_TARGET;

/// A server that has not begun to listen.
#[derive(Clone)]
pub struct App {
    /// The configuration.
    pub config: Arc<Config>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The sender of events.
    pub events: Events,
    /// The store.
    pub store: Store,
    /// Authentication and rules.
    pub gate: Arc<Gate>,
    /// The garbage collector.
    pub collector: Arc<Collector>,
    /// The background jobs.
    pub jobs: Arc<Jobs>,
    /// Memory for the bodies that it reads whole.
    collecting: Collecting,
    /// Whether it was told to stop.
    draining: Arc<AtomicBool>,
}

/// Ways to stop a server. Requests in flight are finished in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// As soon as nothing is in flight. Connections are accepted no more.
    Now,
    /// As [`Stop::Now`], after a while in which balancers see that the server is to end, and a successor may take its
    /// listening sockets. Connections are accepted meanwhile, where the sockets close with this server.
    Drain,
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
        let config = Arc::new(config);
        let events = Events::to([metrics.clone() as Arc<dyn Subscriber>, Arc::new(AuditLog)]);
        let store = Store::new(objects, config.clone(), metrics.clone(), events.clone());
        store.format().open().await.context("cannot use the store")?;
        store.content().load_quarantine().await.context("cannot read the quarantine")?;
        warn(&config);
        let gate = Arc::new(Gate::open(config.clone(), signing_key(&store, &config).await?)?);
        learn_of_revoked(&store, &gate).await.context("cannot read which sessions are revoked")?;
        let collector = Arc::new(Collector::new(store.refs().clone()));
        collector.recover().await.context("cannot clear the remains of a collection")?;
        let jobs = Arc::new(Jobs::new(metrics.clone()));
        let collecting = Collecting::new(config.limits.manifest.as_u64());
        let draining = Arc::default();
        Ok(App { config, metrics, events, store, gate, collector, jobs, collecting, draining })
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
    pub async fn check<F: Future<Output = ()> + Send>(
        &self,
        depth: Depth,
        repair: bool,
        report: impl FnMut(CheckEvent) -> F + Send,
    ) -> error::Result<Summary> {
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
            events: self.events.clone(),
            collector: self.collector.clone(),
            jobs: self.jobs.clone(),
            collecting: self.collecting.clone(),
            draining: self.draining.clone(),
        })
    }
}

/// Whether a store could not be opened because another process has it open.
pub fn is_in_use(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(fs::OpenFolderError::InUse(_)))
}

/// Says what an operator may not have meant.
fn warn(config: &Config) {
    config.ignored().iter().for_each(|what| tracing::warn!("{what}"));
    warn_of_rules(config);
    let (server, closed) = (&config.server, config.is_closed());
    let remote = |addresses: &[SocketAddr]| addresses.iter().any(|address| !address.ip().is_loopback());
    if !closed && (remote(&server.listen) || remote(&server.listen_plain)) {
        tracing::warn!(
            "no authentication is configured: everybody who reaches the server may read and write the cache"
        );
    }
    let plain = if config.tls.is_none() { &server.listen } else { &server.listen_plain };
    if closed && remote(plain) && server.trusted_proxies.is_empty() {
        tracing::warn!("passwords and tokens cross the network in the clear: configure [tls], or put a proxy in front");
    }
    if closed && config.rules.is_empty() {
        tracing::warn!("there are identities but no [[rules]]: nobody may do anything");
    }
}

/// Says what an operator may not have meant by rules, which are read again while the server runs.
fn warn_of_rules(config: &Config) {
    config.doubts().iter().for_each(|doubt| tracing::warn!("{doubt}"));
}

/// Tells the gate which sessions are revoked, where there are any sessions.
async fn learn_of_revoked(store: &Store, gate: &Gate) -> error::Result<()> {
    if gate.has_issuers() {
        gate.revoke(store.revoked_sessions().await?);
    }
    Ok(())
}

/// The key that the store keeps, where tokens are issued and none is configured.
async fn signing_key(store: &Store, config: &Config) -> anyhow::Result<Option<Secret>> {
    if !config.is_closed() || !config.signing_keys()?.is_empty() {
        return Ok(None);
    }
    let key = meta::signing_key::signing_key(&**store.content().objects())
        .await
        .context("the key that signs tokens cannot be read or made")?;
    Ok(Some(Secret::new(key)))
}

/// A server that drains ends when it has had no request for so long. That is time to start its successor, or to take it from
/// a balancer, and more than a builder pauses between the requests of an export.
const LINGER: Duration = Duration::from_millis(500);
/// Time between two looks at whether requests are in flight, while a server drains.
const QUIET_POLL: Duration = Duration::from_millis(50);

/// Serves until `shutdown` resolves, then lets requests in flight finish, for as long as the configuration grants.
pub async fn run(app: App, listeners: Vec<impl Into<Listener>>, shutdown: impl Future<Output = Stop>) {
    let (phase, phases) = watch::channel(Phase::Serving);
    let front = app.front();
    let listeners: Vec<Listener> = listeners.into_iter().map(Into::into).collect();
    let mut jobs = jobs::start(&app);
    // Aborted when it is dropped: what is found late is found by `larder check` as well.
    let mut looking = JoinSet::new();
    looking.spawn(warn_of_reserved(app.store.refs().clone()));
    let drain = Drain::new(&app, &listeners);
    let serving =
        doors::listen::serve(listeners, front, app.gate.clone(), &app.config.limits, app.metrics.clone(), phases);
    let deadline = OnceLock::new();
    let stopping = async {
        let stop = shutdown.await;
        let end = *deadline.get_or_init(|| Instant::now() + app.config.server.drain.get());
        app.draining.store(true, Relaxed);
        let how = match stop {
            Stop::Now => Phase::Ending,
            Stop::Drain => Phase::Closing,
        };
        if stop == Stop::Drain && drain.serves_on {
            phase.send_replace(Phase::Draining);
            let ended = tokio::time::timeout_at(end, drain.until_quiet_or_taken(&app)).await;
            tracing::info!("draining ended: {}; no new connections", ended.unwrap_or("its time has run out"));
        } else {
            drop(drain);
            tracing::info!("stopping: no new connections");
        }
        phase.send_replace(how);
        tokio::time::sleep_until(end).await;
    };
    tokio::select! {
        () = serving => tracing::info!("stopped"),
        () = stopping => tracing::warn!("stopped with requests in flight: the time to drain has run out"),
    }
    jobs.shutdown().await;
    let left = deadline.get().map(|end| end.saturating_duration_since(Instant::now()));
    trace::finish(left.unwrap_or_default()).await;
}

/// The listening sockets that close with this server, kept for its successor.
struct Drain {
    sockets: Vec<OwnedFd>,
    /// There are any, of this store or of one that needs no successor.
    serves_on: bool,
}

impl Drain {
    fn new(app: &App, listeners: &[Listener]) -> Drain {
        let own = listeners.iter().filter(|listener| listener.serves_on);
        let mut sockets: Vec<OwnedFd> =
            own.filter_map(|listener| listener.socket.as_fd().try_clone_to_owned().ok()).collect();
        let serves_on = !sockets.is_empty();
        if app.config.store.s3.is_some() {
            // Over a bucket a successor needs no lock, and is started beside this server.
            sockets.clear();
        }
        Drain { sockets, serves_on }
    }

    /// Says why no more connections are to be accepted.
    async fn until_quiet_or_taken(self, app: &App) -> &'static str {
        tracing::info!(
            drain_seconds = app.config.server.drain.get().as_secs(),
            "draining: this server was told to stop"
        );
        let handover = match self.sockets.is_empty() {
            true => None,
            false => handover::Handover::open(&app.config.store.path)
                .inspect_err(|error| tracing::warn!(%error, "no successor can take the listening sockets"))
                .ok(),
        };
        let taken = async {
            match &handover {
                Some(handover) => handover.done(&self.sockets).await,
                None => std::future::pending().await,
            }
        };
        let quiet = async {
            let (mut answered, mut since) = (app.metrics.answered(), Instant::now());
            while since.elapsed() < LINGER {
                tokio::time::sleep(QUIET_POLL).await;
                let now = app.metrics.answered();
                if app.metrics.requests_in_flight.get() > 0 || now != answered {
                    (answered, since) = (now, Instant::now());
                }
            }
        };
        tokio::select! {
            () = taken => "a successor has taken the listening sockets",
            () = quiet => "no requests come",
        }
    }
}

/// Opens the app of a server that may follow another one on its store: where that one drains, its listening sockets are
/// taken, and its end is waited for, up to `[server] drain`.
pub async fn open_or_succeed(config: Config) -> anyhow::Result<(App, Vec<std::net::TcpListener>)> {
    let drain = config.server.drain.get();
    let in_use = match App::open(config.clone()).await {
        Ok(app) => return Ok((app, Vec::new())),
        Err(error) if is_in_use(&error) => error,
        Err(error) => return Err(error),
    };
    let path = config.store.path.clone();
    let taken = tokio::task::spawn_blocking(move || handover::take(&path)).await?;
    let taken = taken.context("cannot take the listening sockets of the server that has the store open")?;
    let Some(sockets) = taken else { return Err(in_use) };
    tracing::info!(sockets = sockets.len(), "waiting for the end of the server before, whose sockets were taken");
    let end = Instant::now() + drain;
    loop {
        match App::open(config.clone()).await {
            Err(error) if is_in_use(&error) && Instant::now() < end => tokio::time::sleep(QUIET_POLL).await,
            Err(error) if is_in_use(&error) => return Err(error.context("the server before did not end in time")),
            opened => return Ok((opened?, sockets)),
        }
    }
}

/// Says which repositories have a name that is reserved by now.
async fn warn_of_reserved(refs: Refs) {
    match refs.reserved_repos().await {
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
