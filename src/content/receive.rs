//! Bytes coming in: hashed and written while the next ones are read from the socket.

use crate::digest::Hasher;
use crate::hot::Pushing;
use crate::objects::Draft;
use crate::stream::{BodyError, Portion, Portions};

use crate::capacity::Reservation;
use crate::error::{Error, Result};

/// Bytes handed to the backend at once. One transfer holds at most three portions: one being read, one being hashed and
/// written, and what the socket holds.
pub(super) const PORTION_BYTES: usize = 512 << 10;

/// The same, where they are gathered in memory: so many uploads wait for that at once that what each holds counts.
const GATHERED_BYTES: usize = 256 << 10;

/// What looks at the bytes on their way.
pub(super) struct Watch {
    pub hashers: Vec<Hasher>,
    /// Keeps them in the hot layer.
    pub keep: Option<Pushing<Error>>,
}

/// What came of a body.
pub(super) struct Received {
    /// It has seen all bytes that were written.
    pub watch: Watch,
    pub length: u64,
    /// The body broke off behind these bytes.
    pub failed: Option<BodyError>,
}

/// Writes `portion` and all that follows it to `draft`. A body that breaks off is not an error here: what came before
/// has been written, and the caller decides what it is worth. At most `limit` bytes are taken, and the room that they need.
pub(super) async fn pump(
    mut portion: Portion,
    body: &mut Portions,
    draft: &mut dyn Draft,
    mut watch: Watch,
    (limit, place): (u64, &mut Reservation),
) -> Result<Received> {
    let mut length = 0;
    let gathers = draft.gathers();
    let portion_bytes = if gathers { GATHERED_BYTES } else { PORTION_BYTES };
    loop {
        length += portion.length as u64;
        if length > limit {
            return Err(Error::Body(BodyError::TooLarge { limit }));
        }
        place.write(portion.length as u64).await?;
        let ended = portion.last || portion.failed.is_some();
        let failed = portion.failed.take();
        let pieces = portion.pieces.clone();
        let hash = tokio::task::spawn_blocking(move || {
            for hasher in &mut watch.hashers {
                pieces.iter().for_each(|piece| hasher.update(piece));
            }
            if let Some(keep) = &mut watch.keep {
                pieces.iter().for_each(|piece| keep.add(piece));
            }
            watch
        });
        let next = async {
            match ended {
                true => Ok(Portion::default()),
                false => place.unless_ended(body.next(portion_bytes)).await,
            }
        };
        let written = draft.write(portion.pieces);
        let moved = async {
            if !gathers {
                return tokio::join!(written, next);
            }
            // Many that wait for memory would each hold a portion more.
            match written.await {
                Ok(()) => (Ok(()), next.await),
                failed => (failed, Ok(Portion::default())),
            }
        };
        let (hashed, (written, next)) = tokio::join!(hash, moved);
        watch = hashed?;
        written?;
        if ended {
            return Ok(Received { watch, length, failed });
        }
        portion = next?;
    }
}
