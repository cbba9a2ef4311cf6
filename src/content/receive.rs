//! Bodies of uploads: hashed and written while the next bytes are read from the socket.

use std::time::Duration;

use futures::FutureExt;

use super::handles::Writer;
use crate::capacity::Reservation;
use crate::deadline;
use crate::digest::Hasher;
use crate::error::{Error, Result};
use crate::hot::Pushing;
use crate::names::Tenant;
use crate::objects::Draft;
use crate::stream::{BodyError, Incoming, Portion, Portions};
use crate::turns::Turn;

/// Pause after which a body gives its upload slot to others. It takes a slot again when it resumes.
const PAUSE: Duration = Duration::from_millis(500);

/// Size in bytes up to which a body may be a config. Builders do not send configs again: these bodies wait for a slot
/// until the deadline of their request.
const CONFIG_BYTES: u64 = 1 << 20;

/// A body being received, with its upload slot: each upload takes memory. It holds the slot only while bytes come, and
/// yields it at each portion to tenants that hold fewer.
pub(super) struct Intake<'a> {
    writer: &'a Writer,
    body: Portions,
    place: Option<Turn<Tenant>>,
    /// The last portion is shorter than requested, and not the end of the body.
    pauses: bool,
}

impl Writer {
    /// Begins to read a body of `size` bytes, if announced. A builder opens a request long before it has the bytes, so
    /// the slot is taken only when the first ones have come.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when no slot is free in time.
    pub(super) async fn take_in(&self, size: Option<u64>, body: Incoming) -> Result<(Portion, Intake<'_>)> {
        let mut intake = Intake { writer: self, body: Portions::new(body), place: None, pauses: false };
        let mut first = intake.body.next(1).await;
        let deadline = self.reader().deadline().restarted();
        let deadline = match size {
            Some(size) if size <= CONFIG_BYTES => deadline,
            // Builders send a layer again.
            _ => deadline.at_most(deadline::SHORT),
        };
        deadline.bound(intake.take_place().map(Ok)).await?;
        intake.fill(&mut first, PORTION_BYTES).await;
        Ok((first, intake))
    }
}

impl Intake<'_> {
    async fn take_place(&mut self) {
        let reader = self.writer.reader();
        self.place = Some(reader.content().uploads().place(reader.tenant()).await);
    }

    async fn fill(&mut self, portion: &mut Portion, bytes: usize) {
        self.body.fill_within(portion, bytes, PAUSE).await;
        self.pauses = portion.length < bytes && !portion.last && portion.failed.is_none();
    }

    /// Reads the next bytes: as many as requested, fewer if they come slowly, none at the end. A body that resumes
    /// after a pause waits for a slot, however long that takes.
    pub(super) async fn next(&mut self, bytes: usize) -> Portion {
        let mut portion = Portion::default();
        if !self.pauses {
            if let Some(place) = self.place.take() {
                self.place = Some(place.give_way().await);
            }
            self.fill(&mut portion, bytes).await;
        }
        if self.pauses && portion.length == 0 {
            self.place = None;
            self.body.fill(&mut portion, 1).await;
            self.take_place().await;
            self.fill(&mut portion, bytes).await;
        }
        portion
    }
}

/// Bytes handed to the backend at once. One transfer holds at most three portions: one being read, one being hashed and
/// written, and one in the socket.
pub(super) const PORTION_BYTES: usize = 512 << 10;

/// The same for a draft that gathers in memory: so many uploads wait for that memory at once that the size of each
/// portion counts.
const GATHERED_BYTES: usize = 256 << 10;

/// Observers of the received bytes.
pub(super) struct Watch {
    pub hashers: Vec<Hasher>,
    /// Copies the bytes into the hot layer.
    pub keep: Option<Pushing<Error>>,
}

/// The outcome of a received body.
pub(super) struct Received {
    /// The observers, which have seen all bytes that were written.
    pub watch: Watch,
    pub length: u64,
    /// The error if the body broke off after these bytes.
    pub failed: Option<BodyError>,
}

/// Writes `portion` and all following bytes to `draft`. A body that breaks off is not an error here: the bytes before
/// have been written, and the caller decides what they are worth. Takes at most `limit` bytes, and reserves the space
/// for them.
pub(super) async fn pump(
    mut portion: Portion,
    body: &mut Intake<'_>,
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
            // Many uploads wait for memory: each would hold a portion more.
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
