//! The services of one store, composed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::access::{Delete, Permit, Pull, Push};
use crate::account;
use crate::cache::Caches;
use crate::capacity::Capacity;
use crate::capacity::usage::Usage;
use crate::check::{self, CheckEvent, Depth, Summary};
use crate::config::Config;
use crate::content::Content;
use crate::content::condemned::Condemned;
use crate::deadline::Deadline;
use crate::error::Result;
use crate::events::Events;
use crate::lifetime::delete::{Deletion, References};
use crate::meta::format::StoreFormat;
use crate::meta::ready::Ready;
use crate::meta::revoked::{self, RevokedSessions};
use crate::metrics::Metrics;
use crate::names::SessionId;
use crate::objects::Objects;
use crate::refs::inventory::TagInventory;
use crate::refs::{Refs, Repo, RepoEraser, RepoWriter};

/// The services of one store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    caches: Caches,
    deletion: Deletion,
    ready: Arc<Ready>,
}

impl Store {
    /// The services over these objects.
    pub fn new(objects: Arc<dyn Objects>, config: Arc<Config>, metrics: Arc<Metrics>, events: Events) -> Store {
        Store::named(objects, config, metrics, events, rand::random())
    }

    /// The services of a server with a given replica number: the names of its batches are then predictable.
    #[doc(hidden)]
    pub fn named(
        objects: Arc<dyn Objects>,
        config: Arc<Config>,
        metrics: Arc<Metrics>,
        events: Events,
        replica: u64,
    ) -> Store {
        let ready = Arc::new(Ready::new(objects.clone()));
        let refs = Refs::new(Content::new(objects, config, metrics, events, replica));
        refs.content().tombstones().follow(Arc::new(References::of(&refs)));
        Store { deletion: Deletion::new(refs.clone()), caches: Caches::new(refs), ready }
    }

    /// The caches of builds.
    pub fn caches(&self) -> &Caches {
        &self.caches
    }

    /// The references: everything that references content.
    pub fn refs(&self) -> &Refs {
        self.caches.refs()
    }

    /// The content.
    pub fn content(&self) -> &Content {
        self.refs().content()
    }

    /// Deletes content by its digest.
    pub fn deletion(&self) -> &Deletion {
        &self.deletion
    }

    /// The format of the store.
    pub fn format(&self) -> &StoreFormat {
        self.content().format()
    }

    /// Proves that the store answers and takes the writes of this server, or did so a moment ago.
    pub async fn probe(&self) -> Result<()> {
        self.format().may_change()?;
        self.ready.probe().await
    }

    /// Revokes a session, for all servers over the store.
    pub async fn revoke_session(&self, session: &SessionId) -> Result<()> {
        self.format().may_change()?;
        revoked::revoke(&**self.content().objects(), session).await
    }

    /// Lists the sessions that are revoked and have not ended. Removes the notes of those that have.
    pub async fn revoked_sessions(&self) -> Result<Vec<SessionId>> {
        let objects = &**self.content().objects();
        let RevokedSessions { sessions, done_with } = revoked::revoked(objects).await?;
        if !done_with.is_empty() {
            self.format().confirm().await?;
            revoked::remove(objects, &done_with).await?;
        }
        Ok(sessions)
    }

    /// The inventory of tags, for display.
    pub fn stock(&self) -> &TagInventory {
        self.refs().stock()
    }

    /// The condemned objects.
    pub fn condemned(&self) -> &Condemned {
        self.content().condemned()
    }

    /// The capacity for uploads.
    pub fn room(&self) -> &Arc<Capacity> {
        self.content().room()
    }

    /// The accounts of all tenants' usage.
    pub fn usage(&self) -> &Usage {
        self.content().room().usage()
    }

    /// Returns a handle that reads the permit's repository.
    pub fn repo(&self, permit: Permit<Pull>, deadline: Deadline) -> Repo {
        self.refs().repo(permit, deadline)
    }

    /// Returns a handle that writes to the permit's repository.
    pub fn writer(&self, permit: Permit<Push>, deadline: Deadline) -> Result<RepoWriter> {
        self.refs().writer(permit, deadline)
    }

    /// Returns a handle that deletes from the permit's repository.
    pub fn eraser(&self, permit: Permit<Delete>, deadline: Deadline) -> Result<RepoEraser> {
        self.refs().eraser(permit, deadline)
    }

    /// Counts the usage of all tenants.
    pub async fn scan_usage(&self) -> Result<()> {
        account::count(self.refs()).await
    }

    /// Checks the store and reports its findings; with `repair` it repairs what can be repaired.
    pub async fn check<F: Future<Output = ()> + Send>(
        &self,
        depth: Depth,
        repair: bool,
        report: impl FnMut(CheckEvent) -> F + Send,
    ) -> Result<Summary> {
        check::check_store(self.refs(), depth, repair, report).await
    }

    /// Removes idle uploads of every tenant in the store. Returns how many.
    pub async fn sweep_all_uploads(&self, idle: Duration, now: SystemTime) -> Result<usize> {
        let mut swept = 0;
        for tenant in self.refs().tenants().await? {
            swept += self.content().staging(&tenant).sweep(idle, now).await?;
        }
        Ok(swept)
    }
}
