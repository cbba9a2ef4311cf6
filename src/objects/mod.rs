//! Bytes under keys: the little that Larder asks of a disk or a bucket.
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

/// The name of an object: components joined by `/`, none of them empty, `.` or `..`. Built by `store/layout.rs`.
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

    /// The tenant that an object belongs to, where its key names one: as `layout` builds keys, it is their second component.
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

/// One writing of a key. Two writings of a key never share a version, even when they wrote the same bytes at the same
/// second: a reader that holds a version can tell whether the object is still the one it read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(pub Arc<str>);

impl Version {
    /// Whether a list shows this writing as `listed`, or another one of the same bytes: a bucket lists the checksum of the
    /// bytes, and not what tells two writings of them apart.
    pub fn is_listed_as(&self, listed: &Version) -> bool {
        let rest = self.0.strip_prefix(&*listed.0);
        !listed.0.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    }
}

/// What is known of an object without reading it.
#[derive(Clone, Debug)]
pub struct Meta {
    pub key: Key,
    /// Bytes.
    pub size: u64,
    /// When it was written, by the backend's clock. What a write itself returns may be this host's time of its end.
    pub modified: SystemTime,
    pub version: Version,
}

/// Bytes on their way. An error is the last item.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// Answer of [`Objects::read`].
#[derive(Debug)]
pub enum Read {
    /// Still the version that the caller knows.
    Same,
    Fresh(Meta, Bytes),
}

/// Condition of a [`Objects::put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Always,
    /// As [`When::Always`], and asked for once: never again below, as a backend does when an answer is lost. For an object
    /// that changes, whose writer gives each write bytes of its own: written a second time, bytes that another writer has
    /// replaced meanwhile would come back, and whoever remembers them would be told that nothing has changed.
    Once,
    /// Only when no object has the key; of several such puts at once, one wins and the others get [`Error::Exists`].
    Absent,
}

/// What a backend is like: the questions whose answers callers act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// Calls cross a network: each takes milliseconds and may cost money, so callers remember what they were told.
    pub remote: bool,
    /// Other servers may write and delete the same objects.
    pub shared: bool,
    /// The operating system keeps in memory what was read and written lately, so callers need not.
    pub page_cached: bool,
    /// Bytes pass a line that may flip bits: what reads wrong once may read right the next time.
    pub may_flip_bits: bool,
}

pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong below. Callers branch on these; texts are for the operator's log, never for a client.
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

/// The room of a backend that has a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can still be written.
    pub free: u64,
    /// Bytes in all, whoever uses them.
    pub total: u64,
    /// Nothing where files are bounded by bytes alone.
    pub inodes: Option<Inodes>,
}

/// How many more files and folders a filesystem takes that has a bound of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inodes {
    pub free: u64,
    /// In all, whoever uses them.
    pub total: u64,
}

/// Something that was begun and neither finished nor given up: a temporary file, an upload of parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// What the backend calls it.
    pub name: String,
    /// When it was last written to, or begun, by the backend's clock.
    pub since: SystemTime,
}

/// A store of objects. No method has a default: a wrapper that forgot one would change what its backend is like.
///
/// All methods are safe to call concurrently, from any task.
///
/// A write is durable and visible to every reader, `list` included, once its call has returned; before that, the key
/// holds what it held. Dropping a call's future half-way leaves the key as it was or wholly written.
#[async_trait]
pub trait Objects: Send + Sync + 'static {
    async fn head(&self, key: &Key) -> Result<Meta>;

    /// The whole of a small object, unless it still is `known`. Objects of more than [`READ_BYTES_MAX`] are refused.
    async fn read(&self, key: &Key, known: Option<&Version>) -> Result<Read>;

    /// The bytes of `range`, clipped to the object; nothing when it begins past the end. `Meta` tells the whole size.
    async fn get(&self, key: &Key, range: Range<u64>) -> Result<(Meta, ByteStream)>;

    /// All objects whose key begins with `prefix` and is greater than `after`, in byte order of whole keys. Their versions
    /// are no more than [`Version::is_listed_as`] says.
    fn list(&self, prefix: &str, after: Option<&str>) -> BoxStream<'static, Result<Meta>>;

    async fn put(&self, key: &Key, body: Bytes, when: When) -> Result<Meta>;

    /// Starts to write an object whose size may be told beforehand. Nothing shows under the key before `commit`.
    async fn begin(&self, key: &Key, size: Option<u64>) -> Result<Box<dyn Draft>>;

    /// Writes to `to` the objects `from`, one after the other, which together have `digest`, without their bytes passing
    /// through this process where the backend can do that. Bytes that do come over a line are hashed on their way: when they
    /// do not fit, nothing is written.
    async fn concat(&self, from: &[Key], to: &Key, digest: &Digest) -> Result<Meta>;

    /// Deletes the first key before all others, and those in any order: when one of them is gone, so is the first, power
    /// cuts included. A missing key is success.
    async fn delete(&self, keys: &[Key]) -> Result<()>;

    /// Deletes in no order, by requests dated `at`, which the backend's clock showed: those that reach it when they are
    /// older than [`Objects::fence`] are refused, with [`Error::Backend`]. A request that has been given up may still be
    /// done until then, and not later. Missing keys are success.
    async fn delete_dated(&self, keys: &[Key], at: SystemTime) -> Result<()>;

    /// How old a dated request may be to be done; nothing where the backend does not look, or where nobody has tried.
    fn fence(&self) -> Option<Fence>;

    /// One round trip that proves that the store answers and takes writes.
    async fn probe(&self) -> Result<()>;

    /// How much room there is, where there is a bound. Asked for every upload, so it waits for nothing.
    fn space(&self) -> Option<Space>;

    /// Writes that are under way, and those that a crash left behind.
    async fn unfinished(&self) -> Result<Vec<Unfinished>>;

    /// Has `watcher` told of every write and every delete that succeeds, once each, also of those whose caller does not
    /// wait for them any more. A backend with one owner says exactly what was there before.
    fn watch(&self, watcher: Watcher);

    /// What the backend is like. The same for as long as the store is open.
    fn traits(&self) -> Traits;

    /// Removes what drafts of servers that died have left behind, where nothing has been added to it since `before`.
    /// Returns how many. For backends where such things stay, unseen.
    async fn sweep_drafts(&self, before: SystemTime) -> Result<usize>;

    /// An address where a client may fetch the object by itself for a short while, when the operator wants that for an
    /// object of this size. It needs no call to the backend.
    async fn direct(&self, meta: &Meta) -> Result<Option<String>>;
}

pub use crate::config::READ_BYTES_MAX;

/// What a backend knows of the bytes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// There is no object.
    Nothing,
    /// So many bytes.
    Bytes(u64),
    /// A bucket does not say what a write or a delete has replaced.
    Unknown,
}

/// A write or a delete that was done: what the key held before and holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub before: Held,
    pub after: Held,
}

impl Change {
    /// Something was written of which the backend cannot say what it has replaced.
    pub fn written(bytes: u64) -> Change {
        Change { before: Held::Unknown, after: Held::Bytes(bytes) }
    }
}

/// Told of every change that this process makes. It is called where the change is done, so it must not wait.
pub type Watcher = Arc<dyn Fn(&Key, Change) + Send + Sync>;

/// Those who are told of what changes.
#[derive(Default)]
pub struct Watchers(RwLock<Vec<Watcher>>);

impl Watchers {
    /// Tells one more.
    pub fn add(&self, watcher: Watcher) {
        self.0.write().push(watcher);
    }

    /// Something was changed.
    pub fn tell(&self, key: &Key, change: Change) {
        self.0.read().iter().for_each(|watcher| watcher(key, change));
    }
}

/// What is known of requests that come late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// A dated request is not done when it is older.
    pub age_max: Duration,
    /// Nothing of it is done after the process that sent it has ended, and no other process sends any.
    pub dies_with_process: bool,
}

/// An object being written. Dropped without `commit` it disappears.
#[async_trait]
pub trait Draft: Send {
    /// Appends the pieces in order. Callers hand over a few hundred kilobytes at a time: each call may cost a thread hop.
    async fn write(&mut self, pieces: Vec<Bytes>) -> Result<()>;

    /// Whether `write` gathers in memory, and waits for that rather than for a disk: then nothing is won by reading on
    /// meanwhile.
    fn gathers(&self) -> bool;

    /// The key appears here, whole, or never.
    async fn commit(self: Box<Self>) -> Result<Meta>;
}
