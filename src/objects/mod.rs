//! Bytes under keys: the few operations that Larder needs of a disk or a bucket.
//!
//! [`Objects`] has the same meaning on every backend; `tests/it/objects.rs` is its definition, run against each.
//!
//! Invariant: nothing above this module knows which backend it has.

pub mod fs;
pub mod s3;
pub mod traced;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use parking_lot::RwLock;

use crate::digest::Digest;
use crate::names::Tenant;

/// The name of an object: components joined by `/`, none of them empty, `.` or `..`. Built by `layout.rs`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

impl Key {
    pub fn new(text: impl Into<Arc<str>>) -> Key {
        let text = text.into();
        debug_assert!(text.split('/').all(|part| !matches!(part, "" | "." | "..")), "not a key: {text}");
        Key(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the tenant that an object belongs to, if its key has one: `layout` puts it second.
    pub fn owner(&self) -> Option<Tenant> {
        self.0.split('/').nth(1)?.parse().ok()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The version of an object: one write of its key. Two writes never share a version, even of the same bytes in the same
/// second: a reader that holds a version can tell whether the object is still the one it read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(pub Arc<str>);

impl Version {
    /// Whether `listed`, from a list, may be this version. A bucket lists the checksum of the bytes, and nothing that
    /// tells two writes of the same bytes apart.
    pub fn is_listed_as(&self, listed: &Version) -> bool {
        let rest = self.0.strip_prefix(&*listed.0);
        !listed.0.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    }
}

/// Metadata of an object, known without reading it.
#[derive(Clone, Debug)]
pub struct Meta {
    pub key: Key,
    /// Size in bytes.
    pub size: u64,
    /// Time of the write, by the backend's clock. The result of a write may have this host's time of its end instead.
    pub modified: SystemTime,
    pub version: Version,
}

/// A stream of bytes. An error is its last item.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// Answer of [`Objects::read`].
#[derive(Debug)]
pub enum Read {
    /// The object still has the version that the caller knows.
    Same,
    Fresh(Meta, Bytes),
}

/// Condition of a [`Objects::put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Always,
    /// As [`When::Always`], but sent once: the backend does not repeat the write, not even when an answer was lost. For
    /// an object that changes, whose writer gives each write bytes of its own. A repeated write could bring back bytes
    /// that another writer has replaced meanwhile, and a reader that remembers those would be told that nothing has
    /// changed.
    Once,
    /// Written only if no object has the key; of several such puts at once, one wins and the others get
    /// [`Error::Exists`].
    Absent,
}

/// Properties of a backend on which callers act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// Calls cross a network: each takes milliseconds and may cost money, so callers remember the answers.
    pub remote: bool,
    /// Other servers may write and delete the same objects.
    pub shared: bool,
    /// The operating system keeps recently read and written bytes in memory, so callers need not.
    pub page_cached: bool,
    /// Bytes pass a network that may flip bits: an object that reads wrong once may read right the next time.
    pub may_flip_bits: bool,
}

pub type Result<T> = std::result::Result<T, Error>;

/// Errors of a backend. Callers branch on the variants; texts are for the operator's log, never for a client.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("no such object")]
    NotFound,
    #[error("object exists")]
    Exists,
    /// Overload or a passing fault: the same call may succeed later.
    #[error("store is busy: {0}")]
    Busy(Arc<str>),
    #[error("store is full")]
    Full,
    #[error("store failed: {0}")]
    Backend(Arc<str>),
}

/// Capacity of a backend that has a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can still be written.
    pub free: u64,
    /// Bytes in all, used by Larder or others.
    pub total: u64,
    /// Inodes; absent if files are bounded by bytes alone.
    pub inodes: Option<Inodes>,
}

/// Number of files and folders that a filesystem can hold, if it has a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inodes {
    pub free: u64,
    /// Inodes in all, used by Larder or others.
    pub total: u64,
}

/// A write that was begun and neither finished nor given up: a temporary file, a multipart upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The backend's name for it.
    pub name: String,
    /// Time of the last write to it, or of its beginning, by the backend's clock.
    pub since: SystemTime,
}

/// A store of objects. No method has a default: a wrapper that forgot one would change the behaviour of its backend.
///
/// All methods are safe to call concurrently, from any task.
///
/// A write is durable and visible to every reader, `list` included, once its call has returned; before that, the key is
/// unchanged. Dropping a call's future half-way leaves the key unchanged or wholly written.
#[async_trait]
pub trait Objects: Send + Sync + 'static {
    async fn head(&self, key: &Key) -> Result<Meta>;

    /// Returns all bytes of a small object, unless its version is still `known`. Objects of more than
    /// [`READ_BYTES_MAX`] are refused.
    async fn read(&self, key: &Key, known: Option<&Version>) -> Result<Read>;

    /// Returns the bytes of `range`, clipped to the object; none when it begins past the end. `Meta` has the size of
    /// the object.
    async fn get(&self, key: &Key, range: Range<u64>) -> Result<(Meta, ByteStream)>;

    /// Lists all objects whose key begins with `prefix` and is greater than `after`, in byte order of whole keys. A
    /// listed version identifies a write only as far as [`Version::is_listed_as`] says.
    fn list(&self, prefix: &str, after: Option<&str>) -> BoxStream<'static, Result<Meta>>;

    async fn put(&self, key: &Key, body: Bytes, when: When) -> Result<Meta>;

    /// Starts to write an object, of `size` bytes if known. Nothing is visible under the key before `commit`.
    async fn begin(&self, key: &Key, size: Option<u64>) -> Result<Box<dyn Draft>>;

    /// Writes the objects `from`, one after the other, to `to`; together they must have `digest`. The bytes do not pass
    /// through this process if the backend can copy by itself. Bytes that do are hashed: if they do not fit the digest,
    /// nothing is written.
    async fn concat(&self, from: &[Key], to: &Key, digest: &Digest) -> Result<Meta>;

    /// Deletes the first key before all others, and those in any order: if one of them is gone, so is the first, power
    /// cuts included. A missing key is success.
    async fn delete(&self, keys: &[Key]) -> Result<()>;

    /// Deletes in any order, by requests dated `at`, a time that the backend's clock showed. A request that arrives
    /// when it is older than [`Objects::fence`] is refused, with [`Error::Backend`]. A request that the caller has
    /// given up may still be executed until then, and not later. A missing key is success.
    async fn delete_dated(&self, keys: &[Key], at: SystemTime) -> Result<()>;

    /// The age up to which a dated request is executed. Absent if the backend does not check the date, or if this was
    /// never tried.
    fn fence(&self) -> Option<Fence>;

    /// Makes one round trip that proves that the store answers and takes writes.
    async fn probe(&self) -> Result<()>;

    /// Free space and capacity, if the backend has a bound. Called for every upload, so it does no I/O that can wait.
    fn space(&self) -> Option<Space>;

    /// Lists the writes in flight, and those that a crash left behind.
    async fn unfinished(&self) -> Result<Vec<Unfinished>>;

    /// Calls `watcher` for every write and every delete that succeeds, once each, even if the caller does not wait for
    /// it any more. A backend with one owner says exactly what the key held before.
    fn watch(&self, watcher: Watcher);

    /// Properties of the backend, constant while the store is open.
    fn traits(&self) -> Traits;

    /// Removes the drafts of servers that died, if nothing has been added to them since `before`. Returns how many. For
    /// backends where such drafts stay and are not visible.
    async fn sweep_drafts(&self, before: SystemTime) -> Result<usize>;

    /// Returns a URL from which a client may fetch the object directly for a short while, if the operator configured
    /// that for objects of this size. Needs no call to the backend.
    async fn direct(&self, meta: &Meta) -> Result<Option<String>>;
}

pub use crate::config::READ_BYTES_MAX;

/// What a backend knows about the bytes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// No object.
    Nothing,
    /// An object of this many bytes.
    Bytes(u64),
    /// A bucket does not say what a write or a delete has replaced.
    Unknown,
}

/// A completed write or delete: what the key held before, and what it holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub before: Held,
    pub after: Held,
}

impl Change {
    /// A write by a backend that cannot say what it replaced.
    pub fn written(bytes: u64) -> Change {
        Change { before: Held::Unknown, after: Held::Bytes(bytes) }
    }
}

/// A function called for every change that this process makes. It runs where the change is made, so it must not block.
pub type Watcher = Arc<dyn Fn(&Key, Change) + Send + Sync>;

/// The registered watchers of a backend.
#[derive(Default)]
pub struct Watchers(RwLock<Vec<Watcher>>);

impl Watchers {
    /// Registers one more watcher.
    pub fn add(&self, watcher: Watcher) {
        self.0.write().push(watcher);
    }

    /// Calls all watchers.
    pub fn tell(&self, key: &Key, change: Change) {
        self.0.read().iter().for_each(|watcher| watcher(key, change));
    }
}

/// Limits on the late execution of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// A dated request is refused when it is older.
    pub age_max: Duration,
    /// No request is executed after the process that sent it has ended, and no other process sends any.
    pub dies_with_process: bool,
}

/// An object being written. Dropped without `commit` it disappears.
#[async_trait]
pub trait Draft: Send {
    /// Appends the pieces in order. Callers hand over a few hundred kilobytes at a time: each call may cost a thread
    /// hop.
    async fn write(&mut self, pieces: Vec<Bytes>) -> Result<()>;

    /// Whether `write` gathers in memory, and waits for memory rather than for a disk: then reading on meanwhile gains
    /// nothing.
    fn gathers(&self) -> bool;

    /// Completes the object: the key appears whole, or never.
    async fn commit(self: Box<Self>) -> Result<Meta>;
}
