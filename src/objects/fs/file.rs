//! One file: its metadata, and its bytes in and out.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, statat};
use rustix::io::{Errno, ReadWriteFlags};

use super::super::{Error, Key, Meta, Result, Version};

/// Bytes of one read: large enough that the overhead of a call does not count, small enough to be done on the calling
/// thread.
pub const READ_BYTES: usize = 256 << 10;
/// Buffers that are kept for the next reads, of [`READ_BYTES`] each. To allocate memory costs as much as to fill it.
const KEPT_BUFFERS_MAX: usize = 32;

/// Longest version of a file: four numbers in hexadecimal, and the separators.
const VERSION_BYTES_MAX: usize = 4 * 16 + 3;

pub fn meta(key: Key, found: &fs::Metadata) -> Meta {
    Meta {
        key,
        size: found.size(),
        modified: found.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        version: version(found.ino(), (found.mtime(), found.mtime_nsec()), found.size()),
    }
}

fn version(inode: u64, (seconds, nanos): (i64, i64), size: u64) -> Version {
    let mut text = String::with_capacity(VERSION_BYTES_MAX);
    let _ = write!(text, "{inode:x}-{seconds:x}-{nanos:x}-{size:x}");
    Version(text.into())
}

/// Returns the metadata of the file `key` below a folder. The lookup starts at the folder's descriptor: a store may lie
/// deep, and to walk its path is most of the cost.
pub fn look(below: &File, key: &Key) -> Result<Meta> {
    let found = statat(below, key.as_str(), AtFlags::empty()).map_err(|error| from_io(error.into()))?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(Error::NotFound);
    }
    let (seconds, nanos) = (found.st_mtime, found.st_mtime_nsec as i64);
    let since = Duration::new(seconds.max(0) as u64, nanos as u32);
    let (size, modified) = (found.st_size as u64, SystemTime::UNIX_EPOCH + since);
    Ok(Meta { key: key.clone(), size, modified, version: version(found.st_ino, (seconds, nanos), size) })
}

pub fn from_io(error: io::Error) -> Error {
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

/// Opens a file for reading, and returns its metadata from the same descriptor: a later rename cannot mix two objects.
pub fn open(path: &Path, key: &Key) -> Result<(File, Meta)> {
    let file = File::open(path).map_err(from_io)?;
    let found = file.metadata().map_err(from_io)?;
    if !found.is_file() {
        return Err(Error::NotFound);
    }
    let meta = meta(key.clone(), &found);
    Ok((file, meta))
}

/// Returns all bytes of a small file.
pub fn read_all(file: &File, length: usize) -> Result<Bytes> {
    let mut bytes = vec![0; length];
    fill(file, 0, &mut bytes)?;
    Ok(bytes.into())
}

/// Reads the bytes from `offset` on, until `into` is full.
fn fill(file: &File, offset: u64, mut into: &mut [u8]) -> Result<()> {
    let end = offset + into.len() as u64;
    while !into.is_empty() {
        let at = end - into.len() as u64;
        match rustix::io::pread(file.as_fd(), &mut *into, at) {
            // Files here never shrink, so this is a damaged filesystem, not the end of the file.
            Ok(0) => return Err(Error::Backend("file is shorter than it was".into())),
            Ok(read) => into = &mut into[read..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(from_io(error.into())),
        }
    }
    Ok(())
}

/// Reusable buffers for reads.
#[derive(Clone, Default)]
pub struct Buffers {
    free: Arc<Mutex<Vec<Box<[u8]>>>>,
}

impl Buffers {
    /// Returns at most [`READ_BYTES`] of a file. Bytes in the page cache are copied on the calling thread; only for the
    /// others the caller waits for another thread.
    pub async fn read(&self, file: &Arc<File>, offset: u64, length: usize) -> Result<Bytes> {
        let mut buffer = self.take(length.min(READ_BYTES));
        let cached = copy_cached(file, offset, buffer.bytes_mut());
        if cached < buffer.length {
            let file = file.clone();
            let reading = tokio::task::spawn_blocking(move || {
                fill(&file, offset + cached as u64, &mut buffer.bytes_mut()[cached..])?;
                Ok::<_, Error>(buffer)
            });
            buffer = reading.await.map_err(|error| Error::Backend(error.to_string().into()))??;
        }
        Ok(Bytes::from_owner(buffer))
    }

    /// Removes the idle buffers and returns how many there were.
    #[cfg(test)]
    pub fn drain(&self) -> usize {
        self.free.lock().drain(..).count()
    }

    fn take(&self, length: usize) -> ReadBuffer {
        let kept = self.free.lock().pop();
        ReadBuffer { memory: kept.unwrap_or_else(|| vec![0; READ_BYTES].into()), length, home: self.clone() }
    }
}

/// Copies as many bytes from the front as the page cache has. Copies nothing if the kernel cannot tell.
fn copy_cached(file: &File, offset: u64, into: &mut [u8]) -> usize {
    rustix::io::preadv2(file.as_fd(), &mut [io::IoSliceMut::new(into)], offset, ReadWriteFlags::NOWAIT).unwrap_or(0)
}

/// A buffer that returns to the pool when its last reader drops it.
struct ReadBuffer {
    /// [`READ_BYTES`] long.
    memory: Box<[u8]>,
    length: usize,
    home: Buffers,
}

impl ReadBuffer {
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.length]
    }
}

impl AsRef<[u8]> for ReadBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        let mut free = self.home.free.lock();
        if free.len() < KEPT_BUFFERS_MAX {
            free.push(std::mem::take(&mut self.memory));
        }
    }
}

pub fn write_all_vectored(file: &mut File, pieces: &[Bytes]) -> io::Result<()> {
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
