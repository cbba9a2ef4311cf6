//! Takes up changes of the configuration while the server runs.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::signing_key;
use crate::auth::Gate;
use crate::config::Config;
use crate::store::Store;

/// How often files are looked at. Certificates and secrets are replaced by others, who tell nobody.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Reloads at SIGHUP and when a file has changed.
pub struct Reload<L> {
    pub gate: Arc<Gate>,
    pub store: Store,
    /// Reads the configuration as it was read at the start.
    pub load: L,
    /// The file that it is in, where it is in one.
    pub file: Option<PathBuf>,
}

/// What tells that a file is another one: inode, size, modification time. Behind symbolic links, since Kubernetes swaps
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
    pub async fn run(self, config: &Config, mut hangups: Signal) {
        let mut files = self.files(config);
        let mut seen = stamps(&files);
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = hangups.recv() => seen = stamps(&files),
                _ = look.tick() => {
                    // Before they are read: what changes meanwhile shows the next time. And a bad file is not read again
                    // and again.
                    let now = stamps(&files);
                    if std::mem::replace(&mut seen, now.clone()) == now {
                        continue;
                    }
                }
            }
            match self.once().await {
                Ok(config) => {
                    let named = self.files(&config);
                    if named != files {
                        seen = stamps(&named);
                        files = named;
                    }
                    tracing::info!("configuration was reloaded: users, tokens, issuers, rules, certificates");
                }
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "configuration is not reloaded: the old one stays");
                }
            }
        }
    }

    async fn once(&self) -> anyhow::Result<Config> {
        let config = (self.load)()?;
        self.gate.reload(&config, signing_key(&self.store, &config).await?)?;
        Ok(config)
    }

    fn files(&self, config: &Config) -> Vec<PathBuf> {
        self.file.iter().cloned().chain(config.files().into_iter().map(PathBuf::from)).collect()
    }
}
