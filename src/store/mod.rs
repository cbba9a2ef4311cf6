//! The house: blobs, uploads, manifests and tags over [`Objects`]. It knows no HTTP; doors translate.
//!
//! Invariant: content, then record, then pointer. Whatever is named by something durable was durable before it.
//! Invariant: a repository is handed out against a [`Permit`] only.

pub mod blobs;
pub mod check;
mod clock;
pub mod collect;
pub mod condemned;
mod delete;
pub mod format;
pub mod inspect;
mod keys;
pub mod layout;
mod look;
pub mod manifests;
pub mod outline;
pub mod patience;
pub mod presence;
pub mod pushes;
mod quarantine;
pub mod read;
pub mod ready;
mod receive;
pub mod referrers;
pub mod room;
mod scan;
mod scope;
pub mod stock;
pub mod tags;
mod tenants;
pub mod uploads;
pub mod usage;
pub mod verify;
pub mod views;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use patience::patiently;
use tokio::sync::Semaphore;

use crate::access::Permit;
use crate::config::Config;
use crate::digest::{Algorithm, Digest};
use crate::hot::Hot;
use crate::metrics::Metrics;
use crate::metrics::tenant::TenantMetrics;
use crate::names::{RepoName, Tag, Tenant, UploadId};
use crate::objects::{self, Distance, Key, Meta, Objects, Version, When};
use crate::stream::BodyError;

/// Tags whose pointer is kept beside the version that proves it fresh.
const KNOWN_TAGS_MAX: u64 = 100_000;
/// Uploads cancelled here that stay unknown.
const CANCELLED_MAX: u64 = 10_000;
/// Backend calls under way for one request.
const FAN_OUT: usize = 16;
/// How long what is known of a store that is far holds, where nothing is configured.
const PRESENCE_MAX_AGE: Duration = Duration::from_secs(600);
/// Objects looked at again in the background at once, because what is known of them gets old.
const RENEWALS: usize = 8;
/// Locks that stand for many keys.
const STRIPES: usize = 64;

pub type Result<T> = std::result::Result<T, Error>;

/// Why the house did not do what was asked. Each door gives these its own words and codes.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("blob {0} is unknown")]
    BlobUnknown(Digest),
    #[error("manifest {0} is unknown")]
    ManifestUnknown(String),
    #[error("repository {0} is unknown")]
    RepoUnknown(RepoName),
    #[error("upload is unknown")]
    UploadUnknown,
    #[error("content has the digest {actual}, not {claimed}")]
    DigestMismatch { claimed: Box<Digest>, actual: Box<Digest> },
    /// The bytes do not continue the upload, which has `offset` bytes.
    #[error("upload goes on at byte {offset}")]
    OffsetMismatch { offset: u64 },
    #[error("upload has more than {limit} parts: send larger ones")]
    TooManyParts { limit: usize },
    #[error("manifest is invalid: {0}")]
    ManifestInvalid(String),
    #[error("manifest names unknown content")]
    ManifestBlobUnknown(Vec<Digest>),
    /// Something that stays names it.
    #[error("{digest} is named by {by}")]
    Referenced { digest: Digest, by: String },
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("store is busy")]
    Busy,
    #[error("store is full: there is no room for uploads until something is deleted")]
    Full,
    /// What is left of the disk is kept in reserve.
    #[error(
        "store is full: {} are free and {} are kept in reserve{}", shown(*free), shown(*reserve), others(*coming)
    )]
    Short { free: u64, reserve: u64, coming: u64 },
    #[error("tenant {tenant} has {} of the {} that it may store{}", shown(*stored), shown(*max), more(*size))]
    OverQuota { tenant: Tenant, stored: u64, max: u64, size: u64 },
    #[error("internal error: {0}")]
    Internal(Arc<str>),
}

/// Bytes for people.
fn shown(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

fn others(coming: u64) -> String {
    if coming > 0 { format!("; {} are on their way", shown(coming)) } else { String::new() }
}

fn more(bytes: u64) -> String {
    if bytes > 0 { format!(", and was sent {}", shown(bytes)) } else { String::new() }
}

impl From<objects::Error> for Error {
    fn from(error: objects::Error) -> Error {
        match error {
            objects::Error::Busy(reason) => {
                tracing::warn!(%reason, "store is busy");
                Error::Busy
            }
            objects::Error::Full => Error::Full,
            // Where absence or presence means something, the caller has dealt with it before.
            objects::Error::NotFound => Error::Internal("object is gone".into()),
            objects::Error::Exists => Error::Internal("object exists".into()),
            objects::Error::Backend(reason) => {
                tracing::error!(%reason, "store failed");
                Error::Internal("store failed".into())
            }
        }
    }
}

impl From<tokio::task::JoinError> for Error {
    fn from(error: tokio::task::JoinError) -> Error {
        tracing::error!(%error, "a task of the server failed");
        Error::Internal("task failed".into())
    }
}

/// The store of one server. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What the store is made of.
pub struct Inner {
    objects: Arc<dyn Objects>,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    condemned: condemned::Condemned,
    hot: Arc<Hot<Error>>,
    /// Pointers with the version they were read at: an answer always asks the backend whether it still is that one.
    tags: Cache<Key, (Version, Arc<tags::Pointer>)>,
    views: views::Views,
    stock: stock::Stock,
    /// When the last use of a tag was last written.
    used: Cache<Key, tokio::time::Instant>,
    clock: clock::Clock,
    checks: verify::Checks,
    presence: presence::Presence,
    deleted: delete::Deleted,
    looks: look::Looks,
    renewals: Arc<Semaphore>,
    ready: ready::Ready,
    cancelled: Cache<UploadId, ()>,
    uploads: Arc<Semaphore>,
    room: Arc<room::Room>,
    /// Sessions whose state is being replaced.
    sessions: [tokio::sync::Mutex<()>; STRIPES],
    /// Held shared while a manifest is checked and written with its tags, alone while something is deleted that manifests
    /// or tags may name: in between, they would name what is about to go.
    references: tokio::sync::RwLock<()>,
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
        let is_far = objects.distance() == Distance::Far;
        let presence_max_age = config.store.s3.as_ref().map_or(PRESENCE_MAX_AGE, |s3| s3.presence_max_age.get());
        let hot = Hot::new(config.hot.size.as_u64(), config.hot.chunk.as_u64(), metrics.clone());
        let inner = Inner {
            hot: Arc::new(hot),
            tags: newest(KNOWN_TAGS_MAX),
            views: views::Views::default(),
            stock: stock::Stock::default(),
            used: newest(KNOWN_TAGS_MAX),
            clock: clock::Clock::default(),
            checks: verify::Checks::default(),
            presence: presence::Presence::new(is_far.then_some(presence_max_age)),
            looks: look::Looks::default(),
            renewals: Arc::new(Semaphore::new(RENEWALS)),
            ready: ready::Ready::default(),
            cancelled: newest(CANCELLED_MAX),
            uploads: Arc::new(Semaphore::new(config.limits.uploads)),
            room: Arc::new(room::Room::new(objects.clone(), config.clone(), metrics.clone())),
            sessions: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            references: tokio::sync::RwLock::new(()),
            deleted: delete::Deleted::new(config.collect.wait(false)),
            condemned: condemned::Condemned::new(objects.clone(), &config.collect, replica),
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
    pub fn stock(&self) -> &stock::Stock {
        &self.stock
    }

    /// Whether the store is so near that to look at all of it costs little.
    pub fn is_near(&self) -> bool {
        self.objects.distance() == Distance::Near
    }

    /// What is condemned in this store.
    pub fn condemned(&self) -> &condemned::Condemned {
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
    async fn stat(&self, key: &Key) -> Result<Option<Meta>> {
        match patiently(|| self.objects.head(key)).await {
            Ok(meta) => Ok(Some(meta)),
            Err(objects::Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a small object.
    async fn put(&self, key: &Key, body: impl Into<Bytes>) -> Result<Meta> {
        let body = body.into();
        let meta = patiently(|| self.objects.put(key, body.clone(), When::Always)).await?;
        self.heal(key).await;
        Ok(meta)
    }

    /// All of a listing that is known to be short.
    async fn list(&self, prefix: &str) -> Result<Vec<Meta>> {
        Ok(patiently(|| self.objects.list(prefix, None).try_collect()).await?)
    }
}

/// Hashes off the async threads what would hold them up.
async fn hash(algorithm: Algorithm, bytes: Bytes) -> Result<Digest> {
    const INLINE_BYTES_MAX: usize = 64 << 10;
    if bytes.len() <= INLINE_BYTES_MAX {
        return Ok(Digest::of(algorithm, &bytes));
    }
    Ok(tokio::task::spawn_blocking(move || Digest::of(algorithm, &bytes)).await?)
}

/// A cache that keeps what was used last. The other policy there is turns away what is new when it is full.
fn newest<K, V>(entries: u64) -> Cache<K, V>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder().max_capacity(entries).eviction_policy(EvictionPolicy::lru()).build()
}

/// Which of the locks stands for a key.
fn stripe(key: &impl std::hash::Hash) -> usize {
    stripe_of(key, STRIPES)
}

fn stripe_of(key: &impl std::hash::Hash, stripes: usize) -> usize {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::new().hash_one(key) as usize % stripes
}

/// One repository, for a caller who may.
#[derive(Clone)]
pub struct Repo {
    store: Store,
    permit: Permit,
    counted: Arc<TenantMetrics>,
}

impl Repo {
    pub fn tenant(&self) -> &Tenant {
        self.permit.tenant()
    }

    pub fn name(&self) -> &RepoName {
        self.permit.repo()
    }

    fn blob_key(&self, digest: &Digest) -> Key {
        layout::blob(self.tenant(), digest)
    }

    fn manifest_key(&self, digest: &Digest) -> Key {
        layout::manifest(self.tenant(), self.name(), digest)
    }

    fn tag_key(&self, tag: &Tag) -> Key {
        layout::tag(self.tenant(), self.name(), tag)
    }
}
