//! The format of a store: written before anything else, checked before anything is read, and read again before anything
//! is deleted.
//!
//! Servers of several versions may share a bucket. A collector deletes content that none of the roots it knows
//! references, so a server must not delete in a store that has a kind of root which only newer versions know
//! ([`RootKind`]). The first writer of such a root therefore raises `oldest_reader` in `meta/format`
//! ([`StoreFormat::raise`]), and every server reads `meta/format` again before each batch of deletes
//! ([`StoreFormat::confirm`]): one conditional GET.
//!
//! Invariant: a server deletes nothing without a confirmed format. When `meta/format` cannot be read, is damaged or is
//! missing, the batch stays.
//!
//! A server that finds a newer format than its own is *left behind*: it writes and deletes nothing any more, and its
//! collector does not run. Every write checks [`StoreFormat::may_change`] (in `content::write`). Reads continue,
//! without their notes of use; and a tag whose view is not stored yet serves its newest push. Only spares are still
//! written: an answer that uses a condemned object would be wrong without them, and they only keep content in the
//! store.
//!
//! # Why one read before a batch is enough
//!
//! Let a server confirm the format at S and then claim a batch that was published at C, and let the format be raised at
//! R > S, for a root that references content of the batch. The writer of the root was told at A that this content
//! exists. Either the answer was from a snapshot without the batch, so that C > A − X and R − A > W − X, which is
//! longer than a client may take; or its server knew of the batch, and spared the content before relying on it. Spares
//! protect content whatever the version of the collector (`lifetime::collect`), so both orders of S and R are harmless.
//!
//! # Two servers that raise at once
//!
//! A backend has no conditional overwrite, so of two raises that were read at the same moment the later PUT wins, and
//! it may be the lower one. It needs two different new versions that both write their first root within the flight of
//! one request. Each reads what it wrote, and a server that has ever seen a higher format than the stored one writes
//! that again when it next confirms, long before any object condemned since is due (W is at least an hour). Raises to
//! the same number write the same thing: the order does not matter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::calls::{Calls, Reread, json};
use crate::error::{Error, Result};
use crate::layout;
use crate::objects::{self, Objects, Read, Version, When};

/// The format that this server writes into a new store, and the newest that it can read.
pub const FORMAT: u32 = 1;

/// Attempts to raise the format against other servers that write it.
const RAISES: usize = 3;

/// Content of `meta/format`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Format {
    format: u32,
    /// Oldest format whose servers can still read this store.
    oldest_reader: u32,
    created: jiff::Timestamp,
    /// Fields of newer versions. They survive a raise.
    #[serde(flatten)]
    more: serde_json::Map<String, serde_json::Value>,
}

/// The reason why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreFormatError {
    #[error(
        "the store has format {found} and this larder reads up to {ours}: it was written by a newer version; run that one, or give this one another store"
    )]
    TooNew { found: u32, ours: u32 },
    #[error("meta/format cannot be read ({0}): is this a store of larder?")]
    Damaged(serde_json::Error),
    #[error(transparent)]
    Objects(#[from] objects::Error),
}

/// A kind of root: an object whose references keep content in the store.
#[derive(Clone, Copy, Debug)]
pub struct RootKind {
    /// The kind in words, in the plural.
    pub name: &'static str,
    /// First format whose collectors know the kind.
    pub since: u32,
}

impl RootKind {
    pub const TAGS: RootKind = RootKind { name: "tags", since: 1 };
    pub const ENTRIES: RootKind = RootKind { name: "entries", since: 2 };
}

/// The format of one store as one of its servers last read it.
pub struct StoreFormat {
    objects: Arc<dyn Objects>,
    /// The newest format that the server reads.
    ours: u32,
    seen: Mutex<Option<SeenFormat>>,
    /// The format of the version that has left this server behind; 0 while none has. Every write checks it.
    left_behind_by: AtomicU32,
}

#[derive(Clone)]
struct SeenFormat {
    version: Version,
    stored: Format,
    /// The highest `oldest_reader` that the server ever read, and the `format` beside it.
    highest: (u32, u32),
}

/// The key of `meta/format`.
pub fn key() -> crate::objects::Key {
    layout::format()
}

/// Checks that the bytes are the content of `meta/format`.
pub fn is_format(bytes: &[u8]) -> serde_json::Result<()> {
    serde_json::from_slice::<Format>(bytes).map(drop)
}

impl StoreFormat {
    /// The format of a store, for a server of this version.
    pub fn new(objects: Arc<dyn Objects>) -> StoreFormat {
        StoreFormat::for_version(objects, FORMAT)
    }

    /// The format of a store, for a server that reads formats up to `ours`.
    pub fn for_version(objects: Arc<dyn Objects>, ours: u32) -> StoreFormat {
        StoreFormat { objects, ours, seen: Mutex::default(), left_behind_by: AtomicU32::new(0) }
    }

    /// Checks the format of the store, and writes it into a new one.
    pub async fn open(&self) -> std::result::Result<(), StoreFormatError> {
        let key = layout::format();
        // Read first: a full store takes no write, and must be readable all the same.
        let mut found = self.objects.read(&key, None).await;
        if matches!(found, Err(objects::Error::NotFound)) {
            let more = serde_json::Map::new();
            let new = Format { format: FORMAT, oldest_reader: FORMAT, created: jiff::Timestamp::now(), more };
            let body = serde_json::to_vec(&new).map_err(StoreFormatError::Damaged)?;
            match self.objects.put(&key, body.into(), When::Absent).await {
                Ok(meta) => {
                    self.note(meta.version, new);
                    return Ok(());
                }
                // Another server began at the same time.
                Err(objects::Error::Exists) => found = self.objects.read(&key, None).await,
                Err(error) => return Err(error.into()),
            }
        }
        let Read::Fresh(meta, bytes) = found? else { return Ok(()) };
        let stored: Format = serde_json::from_slice(&bytes).map_err(StoreFormatError::Damaged)?;
        if stored.oldest_reader > self.ours {
            return Err(StoreFormatError::TooNew { found: stored.format, ours: self.ours });
        }
        self.note(meta.version, stored);
        Ok(())
    }

    /// Whether this server may still write and delete, as far as it knows. Makes no call.
    pub fn may_change(&self) -> Result<()> {
        match self.left_behind_by.load(Ordering::Relaxed) {
            0 => Ok(()),
            found => Err(Error::LeftBehind { found, ours: self.ours }),
        }
    }

    /// Whether a root of this kind may be written: every server that the store admits knows the kind.
    pub fn may_write(&self, kind: RootKind) -> Result<()> {
        self.may_change()?;
        let found = self.seen().map_or(0, |seen| seen.stored.oldest_reader);
        if found < kind.since {
            return Err(Error::FormatTooOld { kind: kind.name, needs: kind.since, found });
        }
        Ok(())
    }

    /// Reads the format again, unless it is unchanged: to be called before each batch of deletes, none of which may be
    /// made when this fails.
    pub async fn confirm(&self) -> Result<()> {
        let seen = self.read_again().await?;
        self.may_change()?;
        // Another server has overwritten a raise.
        if seen.stored.oldest_reader < seen.highest.0 { self.raise(seen.highest.0).await } else { Ok(()) }
    }

    /// Raises the oldest format whose servers may use this store, before the first root of a new kind is written.
    /// Idempotent.
    pub async fn raise(&self, oldest_reader: u32) -> Result<()> {
        for _ in 0..RAISES {
            let stored = self.read_again().await?.stored;
            self.may_change()?;
            if stored.oldest_reader >= oldest_reader {
                return Ok(());
            }
            let from = stored.oldest_reader;
            let raised = Format { format: stored.format.max(oldest_reader), oldest_reader, ..stored };
            Calls::of(&*self.objects).put(&layout::format(), json(&raised)?).await?;
            tracing::info!(from, to = oldest_reader, "raised the format of the store: older servers stop writing");
        }
        Err(Error::Busy)
    }

    async fn read_again(&self) -> Result<SeenFormat> {
        let known = self.seen();
        let version = known.as_ref().map(|seen| &seen.version);
        match (Calls::of(&*self.objects).reread(&layout::format(), version).await?, known) {
            (Reread::Unchanged, Some(known)) => Ok(known),
            (Reread::Changed(meta, bytes), _) => {
                let damaged = |error| Error::Internal(format!("meta/format cannot be read: {error}").into());
                let could = self.may_change().is_ok();
                let seen = self.note(meta.version, serde_json::from_slice(&bytes).map_err(damaged)?);
                if could && let Err(error) = self.may_change() {
                    tracing::error!("{error}");
                }
                Ok(seen)
            }
            _ => Err(Error::Internal("meta/format is missing: nothing is deleted".into())),
        }
    }

    fn note(&self, version: Version, stored: Format) -> SeenFormat {
        let mut seen = self.seen.lock();
        let new = (stored.oldest_reader, stored.format);
        let highest = seen.as_ref().map_or(new, |seen| seen.highest.max(new));
        let (oldest_reader, format) = highest;
        if oldest_reader > self.ours {
            self.left_behind_by.store(format.max(oldest_reader), Ordering::Relaxed);
        }
        seen.insert(SeenFormat { version, stored, highest }).clone()
    }

    fn seen(&self) -> Option<SeenFormat> {
        self.seen.lock().clone()
    }
}
