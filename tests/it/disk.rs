//! A small disk: a folder that reports a fixed number of bytes, and of files, to the server.

use std::collections::HashSet;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use larder::digest::Digest;
use larder::objects::fs::FsObjects;
use larder::objects::{
    ByteStream, Draft, Error, Fence, Inodes, Key, Meta, Objects, Read, Result, Space, Traits, Unfinished, Version,
    Watcher, When,
};

/// The least that a file takes, in bytes.
const BLOCK: u64 = 4096;

/// Files in a folder, on a disk of their own. A write that does not fit is refused, as a disk does.
pub struct SmallDisk {
    objects: FsObjects,
    folder: PathBuf,
    disk: Disk,
}

/// How large a disk is.
#[derive(Clone, Copy)]
pub struct Disk {
    pub bytes: u64,
    /// Files and folders that it takes, where it has a bound of them.
    pub inodes: Option<u64>,
}

impl SmallDisk {
    pub fn new(objects: FsObjects, folder: &Path, disk: Disk) -> SmallDisk {
        SmallDisk { objects, folder: folder.to_path_buf(), disk }
    }

    fn free_inodes(&self) -> Option<Inodes> {
        let total = self.disk.inodes?;
        Some(Inodes { free: total.saturating_sub(entries(&self.folder)), total })
    }

    fn free(&self) -> u64 {
        self.disk.bytes.saturating_sub(taken(&self.folder))
    }
}

/// Bytes that the files below a folder take, each once whatever the number of its names.
pub fn taken(folder: &Path) -> u64 {
    fn walk(folder: &Path, seen: &mut HashSet<u64>) -> u64 {
        // Files may appear and disappear meanwhile.
        let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
        let bytes = entries.flatten().map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => walk(&entry.path(), seen),
            Ok(found) if seen.insert(found.ino()) => found.len().next_multiple_of(BLOCK),
            _ => 0,
        });
        bytes.sum()
    }
    walk(folder, &mut HashSet::new())
}

/// Files and folders below a folder.
pub fn entries(folder: &Path) -> u64 {
    let Ok(found) = std::fs::read_dir(folder) else { return 0 };
    found.flatten().map(|entry| 1 + if entry.path().is_dir() { entries(&entry.path()) } else { 0 }).sum()
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Objects for SmallDisk {
    async fn head(&self, key: &Key) -> Result<Meta> {
        self.objects.head(key).await
    }

    async fn read(&self, key: &Key, known: Option<&Version>) -> Result<Read> {
        self.objects.read(key, known).await
    }

    async fn get(&self, key: &Key, range: Range<u64>) -> Result<(Meta, ByteStream)> {
        self.objects.get(key, range).await
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> BoxStream<'static, Result<Meta>> {
        self.objects.list(prefix, after)
    }

    async fn put(&self, key: &Key, body: Bytes, when: When) -> Result<Meta> {
        if self.free() < body.len() as u64 || self.free_inodes().is_some_and(|inodes| inodes.free == 0) {
            return Err(Error::Full);
        }
        self.objects.put(key, body, when).await
    }

    async fn begin(&self, key: &Key, size: Option<u64>) -> Result<Box<dyn Draft>> {
        let (folder, bytes) = (self.folder.clone(), self.disk.bytes);
        Ok(Box::new(SmallDraft { draft: self.objects.begin(key, size).await?, folder, bytes }))
    }

    async fn concat(&self, from: &[Key], to: &Key, digest: &Digest) -> Result<Meta> {
        self.objects.concat(from, to, digest).await
    }

    async fn delete(&self, keys: &[Key]) -> Result<()> {
        self.objects.delete(keys).await
    }

    async fn delete_dated(&self, keys: &[Key], at: SystemTime) -> Result<()> {
        self.objects.delete_dated(keys, at).await
    }

    fn fence(&self) -> Option<Fence> {
        self.objects.fence()
    }

    async fn probe(&self) -> Result<()> {
        self.objects.probe().await
    }

    fn space(&self) -> Option<Space> {
        Some(Space { free: self.free(), total: self.disk.bytes, inodes: self.free_inodes() })
    }

    async fn unfinished(&self) -> Result<Vec<Unfinished>> {
        self.objects.unfinished().await
    }

    fn watch(&self, watcher: Watcher) {
        self.objects.watch(watcher);
    }

    fn traits(&self) -> Traits {
        self.objects.traits()
    }

    async fn sweep_drafts(&self, before: SystemTime) -> Result<usize> {
        self.objects.sweep_drafts(before).await
    }

    async fn direct(&self, meta: &Meta) -> Result<Option<String>> {
        self.objects.direct(meta).await
    }
}

struct SmallDraft {
    draft: Box<dyn Draft>,
    folder: PathBuf,
    bytes: u64,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Draft for SmallDraft {
    async fn write(&mut self, pieces: Vec<Bytes>) -> Result<()> {
        let written: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        if taken(&self.folder) + written > self.bytes {
            return Err(Error::Full);
        }
        self.draft.write(pieces).await
    }

    fn gathers(&self) -> bool {
        self.draft.gathers()
    }

    async fn commit(self: Box<Self>) -> Result<Meta> {
        self.draft.commit().await
    }
}
