//! Chunked uploads: sessions that survive a restart and can resume at another replica.
//!
//! A session begins without any I/O: its id is random and travels in the client's `Location`. The first chunk writes an
//! object for its bytes and then the session's state, which lists the valid parts, their size, and the state of the
//! hash after them. So a chunk is received when its state is durable, and two requests that race for the same offset
//! cannot mix: the state lists one of them.
//!
//! A whole blob in one request needs none of this and goes straight to its key ([`Writer::put_blob`]).

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::blobs::fits;
use super::handles::Writer;
use super::receive::{Watch, pump};
use super::service::Content;
use super::uploads::{OwnUpload, Uploads};
use crate::calls::json;
use crate::capacity::usage::OBJECT_FLOOR;
use crate::deadline::Deadline;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, Result};
use crate::layout::{self, Place};
use crate::names::{Tenant, UploadId};
use crate::objects::{self, Key};
use crate::stream::{BodyError, Incoming};

/// Maximum number of parts of one upload. With the usual chunks of megabytes it is far beyond any layer.
pub const PARTS_MAX: usize = 10_000;

/// A session, as the client's `Location` carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub id: UploadId,
    /// The digest algorithm of the content, as announced at the start.
    pub algorithm: Algorithm,
    /// A chunk has been received, so the session has a state.
    pub staged: bool,
}

impl Session {
    pub fn begin(algorithm: Algorithm) -> Session {
        Session { id: UploadId::random(), algorithm, staged: false }
    }
}

/// Bytes of an upload, in one request.
pub struct Chunk {
    /// The offset of the body in the upload, in bytes, as the client says.
    pub at: Option<u64>,
    /// Length of the body in bytes, if announced.
    pub size: Option<u64>,
    pub body: Incoming,
}

/// Content of `uploads/<id>/state`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct StagingState {
    /// The repository that began the session, which owns it.
    repo: String,
    algorithm: Algorithm,
    /// State of the hash after the last part.
    hash: String,
    offset: u64,
    parts: Vec<StagedPart>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StagedPart {
    offset: u64,
    nonce: u64,
}

impl Writer {
    /// Bytes of the upload that have been received.
    pub async fn upload_offset(&self, session: &Session) -> Result<u64> {
        Ok(self.find(session).await?.map_or(0, |state| state.offset))
    }

    /// Receives a chunk: the rest of the upload, or the bytes that begin at the current offset. Returns the new offset.
    ///
    /// Bytes that arrived before a client disconnected are kept, so that it can resume.
    pub async fn append(&self, session: &Session, chunk: Chunk) -> Result<u64> {
        let state = self.find(session).await?;
        let mut state = state.unwrap_or_else(|| self.fresh(session.algorithm));
        if chunk.at.is_some_and(|at| at != state.offset) {
            return Err(Error::OffsetMismatch { offset: state.offset });
        }
        let hasher = state.hasher()?;
        let staged = self.stage(&session.id, &state, vec![hasher], chunk).await?;
        if let Some(part) = staged.part {
            let began = state.clone();
            state.parts.push(part);
            state.offset += staged.length;
            state.hash = staged.hashers.first().map_or_else(String::new, Hasher::save);
            self.advance(&session.id, &began, &state, &part).await?;
        }
        match staged.failed {
            Some(error) => Err(Error::Body(error)),
            None => Ok(state.offset),
        }
    }

    /// Makes the upload the blob `digest`, with the bytes of `closing` after those received before.
    ///
    /// A body without an offset that hashes to the digest by itself is the whole blob, whatever came before, and also
    /// if the session is not known any more: builders send a failed upload again, to the same address, from the
    /// beginning.
    pub async fn seal(&self, session: &Session, digest: &Digest, closing: Chunk) -> Result<()> {
        if self.uploads().is_cancelled(&self.own(&session.id)) {
            return Err(Error::UploadUnknown);
        }
        let empty = closing.size == Some(0);
        let whole = closing.at.unwrap_or(0) == 0 && (!empty || *digest == Digest::of(digest.algorithm(), b""));
        if whole && !session.staged {
            return self.put_blob(digest, closing.size, closing.body).await.map(drop);
        }
        let deadline = self.reader().deadline();
        let Some(state) = self.load(&session.id, deadline).await? else {
            return match closing.at {
                None if whole => match self.put_blob(digest, closing.size, closing.body).await {
                    // Not the whole blob, but the end of it.
                    Err(mismatch @ Error::DigestMismatch { .. }) => {
                        self.sealed_before(digest, mismatch, deadline.restarted()).await
                    }
                    done => done.map(drop),
                },
                Some(_) if !session.staged => Err(Error::OffsetMismatch { offset: 0 }),
                _ => self.sealed_before(digest, Error::UploadUnknown, deadline).await,
            };
        };
        if closing.at.is_some_and(|at| at != state.offset) {
            return Err(Error::OffsetMismatch { offset: state.offset });
        }
        let (parts, size) = self.close(session, digest, state, closing).await?;
        // Parts that are copied together are stored twice for a moment.
        let place = if parts.len() > 1 { Some(self.reserve(Some(size)).await?) } else { None };
        self.join(session, digest, &parts).await.inspect(|()| drop(place))
    }

    /// Receives the last bytes of an upload, and verifies all of it. Returns the keys of the parts that make the blob,
    /// and its size in bytes.
    async fn close(
        &self,
        session: &Session,
        digest: &Digest,
        mut state: StagingState,
        closing: Chunk,
    ) -> Result<(Vec<Key>, u64)> {
        let mut hashers = vec![self.hasher_for(&session.id, &state, digest.algorithm()).await?];
        if closing.at.is_none() {
            hashers.push(Hasher::new(digest.algorithm()));
        }
        let staged = self.stage(&session.id, &state, hashers, closing).await?;
        if let Some(error) = staged.failed {
            return Err(Error::Body(error));
        }
        let mut digests = staged.hashers.into_iter().map(Hasher::finish);
        let (behind, alone) = (digests.next(), digests.next());
        if staged.part.is_some() && alone == Some(*digest) {
            state.parts.clear();
            state.offset = 0;
        } else {
            fits(digest, behind.unwrap_or(*digest))?;
        }
        state.parts.extend(staged.part);
        Ok((state.part_keys(self.reader().tenant(), &session.id), state.offset + staged.length))
    }

    /// Makes the blob of its parts, and removes them.
    async fn join(&self, session: &Session, digest: &Digest, parts: &[Key]) -> Result<()> {
        let (reader, content) = (self.reader(), self.reader().content());
        let (key, deadline) = (reader.blob_key(digest), reader.deadline().restarted());
        let concat = async {
            match content.objects().concat(parts, &key, digest).await {
                // Another request completes the same upload.
                Err(objects::Error::NotFound) => Err(Error::UploadUnknown),
                made => Ok(made?),
            }
        };
        let written = match content.write(&key, deadline, concat).await {
            Err(Error::UploadUnknown) => return self.sealed_before(digest, Error::UploadUnknown, deadline).await,
            written => written?,
        };
        reader.counted().stored_new_bytes.inc_by(written.meta().size);
        content.metrics().blobs_stored.inc();
        // The blob is stored: parts that cannot be removed now are removed when the session has been idle.
        if let Err(error) = self.staging().remove(&session.id, deadline.restarted()).await {
            tracing::warn!(%error, "cannot remove the parts of a finished upload: they stay until it is idle");
        }
        Ok(())
    }

    /// For a session that is gone: whether its upload became this blob. A proxy or a client that had no answer to its
    /// closing request sends it again, and must not be told that it has failed.
    async fn sealed_before(&self, digest: &Digest, otherwise: Error, deadline: Deadline) -> Result<()> {
        if self.reader().until(deadline).stat_blob(digest).await?.is_some() { Ok(()) } else { Err(otherwise) }
    }

    /// Cancels an upload. On this server its id stays unknown, even for a late closing request.
    pub async fn cancel(&self, session: &Session) -> Result<()> {
        self.find(session).await?;
        self.uploads().cancel(self.own(&session.id));
        self.staging().remove(&session.id, self.reader().deadline()).await
    }

    /// The state of a session of this repository; nothing before the first chunk.
    async fn find(&self, session: &Session) -> Result<Option<StagingState>> {
        if self.uploads().is_cancelled(&self.own(&session.id)) {
            return Err(Error::UploadUnknown);
        }
        match self.load(&session.id, self.reader().deadline()).await? {
            None if session.staged => Err(Error::UploadUnknown),
            found => Ok(found),
        }
    }

    async fn load(&self, id: &UploadId, deadline: Deadline) -> Result<Option<StagingState>> {
        let calls = self.reader().content().calls(deadline);
        let Some((_, bytes)) = calls.read(&self.state_key(id)).await? else { return Ok(None) };
        let state: StagingState =
            serde_json::from_slice(&bytes).map_err(|_| Error::Internal("upload state is damaged".into()))?;
        if *state.repo == **self.reader().repo() { Ok(Some(state)) } else { Err(Error::UploadUnknown) }
    }

    /// Replaces the state from which a chunk began. A chunk may take long to arrive, and its client may have given it
    /// up and sent another one: then the answer to that one holds, and this one is too late.
    async fn advance(
        &self,
        id: &UploadId,
        began: &StagingState,
        state: &StagingState,
        part: &StagedPart,
    ) -> Result<()> {
        let (reader, content) = (self.reader(), self.reader().content());
        let _turn = self.uploads().alone(id).await;
        // The time that the chunk took does not count.
        let deadline = reader.deadline().restarted();
        let now = self.load(id, deadline).await?;
        let offset = now.as_ref().map_or(0, |now| now.offset);
        if offset != began.offset || now.is_some_and(|now| now.parts != began.parts) {
            let key = self.part_key(id, part);
            content.delete(std::slice::from_ref(&key), deadline).await?;
            content.room().deleted([(&key, state.offset - began.offset)]);
            return Err(Error::OffsetMismatch { offset });
        }
        content.put(&self.state_key(id), json(state)?, deadline).await?;
        Ok(())
    }

    fn own(&self, id: &UploadId) -> OwnUpload {
        (self.reader().tenant().clone(), self.reader().repo().clone(), id.clone())
    }

    fn uploads(&self) -> &Uploads {
        self.reader().content().uploads()
    }

    fn staging(&self) -> Staging<'_> {
        Staging { content: self.reader().content(), tenant: self.reader().tenant() }
    }

    fn state_key(&self, id: &UploadId) -> Key {
        layout::upload_state(self.reader().tenant(), id)
    }

    fn fresh(&self, algorithm: Algorithm) -> StagingState {
        let hash = Hasher::new(algorithm).save();
        StagingState { repo: self.reader().repo().to_string(), algorithm, hash, offset: 0, parts: Vec::new() }
    }

    fn part_key(&self, id: &UploadId, part: &StagedPart) -> Key {
        layout::upload_part(self.reader().tenant(), id, part.offset, part.nonce)
    }

    /// Writes a body as the part after `state`. An empty body makes no part.
    async fn stage(&self, id: &UploadId, state: &StagingState, hashers: Vec<Hasher>, chunk: Chunk) -> Result<Staged> {
        let content = self.reader().content();
        let limit = content.config().limits.blob.as_u64().saturating_sub(state.offset);
        let part = StagedPart { offset: state.offset, nonce: rand::random() };
        // Space for the part, and for the state that lists it.
        let mut place = self.reserve_with(chunk.size, OBJECT_FLOOR).await?;
        let (first, mut body) = self.take_in(chunk.size, chunk.body).await?;
        if first.length == 0 {
            return Ok(Staged { part: None, length: 0, hashers, failed: first.failed });
        }
        if state.parts.len() >= PARTS_MAX {
            return Err(Error::TooManyParts { limit: PARTS_MAX });
        }
        let key = self.part_key(id, &part);
        let mut draft = content.objects().begin(&key, None).await?;
        let watch = Watch { hashers, keep: None };
        let received = pump(first, &mut body, &mut *draft, watch, (limit, &mut place)).await;
        let received = content.room().noticing(&key, received)?;
        content.format().may_change()?;
        content.room().noticing(&key, draft.commit().await.map_err(Error::from))?;
        let hashers = received.watch.hashers;
        Ok(Staged { part: Some(part), length: received.length, hashers, failed: received.failed })
    }

    /// Returns the hash after the received bytes. If the client names another algorithm at the end than at the start,
    /// the parts are read once more.
    async fn hasher_for(&self, id: &UploadId, state: &StagingState, algorithm: Algorithm) -> Result<Hasher> {
        if state.algorithm == algorithm {
            return state.hasher();
        }
        let mut hasher = Hasher::new(algorithm);
        for part in &state.parts {
            let (_, mut bytes) = self.reader().content().objects().get(&self.part_key(id, part), 0..u64::MAX).await?;
            while let Some(piece) = bytes.try_next().await? {
                hasher = tokio::task::spawn_blocking(move || {
                    hasher.update(&piece);
                    hasher
                })
                .await?;
            }
        }
        Ok(hasher)
    }
}

struct Staged {
    part: Option<StagedPart>,
    length: u64,
    hashers: Vec<Hasher>,
    failed: Option<BodyError>,
}

/// The keys of the parts that an upload's state lists.
pub fn parts_of(state: &[u8], tenant: &Tenant, id: &UploadId) -> serde_json::Result<Vec<Key>> {
    Ok(serde_json::from_slice::<StagingState>(state)?.part_keys(tenant, id))
}

impl StagingState {
    fn part_keys(&self, tenant: &Tenant, id: &UploadId) -> Vec<Key> {
        self.parts.iter().map(|part| layout::upload_part(tenant, id, part.offset, part.nonce)).collect()
    }

    fn hasher(&self) -> Result<Hasher> {
        Hasher::restore(self.algorithm, &self.hash).map_err(|error| Error::Internal(error.to_string().into()))
    }
}

/// The staged uploads of a tenant.
pub struct Staging<'a> {
    content: &'a Content,
    tenant: &'a Tenant,
}

impl Content {
    /// The staged uploads of a tenant.
    pub fn staging<'a>(&'a self, tenant: &'a Tenant) -> Staging<'a> {
        Staging { content: self, tenant }
    }

    /// Removes the drafts of servers that died, if nothing has been added to them for `idle`. Returns how many.
    pub async fn sweep_drafts(&self, idle: Duration, now: SystemTime) -> Result<usize> {
        self.format().confirm().await?;
        let before = now.checked_sub(idle).unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(self.objects().sweep_drafts(before).await?)
    }
}

impl Staging<'_> {
    async fn remove(&self, id: &UploadId, deadline: Deadline) -> Result<()> {
        let (content, tenant) = (self.content, self.tenant);
        let listed = content.calls(deadline).list(&layout::upload_prefix(tenant, id)).await?;
        let mut keys: Vec<Key> = listed.iter().map(|meta| meta.key.clone()).collect();
        // The state is deleted first: without it, parts are leftovers.
        keys.reverse();
        content.delete(&keys, deadline).await?;
        content.room().deleted(listed.iter().map(|meta| (&meta.key, meta.size)));
        Ok(())
    }

    /// For each upload, the time of the last addition.
    pub async fn last_added(&self) -> Result<BTreeMap<UploadId, SystemTime>> {
        let mut newest = BTreeMap::<UploadId, SystemTime>::new();
        let mut listed = self.content.objects().list(&layout::uploads_prefix(self.tenant), None);
        while let Some(meta) = listed.try_next().await? {
            if let Some(Place::Upload { id, .. }) = layout::parse(meta.key.as_str()) {
                let at = newest.entry(id).or_insert(meta.modified);
                *at = meta.modified.max(*at);
            }
        }
        Ok(newest)
    }

    /// Removes uploads to which nothing has been added for `idle`. Returns how many.
    pub async fn sweep(&self, idle: Duration, now: SystemTime) -> Result<usize> {
        let mut newest = self.last_added().await?;
        newest.retain(|_, at| now.duration_since(*at).is_ok_and(|age| age > idle));
        for id in newest.keys() {
            self.give_up(id).await?;
        }
        Ok(newest.len())
    }

    /// Removes an upload without its client: a later chunk continues nothing.
    pub async fn give_up(&self, id: &UploadId) -> Result<()> {
        self.content.format().confirm().await?;
        let _turn = self.content.uploads().alone(id).await;
        self.remove(id, Deadline::of_each_call()).await
    }
}
