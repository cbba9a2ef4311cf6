//! Blobs on their way out.
//!
//! Where the store is near, large blobs are streamed from it: the system's page cache is the memory they have. Where it is
//! far, blobs come in chunks through the hot layer, each chunk by one read for all who want it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};

use super::handles::Reader;
use super::service::{Content, chunk};
use super::verdicts::Checked;
use super::verify::{Object, Progress};
use crate::deadline::Deadline;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::hot::{HotPiece, Slot};
use crate::metrics::tenant::{Asked, Source, TenantMetrics};
use crate::objects::{self, ByteStream, Key, Meta};

/// Bytes hashed at once between what else a thread has to do: some tens of microseconds.
const HASH_BYTES: usize = 64 << 10;

/// A blob that is here.
#[derive(Clone, Debug)]
pub struct Blob {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    held: BlobSource,
    /// Where small ones came from.
    source: Source,
}

#[derive(Clone, Debug)]
enum BlobSource {
    /// In memory, checked.
    Hot(Bytes),
    /// In the backend.
    Cold(Meta),
}

/// The bytes of a blob, or of a part of it, on their way out.
pub enum Outgoing {
    Whole(Bytes),
    Stream(ByteStream),
}

impl Reader {
    /// A blob to read from.
    pub async fn open_blob(&self, digest: &Digest) -> Result<Blob> {
        let opened = self.open_any(digest).await;
        match &opened {
            Ok(_) => self.counted().asked(Asked::Blob, true),
            Err(Error::BlobUnknown(_)) => self.counted().asked(Asked::Blob, false),
            Err(_) => {}
        }
        opened
    }

    async fn open_any(&self, digest: &Digest) -> Result<Blob> {
        if self.content().tombstones().denies(&self.blob_key(digest), self.deadline()).await? {
            return Err(Error::BlobUnknown(*digest));
        }
        for key in self.blob_keys(digest) {
            match self.open(key, digest).await {
                Err(Error::BlobUnknown(_)) => {}
                done => return done,
            }
        }
        Err(Error::BlobUnknown(*digest))
    }

    async fn open(&self, key: Key, digest: &Digest) -> Result<Blob> {
        let (content, deadline) = (self.content(), self.deadline());
        if let Some(piece) = content.hot().peek(&Slot::Whole(key.clone())) {
            let (size, held) = (piece.bytes.len() as u64, BlobSource::Hot(piece.bytes));
            return Ok(Blob { digest: *digest, size, held, source: Source::Hot });
        }
        let meta = candidate(content, &key, deadline).await?.ok_or(Error::BlobUnknown(*digest))?;
        let size = meta.size;
        let held = if size <= content.hot_blob_max() {
            BlobSource::Hot(content.small_of(&key, *digest, size, deadline).await?)
        } else {
            BlobSource::Cold(meta)
        };
        let source = beyond_memory(content);
        Ok(Blob { digest: *digest, size, held, source })
    }

    /// Where the client may fetch a blob by itself, when it is not in memory and the operator wants that. Nobody verifies
    /// such a read but the client.
    pub async fn direct_blob(&self, blob: &Blob) -> Result<Option<String>> {
        match &blob.held {
            BlobSource::Cold(meta) if !self.content().hot().has(&chunk(meta, 0)) => {
                Ok(self.content().objects().direct(meta).await?)
            }
            _ => Ok(None),
        }
    }

    /// Bytes of a blob. `range` lies within its size.
    ///
    /// A whole blob that this process has not verified yet is hashed on its way out, and its last piece is held back
    /// until the digest fits: wrong bytes reach the client as a cut connection, never as a complete answer. Part of such a
    /// blob is served, and the whole checked in the background.
    pub async fn read_blob(&self, blob: &Blob, range: Range<u64>) -> Result<Outgoing> {
        match &blob.held {
            BlobSource::Hot(bytes) => {
                self.counted().served(blob.source, range.end - range.start);
                Ok(Outgoing::Whole(bytes.slice(range.start as usize..range.end as usize)))
            }
            BlobSource::Cold(meta) => match self.content().objects().traits().page_cached {
                true => self.read_near(blob, meta, range).await,
                false => self.read_far(blob, meta.clone(), range).await,
            },
        }
    }

    async fn read_near(&self, blob: &Blob, meta: &Meta, range: Range<u64>) -> Result<Outgoing> {
        let whole = range == (0..blob.size);
        let (found, bytes) = match self.content().objects().get(&meta.key, range).await {
            Ok(opened) => opened,
            Err(objects::Error::NotFound) => return Err(Error::BlobUnknown(blob.digest)),
            Err(error) => return Err(error.into()),
        };
        let counted = self.counted().clone();
        let counting = move |piece: &Bytes| counted.served(Source::Warm, piece.len() as u64);
        let bytes = bytes.inspect_ok(counting).boxed();
        if self.content().verdicts().verdict(&found) == Some(Checked::Right) {
            return Ok(Outgoing::Stream(bytes));
        }
        let object = Object { content: self.content().clone(), meta: found, digest: blob.digest };
        if whole {
            return Ok(Outgoing::Stream(object.verifying(bytes)));
        }
        object.check_in_background();
        Ok(Outgoing::Stream(bytes))
    }

    async fn read_far(&self, blob: &Blob, mut meta: Meta, range: Range<u64>) -> Result<Outgoing> {
        // What is known of the blob may be old. The first chunk tells, before anything has been answered.
        let content = self.content();
        for _ in 0..2 {
            let object = Object { content: content.clone(), meta: meta.clone(), digest: blob.digest };
            let mut bytes = object.chunked(range.clone(), self.counted().clone());
            // Of what it has begun to fetch, only what the next answer begins with.
            let keep = || content.hot().keep_place(&chunk(&meta, range.start / content.hot().chunk_bytes()));
            match self.deadline().bound_or(bytes.try_next(), keep).await {
                Ok(first) => {
                    let bytes = stream::iter(first).map(Ok).chain(bytes);
                    let bytes = bytes.map_err(|error| objects::Error::Backend(error.to_string().into()));
                    return Ok(Outgoing::Stream(bytes.boxed()));
                }
                Err(Error::BlobUnknown(_)) => {}
                Err(error) => return Err(error),
            }
            meta = content.meta(&meta.key, self.deadline()).await?.ok_or(Error::BlobUnknown(blob.digest))?;
            if meta.size != blob.size {
                break;
            }
        }
        Err(Error::Busy)
    }
}

/// What the chunks of one reader pass on their way out.
struct WayOut {
    object: Object,
    /// Bytes of the object that were asked for.
    range: Range<u64>,
    /// Of all chunks, when they were verified before.
    sums: Option<Arc<[u64]>>,
    /// When this reader verifies them.
    progress: Option<Progress>,
    counted: Arc<TenantMetrics>,
}

impl WayOut {
    /// What the reader gets of a chunk, once it is what was verified. What is not leaves the hot layer, where it may have
    /// come before anything was verified.
    async fn pass(&self, index: u64, piece: &HotPiece, was_here: bool) -> Result<Bytes> {
        match (&self.progress, &self.sums) {
            (Some(progress), _) => progress.pass(index, piece).await?,
            (None, Some(sums)) => self.compare(sums, index, piece)?,
            // A part, of what may have been verified since.
            (None, None) => {
                if let Some(sums) = self.object.content.verdicts().sums(&self.object.meta) {
                    self.compare(&sums, index, piece)?;
                }
            }
        }
        let start = index * self.object.content.hot().chunk_bytes();
        let from = self.range.start.saturating_sub(start) as usize;
        let to = (self.range.end - start).min(piece.bytes.len() as u64) as usize;
        let source = if was_here { Source::Hot } else { Source::Cold };
        self.counted.served(source, to.saturating_sub(from) as u64);
        Ok(piece.bytes.slice(from..to))
    }

    fn compare(&self, sums: &[u64], index: u64, piece: &HotPiece) -> Result<()> {
        if sums.get(index as usize) == Some(&piece.sum) {
            return Ok(());
        }
        let Object { content, meta, digest } = &self.object;
        tracing::warn!(key = %meta.key, index, "chunk differs from its verified bytes");
        content.hot().forget(&chunk(meta, index));
        Err(Error::BlobUnknown(*digest))
    }
}

/// What may be read. What memory has may be old: the read will tell.
async fn candidate(content: &Content, key: &Key, deadline: Deadline) -> Result<Option<Meta>> {
    let known = content.presence().get(key).map(|known| known.meta);
    let known = known.filter(|meta| !content.verdicts().is_wrong(meta));
    if known.is_some() { Ok(known) } else { content.meta(key, deadline).await }
}

/// Where bytes come from that are not in memory.
fn beyond_memory(content: &Content) -> Source {
    if content.objects().traits().page_cached { Source::Warm } else { Source::Cold }
}

impl Object {
    /// Bytes of an object, through the hot layer. [`Error::BlobUnknown`] when it is gone, another version, or wrong.
    fn chunked(&self, range: Range<u64>, counted: Arc<TenantMetrics>) -> BoxStream<'static, Result<Bytes>> {
        let Object { content, meta, .. } = self;
        let size = content.hot().chunk_bytes();
        let (indices, chunks) = (range.start / size..range.end.div_ceil(size), meta.size.div_ceil(size));
        // Once: what is verified may be remembered no more before the last chunk has passed.
        let sums = content.verdicts().sums(meta);
        let (object, known) = (self.clone(), sums.clone());
        let pieces = content.hot().chunks(meta.key.clone(), meta.version.clone(), indices.clone(), move |index| {
            let (object, known) = (object.clone(), known.clone());
            async move { object.fetch_chunk(index, known).await }
        });
        let whole = range == (0..meta.size);
        // Without sums, what is fetched again later could not be told from what was verified.
        let progress = (whole && sums.is_none()).then(|| self.verification(chunks));
        if !whole && content.verdicts().verdict(meta).is_none() {
            self.check_in_background();
        }
        let way = Arc::new(WayOut { object: self.clone(), range, sums, progress, counted });
        let passed = stream::iter(indices).zip(pieces).then(move |(index, piece)| {
            let way = way.clone();
            async move {
                let (piece, was_here) = piece?;
                way.pass(index, &piece, was_here).await
            }
        });
        passed.boxed()
    }

    /// A chunk from the backend; `known` are the sums of all, when whoever asks for it knows them.
    async fn fetch_chunk(&self, index: u64, known: Option<Arc<[u64]>>) -> Result<HotPiece> {
        let Object { content, meta, digest } = self;
        let start = index * content.hot().chunk_bytes();
        let end = meta.size.min(start + content.hot().chunk_bytes());
        let ticket = content.presence().ticket(&meta.key);
        let fetch = || async {
            let (found, mut bytes) = content.objects().get(&meta.key, start..end).await?;
            if found.version != meta.version || content.verdicts().is_wrong(meta) {
                return Err(objects::Error::NotFound);
            }
            // Copied: pieces are slices of the connection's buffers.
            let mut gathered = Vec::with_capacity((end - start) as usize);
            while let Some(piece) = bytes.try_next().await? {
                gathered.extend_from_slice(&piece);
            }
            let piece = HotPiece::of(gathered.into());
            let sums = known.clone().or_else(|| content.verdicts().sums(meta));
            if sums.is_some_and(|sums| sums.get(index as usize) != Some(&piece.sum)) {
                tracing::warn!(key = %meta.key, index, "chunk was fetched again and differs from its verified bytes");
                // On the line, or in the bucket.
                self.check_in_background();
                return Err(objects::Error::Busy("chunk differs from its verified bytes".into()));
            }
            Ok(piece)
        };
        match Deadline::of_each_call().retry(fetch).await {
            Ok(piece) => {
                content.presence().insert(ticket, meta);
                Ok(piece)
            }
            Err(objects::Error::NotFound) => {
                content.presence().forget(&meta.key);
                Err(Error::BlobUnknown(*digest))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A whole object, hashed as it passes.
    fn verifying(self, bytes: ByteStream) -> ByteStream {
        struct VerifyingStream {
            bytes: ByteStream,
            hasher: Hasher,
            held: Option<Bytes>,
        }
        let Object { content, meta, digest } = self;
        let state = VerifyingStream { bytes, hasher: Hasher::new(digest.algorithm()), held: None };
        stream::try_unfold(Some(state), move |state| {
            let (content, meta) = (content.clone(), meta.clone());
            async move {
                let Some(mut state) = state else { return Ok(None) };
                loop {
                    match state.bytes.try_next().await? {
                        Some(piece) => {
                            // In place, while they are in this core's cache: to fetch them to another one costs half as
                            // much as to hash them.
                            for slice in piece.chunks(HASH_BYTES) {
                                state.hasher.update(slice);
                                tokio::task::yield_now().await;
                            }
                            if let Some(ready) = state.held.replace(piece) {
                                return Ok(Some((ready, Some(state))));
                            }
                        }
                        None => {
                            let right = state.hasher.finish() == digest;
                            content.record(&meta, right).await;
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
}
