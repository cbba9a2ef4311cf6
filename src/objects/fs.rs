//! Objects as files below one folder.
//!
//! A key is a path. A write goes to `.larder/tmp`, is synced, gets its modification time, is renamed to its path, and
//! then every folder whose entries changed is synced, up to the root. Only then is it acknowledged: a power cut at any
//! moment leaves the old object or the new one.
//!
//! Invariant: no file below the root, outside `.larder`, is ever opened for writing.
//! Invariant: one process owns the folder, by a lock on `.larder/lock` that the kernel releases when the process dies.

mod file;
mod folders;
#[cfg(test)]
mod tests;
mod walk;

use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use parking_lot::Mutex;
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with, statvfs};
use rustix::io::Errno;

use super::{
    ByteStream, Change, Draft, Error, Fence, Held, Inodes, Key, Meta, Objects, READ_BYTES_MAX, Read, Result, Space,
    Traits, Unfinished, Version, Watcher, Watchers, When,
};
use crate::digest::Digest;
use crate::sync::{STRIPES, stripe};
use file::{Buffers, READ_BYTES, from_io, look, meta, open, read_all, write_all_vectored};
use folders::{Folders, SyncFolder, sync_folder};

/// Properties of the disk: it has one owner, the holder of the lock.
pub const TRAITS: Traits = Traits { remote: false, shared: false, page_cached: true, may_flip_bits: false };
/// Larder's own folder: outside the key space, since no key begins with a dot.
const PRIVATE: &str = ".larder";
/// Keys with this prefix are readable by the server only: one holds the key that signs tokens.
const SECRET: &str = "meta/";
/// Age above which a dated request is refused.
const DATED_AGE_MAX: Duration = Duration::from_secs(15 * 60);

/// The filesystem backend.
#[derive(Clone)]
pub struct FsObjects {
    inner: Arc<FsInner>,
}

struct FsInner {
    /// The folder of the store.
    root: File,
    tmp: PathBuf,
    folders: Folders,
    buffers: Buffers,
    /// Paths of objects that are visible, but whose names may not survive a power cut yet.
    unsynced: Mutex<HashSet<OsString>>,
    watchers: Watchers,
    /// Locks held while a name is created or removed, so that what the key held before is certain.
    turns: [Mutex<()>; STRIPES],
    /// The lock on the folder, held for as long as the store is open.
    _lock: File,
}

/// The reason why a folder cannot be used as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenFolderError {
    #[error(
        "{0} is in use by another larder: stop that one, or give this one a folder of its own ([store] path, or LARDER_STORE_PATH)"
    )]
    InUse(PathBuf),
    #[error("{0} is not on a case-sensitive filesystem, but tags are case-sensitive: use another filesystem")]
    CaseInsensitive(PathBuf),
    #[error(
        "cannot open the store in {0}: permission denied for uid {uid}: give the folder to that user (chown {uid}), or choose \
         another one (--store, [store] path)",
        uid = rustix::process::geteuid().as_raw()
    )]
    Permission(PathBuf),
    /// With the error in its text, so that it is no source: chains of causes would have it twice.
    #[error("cannot open the store in {folder}: {error}", folder = .0.display(), error = in_words(.1))]
    Io(PathBuf, io::Error),
}

/// An I/O error without the number of the system, where the kind says it all.
fn in_words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(_) if error.kind().to_string() != "uncategorized error" => error.kind().to_string(),
        _ => error.to_string(),
    }
}

impl OpenFolderError {
    fn of(folder: &Path, error: io::Error) -> OpenFolderError {
        match error.kind() {
            io::ErrorKind::PermissionDenied => OpenFolderError::Permission(folder.to_path_buf()),
            _ => OpenFolderError::Io(folder.to_path_buf(), error),
        }
    }
}

impl FsObjects {
    /// Opens the store in `root`, creates the folder if it is missing, and removes what a crash left half written.
    pub fn open(root: &Path) -> std::result::Result<FsObjects, OpenFolderError> {
        FsObjects::open_with(root, Box::new(sync_folder))
    }

    fn open_with(root: &Path, sync_folder: SyncFolder) -> std::result::Result<FsObjects, OpenFolderError> {
        let failed = |error| OpenFolderError::of(root, error);
        make_private(root).map_err(failed)?;
        let root = root.canonicalize().map_err(failed)?;
        let (private, tmp) = (root.join(PRIVATE), root.join(PRIVATE).join("tmp"));
        for folder in [&private, &tmp] {
            make_private(folder).map_err(failed)?;
        }
        let lock = File::create(private.join("lock")).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(OpenFolderError::InUse(root)),
            Err(error) => return Err(failed(error.into())),
        }
        for (folder, forbidden) in [(&root, OTHERS), (&private, GROUP_AND_OTHERS)] {
            narrow(folder, forbidden);
        }
        File::create(private.join("case")).map_err(failed)?;
        if private.join("CASE").exists() {
            return Err(OpenFolderError::CaseInsensitive(root));
        }
        // Only the owner writes here, and it has just started: these are drafts of a process that died.
        for entry in fs::read_dir(&tmp).map_err(failed)? {
            fs::remove_file(entry.map_err(failed)?.path()).map_err(failed)?;
        }
        for folder in [&root, &private] {
            sync_folder(folder).map_err(failed)?;
        }
        if let Some(parent) = root.parent() {
            // The root's own entry in its parent: without this sync a power cut could take the whole new store.
            let _ = sync_folder(parent);
        }
        let inner = FsInner {
            root: File::open(&root).map_err(failed)?,
            tmp: private.join("tmp"),
            folders: Folders::new(root, sync_folder),
            buffers: Buffers::default(),
            unsynced: Mutex::default(),
            watchers: Watchers::default(),
            turns: std::array::from_fn(|_| Mutex::default()),
            _lock: lock,
        };
        Ok(FsObjects { inner: Arc::new(inner) })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&FsInner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.clone();
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(done) => done,
            Err(error) => Err(Error::Backend(error.to_string().into())),
        }
    }
}

/// Permission bits of users who are neither the owner nor in the group, and those bits with the group's.
const OTHERS: u32 = 0o007;
const GROUP_AND_OTHERS: u32 = 0o077;
/// The sticky bit: a folder with it is shared by all users of the machine, and so is not Larder's own.
const STICKY: u32 = 0o1000;

/// Creates a folder that only its owner may read, unless it exists. Missing parents get the default permissions.
fn make_private(folder: &Path) -> io::Result<()> {
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        made => made,
    }
}

/// Takes permissions from an existing folder: earlier versions made folders that every user could read. The store's
/// folder keeps those of its group: backups read it through a group, and Kubernetes gives volumes to one.
fn narrow(folder: &Path, forbidden: u32) {
    let narrowed = || {
        let mut permissions = fs::metadata(folder)?.permissions();
        let mode = permissions.mode();
        if mode & forbidden == 0 || mode & STICKY != 0 {
            return Ok(());
        }
        permissions.set_mode(mode & !forbidden);
        fs::set_permissions(folder, permissions)
    };
    // A process that may write to the folder need not own it: so on volumes of Kubernetes, where no other users are.
    if let Err(error) = narrowed() {
        tracing::info!(%error, folder = %folder.display(), "cannot restrict a folder: other users may read it");
    }
}

impl FsInner {
    fn path(&self, key: &Key) -> PathBuf {
        self.folders.root().join(key.as_str())
    }

    fn temporary(&self) -> Result<Temporary> {
        self.temporary_with(0o644)
    }

    fn temporary_with(&self, mode: u32) -> Result<Temporary> {
        let path = self.tmp.join(format!("{:032x}", rand::random::<u128>()));
        let file = File::options().write(true).create_new(true).mode(mode).open(&path).map_err(from_io)?;
        Ok(Temporary { path, file: Some(file), is_renamed: false })
    }

    /// Makes the bytes of the temporary file the object `key`, durably.
    fn publish(&self, mut temporary: Temporary, key: &Key, when: When) -> Result<Meta> {
        let path = self.path(key);
        let file = temporary.file.take().ok_or_else(|| Error::Backend("published twice".into()))?;
        // An upload may take hours: the time that counts is when the object appeared, not when its first byte came.
        file.set_modified(SystemTime::now()).map_err(from_io)?;
        file.sync_all().map_err(from_io)?;
        let found = file.metadata().map_err(from_io)?;
        let meta = meta(key.clone(), &found);
        drop(file);
        self.unsynced.lock().insert(path.clone().into());
        let before = Cell::new(None);
        let place = || {
            let _turn = self.turns[stripe(key)].lock();
            before.set(Some(match when {
                When::Always | When::Once => self.rename(&temporary.path, key, &path)?,
                // A link fails where the name is taken; a rename would replace it.
                When::Absent => fs::hard_link(&temporary.path, &path).map(|()| Held::Nothing)?,
            }));
            Ok(())
        };
        let placed = self.folders.place(&path, place).map_err(from_io);
        if let Some(before) = before.get() {
            self.watchers.tell(key, Change { before, after: Held::Bytes(meta.size) });
        }
        // After a failed sync the path stays in the set: the next caller that reads the object has to sync it.
        if matches!(placed, Ok(()) | Err(Error::Exists)) {
            self.unsynced.lock().remove(path.as_os_str());
        }
        // A rename to another name of the same file does nothing.
        temporary.is_renamed = when != When::Absent && placed.is_ok() && found.nlink() == 1;
        placed.map(|()| meta)
    }

    /// Renames a file to the path of `key` and replaces any file there. Returns what the key held before.
    fn rename(&self, from: &Path, key: &Key, to: &Path) -> io::Result<Held> {
        // The common case: the key held nothing.
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(Held::Nothing),
            // The name is taken, or the filesystem or the kernel does not support this kind of rename.
            Err(Errno::EXIST | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                let held = self.held(key);
                fs::rename(from, to).map(|()| held)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns what a key holds now.
    fn held(&self, key: &Key) -> Held {
        look(&self.root, key).map_or(Held::Nothing, |meta| Held::Bytes(meta.size))
    }

    fn is_unsynced(&self, key: &Key) -> bool {
        let unsynced = self.unsynced.lock();
        // The set is nearly always empty: to build and hash a path costs more than all the rest of a lookup.
        !unsynced.is_empty() && unsynced.contains(self.path(key).as_os_str())
    }

    /// Makes a visible object durable before a caller relies on it.
    fn settle(&self, path: &Path) -> Result<()> {
        self.folders.settle(path).map_err(from_io)?;
        self.unsynced.lock().remove(path.as_os_str());
        Ok(())
    }

    fn delete(&self, key: &Key) -> Result<()> {
        let path = self.path(key);
        let (before, removed) = {
            let _turn = self.turns[stripe(key)].lock();
            (self.held(key), fs::remove_file(&path))
        };
        match removed {
            // Another delete may have removed the file just now: the removal is made durable below all the same.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(from_io(error)),
            Ok(()) => self.watchers.tell(key, Change { before, after: Held::Nothing }),
        }
        // Deletes keep their order over a power cut: a pointer must not come back after its content is gone.
        self.folders.settle_removal(&path).map_err(from_io)
    }
}

/// A file in `.larder/tmp`, removed when dropped.
struct Temporary {
    path: PathBuf,
    file: Option<File>,
    is_renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_renamed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[async_trait]
impl Objects for FsObjects {
    async fn head(&self, key: &Key) -> Result<Meta> {
        // On this thread: one stat costs less than the hop to another.
        let found = look(&self.inner.root, key)?;
        if self.inner.is_unsynced(key) {
            let path = self.inner.path(key);
            self.blocking(move |inner| inner.settle(&path)).await?;
        }
        Ok(found)
    }

    async fn read(&self, key: &Key, known: Option<&Version>) -> Result<Read> {
        if let Some(known) = known
            && self.head(key).await?.version == *known
        {
            return Ok(Read::Same);
        }
        let key = key.clone();
        let opening = self.blocking(move |inner| {
            let (file, meta) = open(&inner.path(&key), &key)?;
            if meta.size > READ_BYTES_MAX {
                return Err(Error::Backend(format!("{key} has {} bytes, too many to read whole", meta.size).into()));
            }
            let first = read_all(&file, READ_BYTES.min(meta.size as usize))?;
            Ok((Arc::new(file), meta, first))
        });
        let (file, meta, first) = opening.await?;
        if first.len() as u64 == meta.size {
            return Ok(Read::Fresh(meta, first));
        }
        // The buffer belongs to this future: a read that is dropped leaves one piece to a thread that hangs on the
        // disk, not the whole object.
        let mut bytes = Vec::with_capacity(meta.size as usize);
        bytes.extend_from_slice(&first);
        while (bytes.len() as u64) < meta.size {
            let left = meta.size as usize - bytes.len();
            let piece = self.inner.buffers.read(&file, bytes.len() as u64, READ_BYTES.min(left)).await?;
            bytes.extend_from_slice(&piece);
            tokio::task::yield_now().await;
        }
        Ok(Read::Fresh(meta, bytes.into()))
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<(Meta, ByteStream)> {
        let key = key.clone();
        let (file, meta) = self.blocking(move |inner| open(&inner.path(&key), &key)).await?;
        let (file, end, buffers) = (Arc::new(file), range.end.min(meta.size), self.inner.buffers.clone());
        let reads = stream::iter((range.start..end).step_by(READ_BYTES)).map(move |offset| {
            let (file, buffers) = (file.clone(), buffers.clone());
            async move { buffers.read(&file, offset, READ_BYTES.min((end - offset) as usize)).await }
        });
        // Two reads at a time: the disk works while the socket drains.
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

    async fn concat(&self, from: &[Key], to: &Key, _digest: &Digest) -> Result<Meta> {
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

    async fn delete_dated(&self, keys: &[Key], at: SystemTime) -> Result<()> {
        let keys = keys.to_vec();
        self.blocking(move |inner| {
            keys.iter().try_for_each(|key| match at.elapsed() {
                // The thread may have waited for a disk that hung.
                Ok(age) if age > DATED_AGE_MAX => Err(Error::Backend("delete arrived too late".into())),
                _ => inner.delete(key),
            })
        })
        .await
    }

    fn fence(&self) -> Option<Fence> {
        Some(Fence { age_max: DATED_AGE_MAX, dies_with_process: true })
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

    fn space(&self) -> Option<Space> {
        // On this thread, like a stat: the kernel has the numbers in memory.
        let found = statvfs(self.inner.folders.root()).ok()?;
        // Btrfs and others that create inodes on demand report zero.
        let inodes = (found.f_files > 0).then_some(Inodes { free: found.f_favail, total: found.f_files });
        Some(Space { free: found.f_bavail * found.f_frsize, total: found.f_blocks * found.f_frsize, inodes })
    }

    fn watch(&self, watcher: Watcher) {
        self.inner.watchers.add(watcher);
    }

    async fn unfinished(&self) -> Result<Vec<Unfinished>> {
        self.blocking(|inner| {
            let mut found = Vec::new();
            for entry in fs::read_dir(&inner.tmp).map_err(from_io)? {
                let entry = entry.map_err(from_io)?;
                // The draft was finished or removed since the folder was read.
                let Ok(meta) = entry.metadata() else { continue };
                let name = format!("{PRIVATE}/tmp/{}", entry.file_name().display());
                found.push(Unfinished { name, since: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH) });
            }
            Ok(found)
        })
        .await
    }

    fn traits(&self) -> Traits {
        TRAITS
    }

    /// Nothing to do: leftovers of a crash are removed when the store is opened, and only one server opens it.
    async fn sweep_drafts(&self, _before: SystemTime) -> Result<usize> {
        Ok(0)
    }

    async fn direct(&self, _meta: &Meta) -> Result<Option<String>> {
        Ok(None)
    }
}

impl FsInner {
    /// A hard link for the same bytes, if the filesystem has such.
    fn link(&self, from: &Key, to: &Key) -> Result<Option<Meta>> {
        let path = self.tmp.join(format!("{:032x}", rand::random::<u128>()));
        let mut temporary = Temporary { path, file: None, is_renamed: false };
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
    /// Taken out during a write. A write that was dropped half-way takes the draft with it: nothing tells how far it
    /// got.
    temporary: Option<Temporary>,
}

#[async_trait]
impl Draft for FsDraft {
    async fn write(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        let mut temporary = self.temporary.take().ok_or_else(broken)?;
        let work = move |_: &FsInner| {
            let file = temporary.file.as_mut().ok_or_else(broken)?;
            write_all_vectored(file, &pieces).map_err(from_io)?;
            Ok(temporary)
        };
        self.temporary = Some(self.objects.blocking(work).await?);
        Ok(())
    }

    fn gathers(&self) -> bool {
        false
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
