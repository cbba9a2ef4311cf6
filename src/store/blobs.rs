//! Blobs: is it here, read it, receive it, delete it.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use moka::sync::Cache;
use tokio::sync::OwnedSemaphorePermit;

use super::condemned::Snapshot;
use super::manifests::names_blob;
use super::patience::patiently;
use super::receive::{PORTION_BYTES, pump};
use super::{Error, FAN_OUT, Repo, Result, layout};
use crate::digest::{Digest, Hasher};
use crate::metrics::Metrics;
use crate::objects::{self, ByteStream, Key, Meta, Version};
use crate::stream::{BodyError, Incoming, Portion, Portions};

/// Whether an object's bytes fit its digest, as far as this process has looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    Right,
    Wrong,
}

/// Remembers what a check came to. Bytes that are wrong are said so once, loudly: somebody has to look at the disk.
pub(super) fn record(checked: &Cache<Key, (Version, Checked)>, metrics: &Metrics, meta: Meta, right: bool) {
    if !right {
        metrics.corrupt_objects.inc();
        tracing::error!(key = %meta.key, bytes = meta.size, "object does not fit its digest");
    }
    let outcome = if right { Checked::Right } else { Checked::Wrong };
    checked.insert(meta.key, (meta.version, outcome));
}

/// A blob that is here.
#[derive(Clone, Debug)]
pub struct Blob {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    held: Held,
}

#[derive(Clone, Debug)]
enum Held {
    /// In memory, checked.
    Hot(Bytes),
    /// In the backend.
    Cold(Meta),
}

/// The bytes of a blob, or of a part of it.
pub enum Content {
    Whole(Bytes),
    Stream(ByteStream),
}

impl Repo {
    /// Whether the store has the blob: its size, asked of the backend. What memory holds proves nothing here, for the
    /// caller is going to rely on the store.
    pub async fn stat_blob(&self, digest: &Digest) -> Result<Option<u64>> {
        let key = &self.blob_key(digest);
        let look = |pin: Arc<Snapshot>| async move { self.store.found(&pin, key).await };
        Ok(self.store.condemned.resting(look).await?.map(|meta| meta.size))
    }

    /// A blob to read from.
    pub async fn open_blob(&self, digest: &Digest) -> Result<Blob> {
        let key = self.blob_key(digest);
        if let Some(bytes) = self.store.hot.peek(&key) {
            return Ok(Blob { digest: *digest, size: bytes.len() as u64, held: Held::Hot(bytes) });
        }
        let meta = self.store.head(&key).await?.ok_or(Error::BlobUnknown(*digest))?;
        let held = if meta.size <= self.hot_blob_max() {
            Held::Hot(self.store.small(&key, *digest).await?)
        } else {
            Held::Cold(meta.clone())
        };
        Ok(Blob { digest: *digest, size: meta.size, held })
    }

    /// An eighth of the layer at most: one blob must not flush it.
    fn hot_blob_max(&self) -> u64 {
        let hot = &self.store.config.hot;
        hot.blob_max.as_u64().min(hot.size.as_u64() / 8).min(objects::READ_BYTES_MAX)
    }

    /// Bytes of a blob. `range` lies within its size.
    ///
    /// A whole blob that this process has not checked yet is hashed on its way out, and its last piece is held back
    /// until the digest fits: wrong bytes reach the client as a cut connection, never as a complete answer.
    pub async fn read_blob(&self, blob: &Blob, range: Range<u64>) -> Result<Content> {
        let meta = match &blob.held {
            Held::Hot(bytes) => return Ok(Content::Whole(bytes.slice(range.start as usize..range.end as usize))),
            Held::Cold(meta) => meta,
        };
        let whole = range == (0..blob.size);
        let (found, bytes) = match self.store.objects.get(&meta.key, range).await {
            Ok(opened) => opened,
            Err(objects::Error::NotFound) => return Err(Error::BlobUnknown(blob.digest)),
            Err(error) => return Err(error.into()),
        };
        let known = self.store.checked.get(&found.key);
        if !whole || known == Some((found.version.clone(), Checked::Right)) {
            return Ok(Content::Stream(bytes));
        }
        Ok(Content::Stream(self.verifying(bytes, found, blob.digest)))
    }

    fn verifying(&self, bytes: ByteStream, meta: Meta, digest: Digest) -> ByteStream {
        struct State {
            bytes: ByteStream,
            hasher: Hasher,
            held: Option<Bytes>,
        }
        let state = State { bytes, hasher: Hasher::new(digest.algorithm()), held: None };
        let store = self.store.clone();
        stream::try_unfold(Some(state), move |state| {
            let (store, meta) = (store.clone(), meta.clone());
            async move {
                let Some(mut state) = state else { return Ok(None) };
                loop {
                    match state.bytes.try_next().await? {
                        Some(piece) => {
                            let (mut hasher, hashed) = (state.hasher, piece.clone());
                            let hashing = tokio::task::spawn_blocking(move || {
                                hasher.update(&hashed);
                                hasher
                            });
                            state.hasher = hashing.await.map_err(|e| objects::Error::Backend(e.to_string().into()))?;
                            if let Some(ready) = state.held.replace(piece) {
                                return Ok(Some((ready, Some(state))));
                            }
                        }
                        None => {
                            let right = state.hasher.finish() == digest;
                            record(&store.checked, &store.metrics, meta, right);
                            return match state.held {
                                Some(last) if right => Ok(Some((last, None))),
                                None if right => Ok(None),
                                _ => Err(objects::Error::Backend("object does not fit its digest".into())),
                            };
                        }
                    }
                }
            }
        })
        .boxed()
    }

    /// Receives a whole blob, straight to its final key. Nothing shows there unless the bytes hash to `digest`.
    pub async fn put_blob(&self, digest: &Digest, size: Option<u64>, body: Incoming) -> Result<()> {
        let limit = self.store.config.limits.blob.as_u64();
        if size.is_some_and(|size| size > limit) {
            return Err(Error::Body(BodyError::TooLarge { limit }));
        }
        let key = self.blob_key(digest);
        let mut body = Portions::new(body);
        let (first, _turn) = self.first_portion(&mut body).await?;
        if let Some(error) = first.failed {
            return Err(Error::Body(error));
        }
        if first.last {
            let bytes = first.join();
            fits(digest, super::hash(digest.algorithm(), bytes.clone()).await?)?;
            let meta = self.store.appear(&key, self.store.put(&key, bytes.clone())).await?;
            if meta.size <= self.hot_blob_max() {
                self.store.hot.insert(key, bytes);
            }
        } else {
            let mut draft = self.store.objects.begin(&key, size).await?;
            let hashers = vec![Hasher::new(digest.algorithm())];
            let received = pump(first, &mut body, &mut *draft, hashers, limit).await?;
            if let Some(error) = received.failed {
                return Err(Error::Body(error));
            }
            for hasher in received.hashers {
                fits(digest, hasher.finish())?;
            }
            self.store.appear(&key, async { Ok(draft.commit().await?) }).await?;
        }
        self.store.metrics.blobs_stored.inc();
        Ok(())
    }

    /// Begins to read a body, with a place among the uploads: each takes memory. A builder opens a request long before it
    /// has the bytes, so the place is taken only when the first ones have come.
    pub(super) async fn first_portion(&self, body: &mut Portions) -> Result<(Portion, OwnedSemaphorePermit)> {
        let mut first = body.next(1).await;
        let turn = self.store.uploads.clone().acquire_owned().await.map_err(|_| Error::Busy)?;
        body.fill(&mut first, PORTION_BYTES).await;
        Ok((first, turn))
    }

    /// Whether the blob can be used in this repository without sending it. Blobs belong to the tenant, so this moves
    /// nothing; `from` was checked when its permit was issued.
    pub async fn mount_blob(&self, digest: &Digest) -> Result<bool> {
        let found = self.stat_blob(digest).await?.is_some();
        if found {
            self.store.metrics.blobs_mounted.inc();
        }
        Ok(found)
    }

    /// Deletes a blob that nothing in the tenant names.
    pub async fn delete_blob(&self, digest: &Digest) -> Result<()> {
        let key = self.blob_key(digest);
        // Twice: first while others push, which takes long; then alone, only through what has come meanwhile.
        let mut seen = HashSet::new();
        let mut named = self.named_by(digest, &mut seen).await?;
        let _alone = self.store.references.write().await;
        if named.is_none() {
            named = self.named_by(digest, &mut seen).await?;
        }
        if self.store.head(&key).await?.is_none() {
            return Err(Error::BlobUnknown(*digest));
        }
        if let Some(by) = named {
            return Err(Error::Referenced { digest: *digest, by });
        }
        self.store.delete(std::slice::from_ref(&key)).await?;
        self.store.hot.forget(&key);
        Ok(())
    }

    /// A manifest of the tenant that names the blob. Reads every manifest: deletes of single blobs are rare, and an
    /// index that must be right would cost every push.
    async fn named_by(&self, digest: &Digest, seen: &mut HashSet<Key>) -> Result<Option<String>> {
        use layout::{Place, RepoItem};
        let (objects, digest) = (self.store.objects.clone(), *digest);
        let prefix = layout::repos_prefix(self.tenant());
        let listed = self.store.objects.list(&prefix, None).err_into::<Error>();
        let looks = listed.try_filter_map(|meta| {
            let look = match layout::parse(meta.key.as_str()) {
                Some(Place::Repo { repo, item: RepoItem::Manifest(manifest), .. }) if seen.insert(meta.key.clone()) => {
                    Some((meta.key, format!("{repo}@{manifest}"), objects.clone()))
                }
                _ => None,
            };
            async move { Ok(look) }
        });
        let looks = looks.map_ok(move |(key, name, objects)| async move {
            // Past the hot layer, which this would flush.
            match patiently(|| objects.read(&key, None)).await {
                Ok(objects::Read::Fresh(_, bytes)) => Ok(names_blob(&bytes, &digest).then_some(name)),
                Ok(objects::Read::Same) | Err(objects::Error::NotFound) => Ok(None),
                Err(error) => Err(error.into()),
            }
        });
        let mut looks = looks.try_buffer_unordered(FAN_OUT).boxed();
        while let Some(found) = looks.try_next().await? {
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

pub(super) fn fits(claimed: &Digest, actual: Digest) -> Result<()> {
    if actual == *claimed {
        Ok(())
    } else {
        Err(Error::DigestMismatch { claimed: Box::new(*claimed), actual: Box::new(actual) })
    }
}
