//! Objects as files below one folder.
//!
//! A key is a path. A write goes to `.larder/tmp`, is synced, gets its modification time, is renamed to its path, and then every
//! folder whose entries changed is synced, up to the root. Only then is it acknowledged: a power cut at any moment
//! leaves the old object or the new one.
//!
//! Invariant: no file below the root, outside `.larder`, is ever opened for writing.
//! Invariant: one process owns the folder, by a lock on `.larder/lock` that the kernel drops at its death.

mod walk;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use super::{ByteStream, Draft, Error, Key, Meta, Objects, READ_BYTES_MAX, Read, Result, Version, When};

/// Our own folder: outside the key space, since no key component begins with a dot at the top.
const PRIVATE: &str = ".larder";
/// Keys below this are for the server alone: there is one that signs tokens.
const SECRET: &str = "meta/";
/// One read from a file: large enough that the thread hop does not count.
const READ_BYTES: usize = 512 << 10;
/// Folders whose entry is known to be durable. Forgetting one costs a sync.
const DURABLE_FOLDERS_MAX: u64 = 65_536;
/// A folder may be removed as empty between its creation and the rename into it; then it is made again, so often.
const FOLDER_RACES_MAX: u32 = 16;

/// The filesystem backend.
#[derive(Clone)]
pub struct FsObjects {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    tmp: PathBuf,
    durable: moka::sync::Cache<PathBuf, ()>,
    /// Held alone while a folder is removed, shared while one is made and taken for durable.
    folders: RwLock<()>,
    /// Objects that have their name already, but whose name may not survive a power cut yet.
    unsynced: Mutex<HashSet<PathBuf>>,
    /// Held for as long as the store is open.
    _lock: File,
}

/// Why a folder cannot be used as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "{0} is in use by another larder: stop that one, or give this one a folder of its own ([store] path, or LARDER_STORE_PATH)"
    )]
    InUse(PathBuf),
    #[error("{0} does not tell upper from lower case in file names, but tags do: use a case-sensitive filesystem")]
    CaseInsensitive(PathBuf),
    #[error("cannot open the store in {0}: {1}")]
    Io(PathBuf, #[source] io::Error),
}

impl FsObjects {
    /// Opens the store in `root`, creating the folder when it is missing, and clears what a crash left half written.
    pub fn open(root: &Path) -> std::result::Result<FsObjects, OpenError> {
        let failed = |error| OpenError::Io(root.to_path_buf(), error);
        let tmp = root.join(PRIVATE).join("tmp");
        fs::create_dir_all(&tmp).map_err(failed)?;
        let root = root.canonicalize().map_err(failed)?;
        let private = root.join(PRIVATE);
        let lock = File::create(private.join("lock")).map_err(failed)?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::InUse(root)),
            Err(error) => return Err(failed(error.into())),
        }
        File::create(private.join("case")).map_err(failed)?;
        if private.join("CASE").exists() {
            return Err(OpenError::CaseInsensitive(root));
        }
        // Only the owner writes here, and it has just started: these are drafts of a process that died.
        for entry in fs::read_dir(&tmp).map_err(failed)? {
            fs::remove_file(entry.map_err(failed)?.path()).map_err(failed)?;
        }
        for folder in [&root, &private] {
            sync_folder(folder).map_err(failed)?;
        }
        if let Some(parent) = root.parent() {
            // The store's own entry: without it a power cut could take the whole new store.
            let _ = sync_folder(parent);
        }
        let durable = moka::sync::Cache::new(DURABLE_FOLDERS_MAX);
        let (folders, unsynced) = (RwLock::new(()), Mutex::new(HashSet::new()));
        let inner = Inner { tmp: private.join("tmp"), root, durable, folders, unsynced, _lock: lock };
        Ok(FsObjects { inner: Arc::new(inner) })
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = self.inner.clone();
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(done) => done,
            Err(error) => Err(Error::Backend(error.to_string().into())),
        }
    }
}

impl Inner {
    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn temporary(&self) -> Result<Temporary> {
        self.temporary_with(0o644)
    }

    fn temporary_with(&self, mode: u32) -> Result<Temporary> {
        let path = self.tmp.join(format!("{:032x}", rand::random::<u128>()));
        let file = File::options().write(true).create_new(true).mode(mode).open(&path).map_err(from_io)?;
        Ok(Temporary { path, file: Some(file) })
    }

    /// Makes the temporary file's bytes the object `key`, durably.
    fn publish(&self, mut temporary: Temporary, key: &Key, when: When) -> Result<Meta> {
        let path = self.path(key);
        let file = temporary.file.take().ok_or_else(|| Error::Backend("published twice".into()))?;
        // An upload may take hours: what counts is when the object appeared, not when its first byte came.
        file.set_modified(SystemTime::now()).map_err(from_io)?;
        file.sync_all().map_err(from_io)?;
        let meta = meta(key.clone(), &file.metadata().map_err(from_io)?);
        drop(file);
        self.unsynced().insert(path.clone());
        let placed = self.place_in_folder(&path, || match when {
            When::Always => fs::rename(&temporary.path, &path),
            // A link fails where the name is taken; a rename would replace it.
            When::Absent => fs::hard_link(&temporary.path, &path),
        });
        // After a failed sync it stays: whoever asks for it next has to sync it.
        if matches!(placed, Ok(()) | Err(Error::Exists)) {
            self.unsynced().remove(&path);
        }
        placed.map(|()| meta)
    }

    fn unsynced(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that an object which can be seen is there to stay, before somebody relies on it.
    fn settle(&self, path: &Path) -> Result<()> {
        let folder = path.parent().unwrap_or(&self.root);
        self.make_durable(folder).and_then(|()| sync_folder(folder)).map_err(from_io)?;
        self.unsynced().remove(path);
        Ok(())
    }

    /// Runs `place`, which makes the entry `path`, and syncs all that needs it for the entry to survive a power cut.
    fn place_in_folder(&self, path: &Path, place: impl Fn() -> io::Result<()>) -> Result<()> {
        let folder = path.parent().unwrap_or(&self.root);
        for _ in 0..FOLDER_RACES_MAX {
            match self.make_durable(folder).and_then(|()| place()) {
                // A folder on the way was empty and has just been removed: whoever removed it did not know of us.
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.forget_durable(folder),
                Err(error) => return Err(from_io(error)),
                // Once more: the folder may have been removed and made again since, by one who has not synced it yet.
                Ok(()) => return self.make_durable(folder).and_then(|()| self.sync_nearest(folder)).map_err(from_io),
            }
        }
        Err(Error::Busy("folder keeps disappearing".into()))
    }

    /// Creates `folder` and its parents, and syncs each one's entry in its parent. A folder that exists is not thereby
    /// durable: another thread may have made it a moment ago and not synced yet. Only our own memory says so.
    fn make_durable(&self, folder: &Path) -> io::Result<()> {
        if folder == self.root || self.durable.contains_key(folder) {
            return Ok(());
        }
        let parent = folder.parent().unwrap_or(&self.root);
        self.make_durable(parent)?;
        let _shared = self.folders.read().unwrap_or_else(PoisonError::into_inner);
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        sync_folder(parent)?;
        self.durable.insert(folder.to_path_buf(), ());
        Ok(())
    }

    fn forget_durable(&self, folder: &Path) {
        for folder in folder.ancestors().take_while(|folder| *folder != self.root) {
            self.durable.invalidate(folder);
        }
    }

    /// Syncs a folder or, when it has gone with the last that was in it, the folder from which it went.
    fn sync_nearest<'a>(&'a self, mut folder: &'a Path) -> io::Result<()> {
        loop {
            match sync_folder(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && folder != self.root => {
                    folder = folder.parent().unwrap_or(&self.root);
                }
                done => return done,
            }
        }
    }

    fn delete(&self, key: &Key) -> Result<()> {
        let path = self.path(key);
        match fs::remove_file(&path) {
            // Perhaps by another one just now: its going is made durable below all the same.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(from_io(error)),
            Ok(()) => {}
        }
        let mut folder = path.parent().unwrap_or(&self.root);
        // Deletes keep their order over a power cut: a pointer must not come back after what it names is gone.
        self.sync_nearest(folder).map_err(from_io)?;
        let _alone = self.folders.write().unwrap_or_else(PoisonError::into_inner);
        while folder != self.root {
            // Forgotten first: nobody may take a folder for durable because it was there before it went.
            self.durable.invalidate(folder);
            if fs::remove_dir(folder).is_err() {
                break;
            }
            folder = folder.parent().unwrap_or(&self.root);
        }
        Ok(())
    }
}

/// A file in `.larder/tmp`, removed when dropped.
struct Temporary {
    path: PathBuf,
    file: Option<File>,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Renamed away or not: after a rename there is nothing left to remove.
        let _ = fs::remove_file(&self.path);
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn meta(key: Key, found: &fs::Metadata) -> Meta {
    let version = format!("{:x}-{:x}-{:x}-{:x}", found.ino(), found.mtime(), found.mtime_nsec(), found.size());
    Meta {
        key,
        size: found.size(),
        modified: found.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        version: Version(version.into()),
    }
}

fn from_io(error: io::Error) -> Error {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::NotFound | Kind::NotADirectory => Error::NotFound,
        Kind::AlreadyExists => Error::Exists,
        Kind::StorageFull | Kind::QuotaExceeded => Error::Full,
        Kind::WouldBlock | Kind::Interrupted | Kind::OutOfMemory | Kind::ResourceBusy => {
            Error::Busy(error.to_string().into())
        }
        // Out of file descriptors: of this process, or of the machine.
        _ if matches!(error.raw_os_error(), Some(24 | 23)) => Error::Busy(error.to_string().into()),
        _ => Error::Backend(error.to_string().into()),
    }
}

/// Opens a file for reading, and what is known of it from the same descriptor: a later rename does not mix two objects.
fn open(path: &Path, key: &Key) -> Result<(File, Meta)> {
    let file = File::open(path).map_err(from_io)?;
    let found = file.metadata().map_err(from_io)?;
    if !found.is_file() {
        return Err(Error::NotFound);
    }
    let meta = meta(key.clone(), &found);
    Ok((file, meta))
}

fn read_at(file: &File, offset: u64, length: usize) -> Result<Bytes> {
    let mut buffer = Vec::with_capacity(length);
    while buffer.len() < length {
        let at = offset + buffer.len() as u64;
        let spare = rustix::buffer::spare_capacity(&mut buffer);
        match rustix::io::pread(file.as_fd(), spare, at) {
            // Files here never shrink, so this is a damaged filesystem, not an end.
            Ok(0) => return Err(Error::Backend("file is shorter than it was".into())),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(from_io(error.into())),
        }
    }
    // The capacity may be more than was asked for, and all of it is read into.
    buffer.truncate(length);
    Ok(buffer.into())
}

#[async_trait]
impl Objects for FsObjects {
    async fn head(&self, key: &Key) -> Result<Meta> {
        // In place: one stat costs less than the hop to another thread.
        let path = self.inner.path(key);
        let found = fs::metadata(&path).map_err(from_io)?;
        if self.inner.unsynced().contains(&path) {
            self.blocking(move |inner| inner.settle(&path)).await?;
        }
        if found.is_file() { Ok(meta(key.clone(), &found)) } else { Err(Error::NotFound) }
    }

    async fn read(&self, key: &Key, known: Option<&Version>) -> Result<Read> {
        if let Some(known) = known
            && self.head(key).await?.version == *known
        {
            return Ok(Read::Same);
        }
        let key = key.clone();
        self.blocking(move |inner| {
            let (file, meta) = open(&inner.path(&key), &key)?;
            if meta.size > READ_BYTES_MAX {
                return Err(Error::Backend(format!("{key} has {} bytes, too many to read whole", meta.size).into()));
            }
            let bytes = read_at(&file, 0, meta.size as usize)?;
            Ok(Read::Fresh(meta, bytes))
        })
        .await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<(Meta, ByteStream)> {
        let key = key.clone();
        let (file, meta) = self.blocking(move |inner| open(&inner.path(&key), &key)).await?;
        let (file, end) = (Arc::new(file), range.end.min(meta.size));
        let reads = stream::iter((range.start..end).step_by(READ_BYTES)).map(move |offset| {
            let (file, length) = (file.clone(), READ_BYTES.min((end - offset) as usize));
            async move {
                match tokio::task::spawn_blocking(move || read_at(&file, offset, length)).await {
                    Ok(read) => read,
                    Err(error) => Err(Error::Backend(error.to_string().into())),
                }
            }
        });
        // Two at a time: the disk works while the socket drains.
        Ok((meta, reads.buffered(2).boxed()))
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> BoxStream<'static, Result<Meta>> {
        walk::list(self.clone(), prefix, after)
    }

    async fn put(&self, key: &Key, body: Bytes, when: When) -> Result<Meta> {
        let key = key.clone();
        self.blocking(move |inner| {
            let mut temporary = inner.temporary_with(if key.as_str().starts_with(SECRET) { 0o600 } else { 0o644 })?;
            if let Some(file) = &mut temporary.file {
                file.write_all(&body).map_err(from_io)?;
            }
            inner.publish(temporary, &key, when)
        })
        .await
    }

    async fn begin(&self, key: &Key, _size: Option<u64>) -> Result<Box<dyn Draft>> {
        let temporary = self.blocking(|inner| inner.temporary()).await?;
        Ok(Box::new(FsDraft { objects: self.clone(), key: key.clone(), temporary: Some(temporary) }))
    }

    async fn concat(&self, from: &[Key], to: &Key) -> Result<Meta> {
        let (from, to) = (from.to_vec(), to.clone());
        self.blocking(move |inner| {
            if let [only] = &from[..]
                && let Some(meta) = inner.link(only, &to)?
            {
                return Ok(meta);
            }
            let mut temporary = inner.temporary()?;
            for key in &from {
                let mut source = File::open(inner.path(key)).map_err(from_io)?;
                if let Some(file) = &mut temporary.file {
                    io::copy(&mut source, file).map_err(from_io)?;
                }
            }
            inner.publish(temporary, &to, When::Always)
        })
        .await
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        let keys = keys.to_vec();
        self.blocking(move |inner| keys.iter().try_for_each(|key| inner.delete(key))).await
    }

    async fn probe(&self) -> Result<()> {
        self.blocking(|inner| {
            let mut temporary = inner.temporary()?;
            if let Some(file) = &mut temporary.file {
                file.write_all(b"probe").map_err(from_io)?;
            }
            Ok(())
        })
        .await
    }
}

impl Inner {
    /// A second name for the same bytes, where the filesystem has such.
    fn link(&self, from: &Key, to: &Key) -> Result<Option<Meta>> {
        let mut temporary = Temporary { path: self.tmp.join(format!("{:032x}", rand::random::<u128>())), file: None };
        match fs::hard_link(self.path(from), &temporary.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::NotFound),
            Err(_) => return Ok(None),
            Ok(()) => {}
        }
        temporary.file = Some(File::options().write(true).open(&temporary.path).map_err(from_io)?);
        self.publish(temporary, to, When::Always).map(Some)
    }
}

struct FsDraft {
    objects: FsObjects,
    key: Key,
    /// Away during a write. A write that was dropped half-way takes the draft with it: nobody can know how far it got.
    temporary: Option<Temporary>,
}

#[async_trait]
impl Draft for FsDraft {
    async fn write(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        let mut temporary = self.temporary.take().ok_or_else(broken)?;
        let work = move |_: &Inner| {
            let file = temporary.file.as_mut().ok_or_else(broken)?;
            write_all_vectored(file, &pieces).map_err(from_io)?;
            Ok(temporary)
        };
        self.temporary = Some(self.objects.blocking(work).await?);
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<Meta> {
        let temporary = self.temporary.take().ok_or_else(broken)?;
        let key = self.key.clone();
        self.objects.blocking(move |inner| inner.publish(temporary, &key, When::Always)).await
    }
}

fn broken() -> Error {
    Error::Backend("draft was given up after a failed write".into())
}

fn write_all_vectored(file: &mut File, pieces: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<io::IoSlice<'_>> = pieces.iter().map(|piece| io::IoSlice::new(piece)).collect();
    let mut rest = &mut slices[..];
    io::IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => io::IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
