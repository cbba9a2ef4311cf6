//! Blobs on the way to clients.
//!
//! Large blobs of a local store are streamed from it: the page cache is their memory. Blobs of a remote store come in
//! chunks through the hot layer, one read of each chunk for all readers.

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

/// Bytes hashed between two yields of the thread: some tens of microseconds.
const HASH_BYTES: usize = 64 << 10;

/// A blob that exists.
#[derive(Clone, Debug)]
pub struct Blob {
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    held: BlobSource,
    /// The source of a small blob's bytes, for the metrics.
    source: Source,
}

#[derive(Clone, Debug)]
enum BlobSource {
    /// Verified bytes in memory.
    Hot(Bytes),
    /// Bytes in the backend.
    Cold(Meta),
}

/// The bytes of a blob, or of a range of it, on the way to the client.
pub enum Outgoing {
    Whole(Bytes),
    Stream(ByteStream),
}

impl Reader {
    /// Looks up a blob to read from.
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

    /// Returns a URL from which the client may fetch a blob directly, if the blob is not in memory and the operator
    /// configured that. Only the client verifies such a read.
    pub async fn direct_blob(&self, blob: &Blob) -> Result<Option<String>> {
        match &blob.held {
            BlobSource::Cold(meta) if !self.content().hot().has(&chunk(meta, 0)) => {
                Ok(self.content().objects().direct(meta).await?)
            }
            _ => Ok(None),
        }
    }

    /// Returns bytes of a blob. `range` lies within its size.
    ///
    /// A whole blob that this process has not verified yet is hashed on its way out, and its last piece is held back
    /// until the digest fits: wrong bytes reach the client as a cut connection, never as a complete answer. A range of
    /// such a blob is served, and the whole is verified in the background.
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
        // The metadata may be old. The first chunk shows that, before anything has been answered.
        let content = self.content();
        for _ in 0..2 {
            let object = Object { content: content.clone(), meta: meta.clone(), digest: blob.digest };
            let mut bytes = object.chunked(range.clone(), self.counted().clone());
            // Of the fetches that it has begun, only the chunk is kept with which the next answer begins.
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

/// The checks that the chunks of one reader pass.
struct WayOut {
    object: Object,
    /// The requested bytes of the object.
    range: Range<u64>,
    /// Sums of all chunks, if they were verified before.
    sums: Option<Arc<[u64]>>,
    /// The verification, if this reader takes part in one.
    progress: Option<Progress>,
    counted: Arc<TenantMetrics>,
}

impl WayOut {
    /// Returns the reader's part of a chunk, if the chunk equals the verified one. A chunk that differs leaves the hot
    /// layer: it may have come there before the object was verified.
    async fn pass(&self, index: u64, piece: &HotPiece, was_here: bool) -> Result<Bytes> {
        match (&self.progress, &self.sums) {
            (Some(progress), _) => progress.pass(index, piece).await?,
            (None, Some(sums)) => self.compare(sums, index, piece)?,
            // A range, of an object that may have been verified since.
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

/// Metadata of an object to read. What memory has may be old: the read will show that.
async fn candidate(content: &Content, key: &Key, deadline: Deadline) -> Result<Option<Meta>> {
    let known = content.presence().get(key).map(|known| known.meta);
    let known = known.filter(|meta| !content.verdicts().is_wrong(meta));
    if known.is_some() { Ok(known) } else { content.meta(key, deadline).await }
}

/// The source of bytes that are not in memory.
fn beyond_memory(content: &Content) -> Source {
    if content.objects().traits().page_cached { Source::Warm } else { Source::Cold }
}

impl Object {
    /// Returns bytes of an object, through the hot layer. [`Error::BlobUnknown`] if the object is gone, has another
    /// version, or is wrong.
    fn chunked(&self, range: Range<u64>, counted: Arc<TenantMetrics>) -> BoxStream<'static, Result<Bytes>> {
        let Object { content, meta, .. } = self;
        let size = content.hot().chunk_bytes();
        let (indices, chunks) = (range.start / size..range.end.div_ceil(size), meta.size.div_ceil(size));
        // Read once: the sums may be forgotten before the last chunk has passed.
        let sums = content.verdicts().sums(meta);
        let (object, known) = (self.clone(), sums.clone());
        let pieces = content.hot().chunks(meta.key.clone(), meta.version.clone(), indices.clone(), move |index| {
            let (object, known) = (object.clone(), known.clone());
            async move { object.fetch_chunk(index, known).await }
        });
        let whole = range == (0..meta.size);
        // Without sums, a chunk that is fetched again later could not be compared with the verified one.
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

    /// Fetches a chunk from the backend; `known` are the sums of all chunks, if the caller has them.
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
                // Damaged on the network, or in the bucket.
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

    /// Hashes a whole object as it passes.
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
                            // On this thread, while the bytes are in this core's cache: to fetch them to another core
                            // costs half as much as to hash them.
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
