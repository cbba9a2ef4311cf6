//! Request bodies without HTTP: pieces of bytes, or the reason why no more come.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;

/// The reason why a body broke off.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("client sent nothing for too long")]
    Idle,
    #[error("body was cut short")]
    Cut,
    #[error("body has more than {limit} bytes")]
    TooLarge { limit: u64 },
}

/// A body being received. An error is its last item.
pub type Incoming = BoxStream<'static, Result<Bytes, BodyError>>;

/// Size in bytes below which pieces are copied together: each piece has its own overhead, and a client may send single
/// bytes.
const PIECE_BYTES_MIN: usize = 4 << 10;

/// A body, read in portions.
pub struct Portions {
    body: futures::stream::Fuse<Incoming>,
    /// Small pieces of the portion that is being filled.
    small: BytesMut,
}

impl Portions {
    pub fn new(body: Incoming) -> Portions {
        Portions { body: body.fuse(), small: BytesMut::new() }
    }

    /// Returns at least `bytes` bytes, or the rest. An empty portion is the end. If the body fails, the portion has the
    /// error and the bytes that came before.
    pub async fn next(&mut self, bytes: usize) -> Portion {
        let mut portion = Portion::default();
        self.fill(&mut portion, bytes).await;
        portion
    }

    /// Adds to a portion until it has at least `bytes` bytes or the body has ended.
    pub async fn fill(&mut self, portion: &mut Portion, bytes: usize) {
        self.gather(portion, bytes).await;
        portion.push(self.small.split().freeze());
    }

    /// As [`Portions::fill`], with only those bytes that come within `span`.
    pub async fn fill_within(&mut self, portion: &mut Portion, bytes: usize, span: Duration) {
        // In time or not, the portion has the bytes that came.
        let _ = tokio::time::timeout(span, self.gather(portion, bytes)).await;
        portion.push(self.small.split().freeze());
    }

    /// Cancel-safe: the bytes that came are in the portion or among the small pieces.
    async fn gather(&mut self, portion: &mut Portion, bytes: usize) {
        while portion.length < bytes && !portion.last && portion.failed.is_none() {
            match self.body.next().await {
                Some(Ok(piece)) => {
                    portion.length += piece.len();
                    if piece.len() < PIECE_BYTES_MIN {
                        self.small.extend_from_slice(&piece);
                    } else {
                        portion.push(self.small.split().freeze());
                        portion.push(piece);
                    }
                }
                Some(Err(error)) => portion.failed = Some(error),
                None => portion.last = true,
            }
        }
    }
}

/// Some bytes of a body, in order.
#[derive(Debug, Default)]
pub struct Portion {
    pub pieces: Vec<Bytes>,
    /// Length of all pieces, in bytes.
    pub length: usize,
    /// The body has ended, complete, after these bytes.
    pub last: bool,
    /// The body broke off after these bytes.
    pub failed: Option<BodyError>,
}

impl Portion {
    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.pieces.push(piece);
        }
    }

    /// Joins the bytes into one piece.
    pub fn join(mut self) -> Bytes {
        if self.pieces.len() == 1 {
            return self.pieces.swap_remove(0);
        }
        self.pieces.concat().into()
    }
}
