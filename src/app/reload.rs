//! Takes up changes of the configuration while the server runs.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::{App, signing_key, warn_of_rules};
use crate::auth::Gate;
use crate::config::Config;
use crate::jobs::{About, Done, Job, Outcome, failed};
use crate::store::Store;

/// Time between two looks at the files. Certificates and secrets are replaced by other programs, without a signal.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Reloads the configuration at SIGHUP and when a file has changed.
pub struct Reload<L> {
    gate: Arc<Gate>,
    store: Store,
    /// As it was at the start, with what was reloaded since.
    config: Arc<Config>,
    /// Reads the configuration as it was read at the start.
    load: L,
    /// The file that it is in, where it is in one.
    file: Option<PathBuf>,
    hangups: Signal,
    /// The files that the configuration names, and how they were when they were last read.
    files: Vec<PathBuf>,
    seen: Vec<Stamp>,
}

/// The signs of a changed file: inode, size, modification time. Behind symbolic links, since Kubernetes swaps
/// those.
type Stamp = Option<(u64, u64, i64, i64)>;

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |file: &PathBuf| {
        let found = std::fs::metadata(file).ok()?;
        Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
    };
    files.iter().map(stamp).collect()
}

/// From now on SIGHUP reloads; without this it ends the process.
pub fn hangups() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

impl<L: Fn() -> anyhow::Result<Config>> Reload<L> {
    pub fn new(app: &App, load: L, file: Option<PathBuf>, hangups: Signal) -> Reload<L> {
        let (gate, store, config) = (app.gate.clone(), app.store.clone(), app.config.clone());
        let mut reload = Reload { gate, store, config, load, file, hangups, files: Vec::new(), seen: Vec::new() };
        reload.watch(&app.config);
        reload
    }

    /// Looks at the files of this configuration from now on.
    fn watch(&mut self, config: &Config) {
        let files: Vec<_> = self.file.iter().cloned().chain(config.files().into_iter().map(PathBuf::from)).collect();
        if files != self.files {
            self.seen = stamps(&files);
            self.files = files;
        }
    }
}

impl<L: Fn() -> anyhow::Result<Config> + Send + 'static> Job for Reload<L> {
    type Notice = ();

    fn about(&self) -> About {
        About {
            name: "reload",
            what: "Reads users, tokens, issuers, rules, certificates, quotas and policies again.",
            failing: "configuration is not reloaded: the old one stays",
            notified_by: Some("SIGHUP is sent or a file has changed"),
            first: Duration::ZERO,
            every: None,
        }
    }

    async fn notified(&mut self) {
        loop {
            let told = tokio::time::timeout(LOOK_EVERY, self.hangups.recv()).await.is_ok();
            // Before they are read: what changes meanwhile shows the next time. And a bad file is not read again and
            // again.
            let now = stamps(&self.files);
            if std::mem::replace(&mut self.seen, now.clone()) != now || told {
                return;
            }
        }
    }

    async fn run(&mut self, _: Option<()>) -> Outcome {
        let config = (self.load)().map_err(failed)?;
        let key = signing_key(&self.store, &config).await.map_err(failed)?;
        self.gate.reload(&config, key).map_err(failed)?;
        self.config.adopt(&config);
        for what in self.config.needs_restart(&config) {
            tracing::warn!(what, "configuration has changed and needs a restart to take effect");
        }
        warn_of_rules(&config);
        self.watch(&config);
        Ok(Done::Did("reloaded users, tokens, issuers, rules, certificates, quotas and policies".to_string()))
    }
}
