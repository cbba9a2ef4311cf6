//! The house: blobs, uploads, manifests and tags over [`Objects`]. It knows no HTTP; doors translate.
//!
//! Invariant: content, then record, then pointer. Whatever is named by something durable was durable before it.
//! Invariant: a repository is handed out against a [`Permit`] only.

pub mod blobs;
pub mod check;
pub mod format;
mod keys;
pub mod layout;
pub mod manifests;
pub mod patience;
pub mod pushes;
mod receive;
pub mod referrers;
pub mod tags;
pub mod uploads;
pub mod views;

use std::ops::Deref;
use std::sync::Arc;

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
use crate::names::{RepoName, Tag, Tenant, UploadId};
use crate::objects::{self, Key, Meta, Objects, Read, Version, When};
use crate::stream::BodyError;

/// Tags whose pointer is kept beside the version that proves it fresh.
const KNOWN_TAGS_MAX: u64 = 100_000;
/// Objects whose bytes were checked against their digest, or found wrong.
const VERIFIED_MAX: u64 = 500_000;
/// Uploads cancelled here that stay unknown.
const CANCELLED_MAX: u64 = 10_000;
/// Backend calls under way for one request.
const FAN_OUT: usize = 16;
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
    #[error("store is full")]
    Full,
    #[error("internal error: {0}")]
    Internal(Arc<str>),
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
    hot: Arc<Hot<Error>>,
    /// Pointers with the version they were read at: an answer always asks the backend whether it still is that one.
    tags: Cache<Key, (Version, Arc<tags::Pointer>)>,
    views: views::Views,
    /// When the last use of a tag was last written.
    used: Cache<Key, std::time::Instant>,
    /// What this process has checked, and what came of it. A new version of a key is unchecked.
    checked: Cache<Key, (Version, blobs::Checked)>,
    cancelled: Cache<UploadId, ()>,
    uploads: Arc<Semaphore>,
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
        let inner = Inner {
            hot: Arc::new(Hot::new(config.hot.size.as_u64(), metrics.clone())),
            tags: newest(KNOWN_TAGS_MAX),
            views: views::Views::default(),
            used: newest(KNOWN_TAGS_MAX),
            checked: newest(VERIFIED_MAX),
            cancelled: newest(CANCELLED_MAX),
            uploads: Arc::new(Semaphore::new(config.limits.uploads)),
            sessions: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            references: tokio::sync::RwLock::new(()),
            objects,
            config,
            metrics,
        };
        Store { inner: Arc::new(inner) }
    }

    /// The repository that the permit is for.
    pub fn repo(&self, permit: Permit) -> Repo {
        Repo { store: self.clone(), permit }
    }

    /// Proves that the backend answers and takes writes.
    pub async fn probe(&self) -> Result<()> {
        Ok(self.objects.probe().await?)
    }
}

impl Inner {
    /// A small object that never changes under its key, through the hot layer, checked against `digest`.
    /// Waits out a busy store: builders do not ask again for manifests and configs. Missing or damaged, it is
    /// [`Error::BlobUnknown`].
    async fn small(&self, key: &Key, digest: Digest) -> Result<Bytes> {
        let (objects, metrics, checked) = (self.objects.clone(), self.metrics.clone(), self.checked.clone());
        let owned = key.clone();
        let fetch = move || async move {
            match patiently(|| objects.read(&owned, None)).await {
                Ok(Read::Fresh(meta, bytes)) => {
                    let actual = hash(digest.algorithm(), bytes.clone()).await?;
                    blobs::record(&checked, &metrics, meta, actual == digest);
                    if actual == digest { Ok(bytes) } else { Err(Error::BlobUnknown(digest)) }
                }
                Ok(Read::Same) | Err(objects::Error::NotFound) => Err(Error::BlobUnknown(digest)),
                Err(error) => Err(error.into()),
            }
        };
        self.hot.get(key, fetch).await
    }

    /// What the backend knows of an object, unless its bytes were found wrong: then it is as good as gone, and whoever
    /// asks whether to upload it is told to.
    async fn head(&self, key: &Key) -> Result<Option<Meta>> {
        match patiently(|| self.objects.head(key)).await {
            Ok(meta) if self.is_wrong(&meta) => Ok(None),
            Ok(meta) => Ok(Some(meta)),
            Err(objects::Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a small object.
    async fn put(&self, key: &Key, body: impl Into<Bytes>) -> Result<Meta> {
        let body = body.into();
        Ok(patiently(|| self.objects.put(key, body.clone(), When::Always)).await?)
    }

    /// Deletes in the given order.
    async fn delete(&self, keys: &[Key]) -> Result<()> {
        if keys.is_empty() { Ok(()) } else { Ok(patiently(|| self.objects.delete(keys)).await?) }
    }

    /// All of a listing that is known to be short.
    async fn list(&self, prefix: &str) -> Result<Vec<Meta>> {
        Ok(patiently(|| self.objects.list(prefix, None).try_collect()).await?)
    }

    fn is_wrong(&self, meta: &Meta) -> bool {
        self.checked.get(&meta.key) == Some((meta.version.clone(), blobs::Checked::Wrong))
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
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::new().hash_one(key) as usize % STRIPES
}

/// One repository, for a caller who may.
#[derive(Clone)]
pub struct Repo {
    store: Store,
    permit: Permit,
}

impl Repo {
    fn tenant(&self) -> &Tenant {
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
