//! Listing a tree of files in byte order of whole keys.
//!
//! This is not the order in which a sorted walk meets them: `a-b/x` comes before `a/x`, because `-` is less than `/`.
//! So a folder is sorted by its name with a slash appended.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::file::{from_io, meta};
use super::{FsObjects, Key, Meta, PRIVATE, Result};

/// Entries handed over at once, so that many share the cost of a thread hop. The first batch is one: many callers ask
/// for no more.
const BATCH_MAX: usize = 512;

/// A walk that can pause between batches: it holds the names in the folders that it is in, no descriptor and no thread.
struct FolderWalk {
    objects: FsObjects,
    prefix: Arc<str>,
    after: Option<Arc<str>>,
    /// Names still to visit, for each folder on the path, the last one first. A name ends in `/` if it is a folder.
    pending: Vec<Vec<String>>,
    batch: usize,
}

pub(super) fn list(objects: FsObjects, prefix: &str, after: Option<&str>) -> BoxStream<'static, Result<Meta>> {
    let top = prefix.rfind('/').map_or("", |slash| &prefix[..=slash]);
    // No key contains these components, and the walk must not follow them either: `/` and `..` lead out of the store.
    let leads_in = top.split_terminator('/').all(|part| !matches!(part, "" | "." | ".."));
    let pending = if leads_in { vec![vec![top.to_string()]] } else { Vec::new() };
    let walk = FolderWalk { objects, prefix: prefix.into(), after: after.map(Into::into), pending, batch: 1 };
    stream::try_unfold(walk, |mut walk| async move {
        let objects = walk.objects.clone();
        objects
            .blocking(move |_| {
                let batch = walk.batch().map_err(from_io)?;
                Ok((!batch.is_empty()).then_some((batch, walk)))
            })
            .await
    })
    .map_ok(|batch| stream::iter(batch).map(Ok))
    .try_flatten()
    .boxed()
}

impl FolderWalk {
    fn batch(&mut self) -> io::Result<Vec<Meta>> {
        let mut batch = Vec::new();
        let wanted = self.batch;
        self.batch = BATCH_MAX;
        while batch.len() < wanted
            && let Some(folder) = self.pending.last_mut()
        {
            match folder.pop() {
                None => drop(self.pending.pop()),
                Some(name) if name.is_empty() || name.ends_with('/') => {
                    let entries = self.entries(&name)?;
                    self.pending.push(entries);
                }
                Some(name) => match fs::metadata(self.objects.inner.folders.root().join(&name)) {
                    Ok(found) => batch.push(meta(Key::new(name), &found)),
                    // Deleted since the folder was read.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                },
            }
        }
        Ok(batch)
    }

    /// Returns the entries of a folder that belong to the listing, in reverse order.
    fn entries(&self, folder: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let read = match fs::read_dir(self.objects.inner.folders.root().join(folder)) {
            Ok(read) => read,
            Err(error) if is_gone(&error) => return Ok(names),
            Err(error) => return Err(error),
        };
        for entry in read {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if is_gone(&error) => break,
                Err(error) => return Err(error),
            };
            let name = entry.file_name();
            // A name that is not text is not one of Larder's.
            let Some(name) = name.to_str() else { continue };
            if folder.is_empty() && Path::new(name) == Path::new(PRIVATE) {
                continue;
            }
            let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
            let name = format!("{folder}{name}{slash}");
            if self.wanted(&name) {
                names.push(name);
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(names)
    }

    fn wanted(&self, name: &str) -> bool {
        let folder = name.ends_with('/');
        let in_prefix = name.starts_with(&*self.prefix) || folder && self.prefix.starts_with(name);
        let is_after = match &self.after {
            None => true,
            Some(after) => name > &**after || folder && after.starts_with(name),
        };
        in_prefix && is_after
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
