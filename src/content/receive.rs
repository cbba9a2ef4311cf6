//! Bytes coming in: hashed and written while the next ones are read from the socket.

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

/// A body that sends nothing for so long gives its place to others, and takes one again when it goes on.
const PAUSE: Duration = Duration::from_millis(500);

/// Bodies of at most so many bytes may be configs, for which builders do not ask again: they wait for a place for as long as
/// their request may wait at all. Bytes.
const CONFIG_BYTES: u64 = 1 << 20;

/// A body on its way in, with its place among the uploads: each takes memory. It holds the place only while bytes come, and
/// gives way at each portion to tenants that hold fewer.
pub(super) struct Intake<'a> {
    writer: &'a Writer,
    body: Portions,
    place: Option<Turn<Tenant>>,
    /// The last portion is shorter than was asked for, and not the last of the body.
    pauses: bool,
}

impl Writer {
    /// Begins to read a body of `size` bytes, where that is told. A builder opens a request long before it has the bytes,
    /// so the place is taken only when the first ones have come.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] when no place is free in time.
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

    /// The next bytes: as many as were asked for, fewer when they come slowly, none at the end. A body that goes on after a
    /// pause waits for its place, however long that takes.
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
