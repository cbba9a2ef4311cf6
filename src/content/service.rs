//! The content of one store: its backend, and what this process knows of its objects.

use std::sync::Arc;
use std::time::Duration;

use super::clock::Clock;
use super::condemned::Condemned;
use super::presence::{ExistenceChecks, Presence};
use super::tombstones::Tombstones;
use super::uploads::Uploads;
use super::verdicts::Verdicts;
use crate::calls::Calls;
use crate::capacity::Capacity;
use crate::config::Config;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::events::Events;
use crate::hot::{CHUNK_BYTES, Hot, Slot};
use crate::meta::format::StoreFormat;
use crate::metrics::Metrics;
use crate::objects::{self, Key, Meta, Objects};

/// Default time for which an object of a bucket counts as existing without a new lookup.
const PRESENCE_MAX_AGE: Duration = Duration::from_secs(600);
/// Size, in chunks, up to which a blob of a bucket is kept whole.
const CHUNKS_WHOLE: u64 = 2;

/// The content of one store. Cheap to clone.
#[derive(Clone)]
pub struct Content {
    shared: Arc<ContentShared>,
}

struct ContentShared {
    objects: Arc<dyn Objects>,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    events: Events,
    hot: Arc<Hot<Error>>,
    condemned: Condemned,
    presence: Presence,
    checks: ExistenceChecks,
    verdicts: Verdicts,
    tombstones: Tombstones,
    uploads: Uploads,
    capacity: Arc<Capacity>,
    clock: Clock,
    format: StoreFormat,
}

impl Content {
    /// `replica` is the number of this process among those that share the store; names of batches contain it.
    pub fn new(
        objects: Arc<dyn Objects>,
        config: Arc<Config>,
        metrics: Arc<Metrics>,
        events: Events,
        replica: u64,
    ) -> Content {
        // A local store is asked every time: that costs less than to remember.
        let is_remote = objects.traits().remote;
        let presence_max_age = config.store.s3.as_ref().map_or(PRESENCE_MAX_AGE, |s3| s3.presence_max_age.get());
        let hot = Hot::new(config.hot.size.as_u64(), CHUNK_BYTES, metrics.clone());
        let shared = ContentShared {
            hot: Arc::new(hot),
            condemned: Condemned::new(objects.clone(), &config.collect, replica),
            presence: Presence::new(is_remote.then_some(presence_max_age)),
            checks: ExistenceChecks::default(),
            verdicts: Verdicts::default(),
            tombstones: Tombstones::new(objects.clone(), config.collect.wait(false)),
            uploads: Uploads::new(config.limits.uploads),
            capacity: Arc::new(Capacity::new(objects.clone(), config.clone(), metrics.clone(), events.clone())),
            clock: Clock::default(),
            format: StoreFormat::new(objects.clone()),
            objects,
            config,
            metrics,
            events,
        };
        let shared = Arc::new(shared);
        forget_what_is_condemned(&shared);
        Content { shared }
    }
    /// The backend.
    pub fn objects(&self) -> &Arc<dyn Objects> {
        &self.shared.objects
    }

    /// Calls to the backend for a request that waits until `deadline`.
    pub fn calls(&self, deadline: Deadline) -> Calls<'_> {
        Calls::until(&*self.shared.objects, deadline)
    }

    /// The configuration of the server.
    pub fn config(&self) -> &Arc<Config> {
        &self.shared.config
    }

    /// The metrics of the server.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// The events, to report what happened.
    pub fn events(&self) -> &Events {
        &self.shared.events
    }

    /// The condemned objects.
    pub fn condemned(&self) -> &Condemned {
        &self.shared.condemned
    }

    /// The capacity for uploads, by quota and disk.
    pub fn room(&self) -> &Arc<Capacity> {
        &self.shared.capacity
    }

    /// The format of the store, which tells whether this server may still write and delete.
    pub fn format(&self) -> &StoreFormat {
        &self.shared.format
    }

    /// The backend's time.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// The objects that this server has deleted and denies.
    pub fn tombstones(&self) -> &Tombstones {
        &self.shared.tombstones
    }

    /// The results of verifications.
    pub fn verdicts(&self) -> &Verdicts {
        &self.shared.verdicts
    }

    /// The hot layer.
    pub(crate) fn hot(&self) -> &Arc<Hot<Error>> {
        &self.shared.hot
    }

    pub(super) fn presence(&self) -> &Presence {
        &self.shared.presence
    }

    pub(super) fn checks(&self) -> &ExistenceChecks {
        &self.shared.checks
    }

    pub(super) fn uploads(&self) -> &Uploads {
        &self.shared.uploads
    }

    /// Size in bytes up to which a blob is kept whole in the hot layer: an eighth of the layer at most, so that one
    /// blob does not flush it.
    pub(super) fn hot_blob_max(&self) -> u64 {
        let hot = &self.shared.config.hot;
        let max = hot.blob_max.as_u64().min(hot.size.as_u64() / 8).min(objects::READ_BYTES_MAX);
        match self.shared.objects.traits().page_cached {
            true => max,
            // A reader would wait for all of it, in one call after another where several could run at once.
            false => max.min(CHUNKS_WHOLE * CHUNK_BYTES),
        }
    }

    /// Removes an object from memory.
    pub fn forget(&self, key: &Key) {
        self.shared.presence.forget(key);
        self.shared.hot.forget(&Slot::Whole(key.clone()));
    }
}

/// Forgets objects that were condemned since the last snapshot: they are not known to exist any more. Forgets all after
/// a time without a snapshot, or when a batch has ended: a read may have found an object of the batch, and remembered
/// it, until it was deleted.
fn forget_what_is_condemned(shared: &Arc<ContentShared>) {
    let memory = Arc::downgrade(shared);
    shared.condemned.listen(move |news| {
        let Some(shared) = memory.upgrade() else { return };
        if news.gap || news.ended {
            shared.presence.clear();
        }
        news.keys.iter().for_each(|key| shared.presence.forget(key));
        for (tenant, account) in shared.capacity.usage().accounts() {
            account.set_condemned(news.bytes.get(&tenant).copied().unwrap_or(0));
        }
    });
}

/// The name of a chunk in the hot layer.
pub(super) fn chunk(meta: &Meta, index: u64) -> Slot {
    Slot::Chunk(meta.key.clone(), meta.version.clone(), index)
}
