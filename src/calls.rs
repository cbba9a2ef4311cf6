//! Calls to the objects of a store, for all rooms above: repeated while the store is busy, until a deadline, with
//! absence as an answer and not as an error.

use bytes::Bytes;
use futures::TryStreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::objects::{self, Key, Meta, Objects, Read, Version, When};

/// Concurrent calls to the backend for one request.
pub const FAN_OUT: usize = 16;

/// Calls to the objects of a store, with the deadline of their caller.
#[derive(Clone, Copy)]
pub struct Calls<'a> {
    objects: &'a dyn Objects,
    deadline: Deadline,
}

/// Answer to a read with a version that the caller knows.
#[derive(Clone, Debug)]
pub enum Reread {
    /// The object still has the known version.
    Unchanged,
    Changed(Meta, Bytes),
    Absent,
}

impl<'a> Calls<'a> {
    /// Calls of work that no client waits for.
    pub fn of(objects: &'a dyn Objects) -> Calls<'a> {
        Calls { objects, deadline: Deadline::of_each_call() }
    }

    /// Calls of a request with the deadline `deadline`.
    pub fn until(objects: &'a dyn Objects, deadline: Deadline) -> Calls<'a> {
        Calls { objects, deadline }
    }

    /// Metadata of an object; nothing if it is absent.
    pub async fn head(&self, key: &Key) -> Result<Option<Meta>> {
        present(self.deadline.retry(|| self.objects.head(key)).await)
    }

    /// Reads all bytes of a small object; nothing if it is absent.
    pub async fn read(&self, key: &Key) -> Result<Option<(Meta, Bytes)>> {
        match self.reread(key, None).await? {
            Reread::Changed(meta, bytes) => Ok(Some((meta, bytes))),
            Reread::Unchanged | Reread::Absent => Ok(None),
        }
    }

    /// Reads all bytes of a small object, unless its version is still `known`.
    pub async fn reread(&self, key: &Key, known: Option<&Version>) -> Result<Reread> {
        match self.deadline.retry(|| self.objects.read(key, known)).await {
            Ok(Read::Fresh(meta, bytes)) => Ok(Reread::Changed(meta, bytes)),
            Ok(Read::Same) => Ok(Reread::Unchanged),
            Err(objects::Error::NotFound) => Ok(Reread::Absent),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a small JSON object; nothing if it is absent, or cannot be parsed.
    pub async fn read_json<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<(Meta, T)>> {
        let Some((meta, bytes)) = self.read(key).await? else { return Ok(None) };
        Ok(serde_json::from_slice(&bytes).ok().map(|parsed| (meta, parsed)))
    }

    /// Writes a small object, and replaces any before it.
    pub async fn put(&self, key: &Key, body: impl Into<Bytes>) -> Result<Meta> {
        let body = body.into();
        Ok(self.deadline.retry(|| self.objects.put(key, body.clone(), When::Always)).await?)
    }

    /// Returns a whole listing, which the caller knows to be short.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Meta>> {
        Ok(self.deadline.retry(|| self.objects.list(prefix, None).try_collect()).await?)
    }

    /// Deletes the first key before the others.
    pub async fn delete(&self, keys: &[Key]) -> Result<()> {
        Ok(self.deadline.retry(|| self.objects.delete(keys)).await?)
    }
}

/// Turns absence from an error into an answer.
fn present(found: objects::Result<Meta>) -> Result<Option<Meta>> {
    match found {
        Ok(meta) => Ok(Some(meta)),
        Err(objects::Error::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The JSON of a value that Larder stores.
pub fn json(value: &impl Serialize) -> Result<Bytes> {
    Ok(serde_json::to_vec(value).map_err(|error| Error::Internal(error.to_string().into()))?.into())
}
