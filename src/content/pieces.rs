//! Bytes whose digest the client has not announced: cut into pieces as they arrive, each hashed in its buffer and
//! written under its own digest. The whole is a list of pieces, written in any order, by any server; equal pieces are
//! stored once, and nothing is staged or copied at the end.

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::handles::Writer;
use super::receive::PORTION_BYTES;
use super::write::Written;
use crate::digest::{Algorithm, Digest, hash};
use crate::error::{Error, Result};
use crate::stream::{BodyError, Incoming};

/// Largest piece in bytes: as many as one pooled part of an upload has.
pub const PIECE_BYTES_MAX: usize = 8 << 20;

/// A blob that is part of a longer content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceRef {
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
}

impl Writer {
    /// Receives a body of at most `limit` bytes as pieces, in order. `size` is its length in bytes, if announced. A
    /// body that breaks off is refused; the pieces written by then are unreferenced, and are collected.
    pub async fn put_pieces(&self, size: Option<u64>, limit: u64, body: Incoming) -> Result<Vec<PieceRef>> {
        if size.is_some_and(|size| size > limit) {
            return Err(Error::Body(BodyError::TooLarge { limit }));
        }
        let mut place = self.reserve(size).await?;
        let (mut portion, mut body) = self.take_in(size, body).await?;
        let (mut pieces, mut gathered, mut length) = (Vec::new(), BytesMut::new(), 0);
        loop {
            length += portion.length as u64;
            if length > limit {
                return Err(Error::Body(BodyError::TooLarge { limit }));
            }
            if let Some(error) = portion.failed {
                return Err(Error::Body(error));
            }
            place.write(portion.length as u64).await?;
            let last = portion.last;
            for mut bytes in portion.pieces {
                while !bytes.is_empty() {
                    let taken = bytes.split_to(bytes.len().min(PIECE_BYTES_MAX - gathered.len()));
                    gathered.extend_from_slice(&taken);
                    if gathered.len() == PIECE_BYTES_MAX {
                        pieces.push(self.put_piece(gathered.split().freeze()).await?);
                        place.stored(PIECE_BYTES_MAX as u64);
                    }
                }
            }
            if last {
                break;
            }
            portion = place.unless_ended(body.next(PORTION_BYTES)).await?;
        }
        if !gathered.is_empty() {
            pieces.push(self.put_piece(gathered.freeze()).await?);
        }
        Ok(pieces)
    }

    /// Writes one piece, unless the store has it.
    async fn put_piece(&self, bytes: Bytes) -> Result<PieceRef> {
        let (reader, content) = (self.reader(), self.reader().content());
        let deadline = reader.deadline().restarted();
        let digest = hash(Algorithm::Sha256, bytes.clone()).await?;
        let piece = PieceRef { digest, size: bytes.len() as u64 };
        let key = reader.blob_key(&digest);
        let known = content.pinned(deadline, |pin| {
            let key = key.clone();
            async move { pin.vouch(&key).await }
        });
        if known.await?.is_none() {
            let put = async { content.calls(deadline).put(&key, bytes.clone()).await };
            let written: Written = content.write(&key, deadline, put).await?;
            reader.counted().stored_new_bytes.inc_by(written.meta().size);
        }
        Ok(piece)
    }
}
