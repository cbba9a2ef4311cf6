//! The format of a store: written before anything else, checked before anything is read.

use serde::{Deserialize, Serialize};

use crate::layout;
use crate::objects;
use crate::objects::{Objects, Read, When};

/// The format that this server writes.
pub const FORMAT: u32 = 1;

/// Content of `meta/format`.
#[derive(Debug, Serialize, Deserialize)]
struct Format {
    format: u32,
    /// Oldest format whose servers can still read this store.
    oldest_reader: u32,
    created: jiff::Timestamp,
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    #[error(
        "the store has format {found} and this larder reads up to {FORMAT}: it was written by a newer version; run that one, or give this one another store"
    )]
    TooNew { found: u32 },
    #[error("meta/format cannot be read ({0}): is this a store of larder?")]
    Damaged(serde_json::Error),
    #[error(transparent)]
    Objects(#[from] objects::Error),
}

/// Where the format is.
pub fn key() -> crate::objects::Key {
    layout::format()
}

/// Checks the format of the store, and writes it into a new one.
pub async fn open(objects: &dyn Objects) -> Result<(), FormatError> {
    // Read first: a store that is full takes no write, and is to be read all the same.
    match objects.read(&layout::format(), None).await {
        Err(objects::Error::NotFound) => {}
        found => return check(found?),
    }
    let ours = Format { format: FORMAT, oldest_reader: FORMAT, created: jiff::Timestamp::now() };
    let body = serde_json::to_vec(&ours).map_err(FormatError::Damaged)?;
    match objects.put(&layout::format(), body.into(), When::Absent).await {
        // Another server began at the same time.
        Err(objects::Error::Exists) => check(objects.read(&layout::format(), None).await?),
        written => Ok(written.map(drop)?),
    }
}

/// Whether these bytes say a format.
pub(crate) fn is_format(bytes: &[u8]) -> serde_json::Result<()> {
    serde_json::from_slice::<Format>(bytes).map(drop)
}

fn check(found: Read) -> Result<(), FormatError> {
    let Read::Fresh(_, bytes) = found else { return Ok(()) };
    let found: Format = serde_json::from_slice(&bytes).map_err(FormatError::Damaged)?;
    if found.oldest_reader > FORMAT { Err(FormatError::TooNew { found: found.format }) } else { Ok(()) }
}
