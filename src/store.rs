//! The services of one store, put together.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use moka::sync::Cache;
use tokio::sync::Semaphore;

use crate::access::Permit;
use crate::account::inventory::Stock;
use crate::cache::views::Views;
use crate::capacity::Room;
use crate::config::Config;
use crate::content::clock::Clock;
use crate::content::condemned::Condemned;
use crate::content::lookup::Looks;
use crate::content::presence::Presence;
use crate::content::tombstones::Deleted;
use crate::content::verify::Checks;
use crate::deadline::patiently;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::hot::{CHUNK_BYTES, Hot};
use crate::layout;
use crate::meta::ready::Ready;
use crate::metrics::Metrics;
use crate::metrics::tenant::TenantMetrics;
use crate::names::{RepoName, Tag, Tenant, UploadId};
use crate::objects::{self, Key, Meta, Objects, Version, When};
use crate::refs::tags::Pointer;
use crate::sync::{STRIPES, lru};

/// Tags whose pointer is kept beside the version that proves it fresh.
const KNOWN_TAGS_MAX: u64 = 100_000;
/// Uploads cancelled here that stay unknown.
const CANCELLED_MAX: u64 = 10_000;
/// How long what is known of a store that is far holds, where nothing is configured.
const PRESENCE_MAX_AGE: Duration = Duration::from_secs(600);
/// Objects looked at again in the background at once, because what is known of them gets old.
const RENEWALS: usize = 8;

/// The store of one server. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

/// What the store is made of.
pub struct Inner {
    pub(crate) objects: Arc<dyn Objects>,
    pub(crate) config: Arc<Config>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) condemned: Condemned,
    pub(crate) hot: Arc<Hot<Error>>,
    /// Pointers with the version they were read at: an answer always asks the backend whether it still is that one.
    pub(crate) tags: Cache<Key, (Version, Arc<Pointer>)>,
    pub(crate) views: Views,
    pub(crate) stock: Stock,
    /// When the last use of a tag was last written.
    pub(crate) used: Cache<Key, tokio::time::Instant>,
    pub(crate) clock: Clock,
    pub(crate) checks: Checks,
    pub(crate) presence: Presence,
    pub(crate) deleted: Deleted,
    pub(crate) looks: Looks,
    pub(crate) renewals: Arc<Semaphore>,
    pub(crate) ready: Ready,
    pub(crate) cancelled: Cache<UploadId, ()>,
    pub(crate) uploads: Arc<Semaphore>,
    pub(crate) room: Arc<Room>,
    /// Sessions whose state is being replaced.
    pub(crate) sessions: [tokio::sync::Mutex<()>; STRIPES],
    /// Held shared while a manifest is checked and written with its tags, alone while something is deleted that manifests
    /// or tags may name: in between, they would name what is about to go.
    pub(crate) references: tokio::sync::RwLock<()>,
}

impl Deref for Store {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl Store {
    pub fn new(objects: Arc<dyn Objects>, config: Arc<Config>, metrics: Arc<Metrics>) -> Store {
        Store::named(objects, config, metrics, rand::random())
    }

    /// A store of a server whose number is given: then its batches have foreseeable names.
    #[doc(hidden)]
    pub fn named(objects: Arc<dyn Objects>, config: Arc<Config>, metrics: Arc<Metrics>, replica: u64) -> Store {
        // Files are asked every time: that costs less than to remember.
        let is_remote = objects.traits().remote;
        let presence_max_age = config.store.s3.as_ref().map_or(PRESENCE_MAX_AGE, |s3| s3.presence_max_age.get());
        let hot = Hot::new(config.hot.size.as_u64(), CHUNK_BYTES, metrics.clone());
        let inner = Inner {
            hot: Arc::new(hot),
            tags: lru(KNOWN_TAGS_MAX),
            views: Views::default(),
            stock: Stock::default(),
            used: lru(KNOWN_TAGS_MAX),
            clock: Clock::default(),
            checks: Checks::default(),
            presence: Presence::new(is_remote.then_some(presence_max_age)),
            looks: Looks::default(),
            renewals: Arc::new(Semaphore::new(RENEWALS)),
            ready: Ready::default(),
            cancelled: lru(CANCELLED_MAX),
            uploads: Arc::new(Semaphore::new(config.limits.uploads)),
            room: Arc::new(Room::new(objects.clone(), config.clone(), metrics.clone())),
            sessions: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            references: tokio::sync::RwLock::new(()),
            deleted: Deleted::new(config.collect.wait(false)),
            condemned: Condemned::new(objects.clone(), &config.collect, replica),
            objects,
            config,
            metrics,
        };
        let inner = Arc::new(inner);
        let memory = Arc::downgrade(&inner);
        // What is condemned is not known to be there any more. Nor is anything after a time without a look, or when a batch
        // has gone: reads may have found what was in it, and remembered it, until it was deleted.
        inner.condemned.listen(move |news| {
            let Some(inner) = memory.upgrade() else { return };
            if news.gap || news.ended {
                inner.presence.clear();
            }
            news.keys.iter().for_each(|key| inner.presence.forget(key));
            for (tenant, account) in inner.room.usage.accounts() {
                account.set_condemned(news.bytes.get(&tenant).copied().unwrap_or(0));
            }
        });
        Store { inner }
    }

    /// What the store has, for people to look at.
    pub fn stock(&self) -> &Stock {
        &self.stock
    }

    /// The backend.
    pub fn objects(&self) -> &Arc<dyn Objects> {
        &self.objects
    }

    /// What the server was told.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// What the server counts.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// What is condemned in this store.
    pub fn condemned(&self) -> &Condemned {
        &self.condemned
    }

    /// The repository that the permit is for.
    pub fn repo(&self, permit: Permit) -> Repo {
        let counted = self.metrics.tenants.of(permit.tenant());
        Repo { store: self.clone(), counted, permit }
    }
}

impl Inner {
    /// What the backend knows of an object that may change.
    pub(crate) async fn stat(&self, key: &Key) -> Result<Option<Meta>> {
        match patiently(|| self.objects.head(key)).await {
            Ok(meta) => Ok(Some(meta)),
            Err(objects::Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a small object.
    pub(crate) async fn put(&self, key: &Key, body: impl Into<Bytes>) -> Result<Meta> {
        let body = body.into();
        let meta = patiently(|| self.objects.put(key, body.clone(), When::Always)).await?;
        self.heal(key).await;
        Ok(meta)
    }

    /// All of a listing that is known to be short.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<Meta>> {
        Ok(patiently(|| self.objects.list(prefix, None).try_collect()).await?)
    }
}

/// One repository, for a caller who may.
#[derive(Clone)]
pub struct Repo {
    pub(crate) store: Store,
    pub(crate) permit: Permit,
    pub(crate) counted: Arc<TenantMetrics>,
}

impl Repo {
    pub fn tenant(&self) -> &Tenant {
        self.permit.tenant()
    }

    pub fn name(&self) -> &RepoName {
        self.permit.repo()
    }

    pub(crate) fn blob_key(&self, digest: &Digest) -> Key {
        layout::blob(self.tenant(), digest)
    }

    pub(crate) fn manifest_key(&self, digest: &Digest) -> Key {
        layout::manifest(self.tenant(), self.name(), digest)
    }

    pub(crate) fn tag_key(&self, tag: &Tag) -> Key {
        layout::tag(self.tenant(), self.name(), tag)
    }
}
