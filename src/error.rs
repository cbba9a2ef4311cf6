//! Refusals of the rooms, with their reasons. They know no HTTP: each door gives them its own words and codes.

use std::sync::Arc;

use crate::digest::Digest;
use crate::human::{self, bytes as shown};
use crate::names::{RepoName, Tenant};
use crate::objects;
use crate::stream::BodyError;

pub type Result<T> = std::result::Result<T, Error>;

/// The reason why a room did not do what was asked. Each door gives it its own words and codes.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("blob {0} is unknown")]
    BlobUnknown(Digest),
    #[error("manifest {0} is unknown")]
    ManifestUnknown(String),
    #[error("repository {0} is unknown")]
    RepoUnknown(RepoName),
    #[error("upload is unknown")]
    UploadUnknown,
    #[error("content has the digest {actual}, not {claimed}")]
    DigestMismatch { claimed: Box<Digest>, actual: Box<Digest> },
    /// The bytes do not continue the upload, which has `offset` bytes.
    #[error("upload resumes at byte {offset}")]
    OffsetMismatch { offset: u64 },
    #[error("upload has more than {limit} parts: send larger ones")]
    TooManyParts { limit: usize },
    #[error("manifest is invalid: {0}")]
    ManifestInvalid(String),
    #[error("manifest references unknown content")]
    ManifestBlobUnknown(Vec<Digest>),
    /// Something that stays names it.
    #[error("{digest} is referenced by {by}")]
    Referenced { digest: Digest, by: String },
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("store is busy")]
    Busy,
    #[error("store is full: uploads are refused until space is freed")]
    Full,
    /// The rest of the disk is kept in reserve.
    #[error(
        "store is full: {} are free and {} are kept in reserve{}", shown(*free), shown(*reserve), others(*coming)
    )]
    Short { free: u64, reserve: u64, coming: u64 },
    /// The rest of the disk's inodes is kept in reserve.
    #[error(
        "store is full: {free} inodes are free and {reserve} are kept in reserve: the filesystem takes no more files than \
         it has inodes, whatever bytes are free"
    )]
    ShortOfInodes { free: u64, reserve: u64 },
    /// Scopes have their share of the disk.
    #[error("scopes are full: together they may take {} of the disk, and have taken them", shown(*max))]
    ScopesFull { max: u64 },
    /// An upload of a scope was cancelled to free space.
    #[error("upload was cancelled to free disk space: uploads of scopes are cancelled first")]
    Ended,
    #[error(
        "tenant {tenant} has {} of the {} that it may store{}{}; push less, or raise the quota of the tenant",
        shown(*stored), shown(*max), more(*size), until(*next)
    )]
    OverQuota { tenant: Tenant, stored: u64, max: u64, size: u64, next: Option<jiff::Timestamp> },
    /// Another version has raised the format of the store beyond what this server reads.
    #[error(
        "this server has stopped writing: a newer larder raised the store's format to {found}, and this version reads up to {ours}; run a newer version"
    )]
    LeftBehind { found: u32, ours: u32 },
    /// Servers that may use the store do not know this kind of root, and would delete what only it names.
    #[error("{kind} need a store of format {needs}, and this one still admits servers of format {found}")]
    FormatTooOld { kind: &'static str, needs: u32, found: u32 },
    #[error("internal error: {0}")]
    Internal(Arc<str>),
}

fn others(coming: u64) -> String {
    if coming > 0 { format!("; {} are in flight", shown(coming)) } else { String::new() }
}

fn until(next: Option<jiff::Timestamp>) -> String {
    next.map_or(String::new(), |next| {
        format!("; the rest is in use, and nothing is evicted before {}", human::minute(next))
    })
}

fn more(bytes: u64) -> String {
    if bytes > 0 { format!(", and was sent {}", shown(bytes)) } else { String::new() }
}

impl From<crate::oci::InvalidManifest> for Error {
    fn from(invalid: crate::oci::InvalidManifest) -> Error {
        Error::ManifestInvalid(invalid.0)
    }
}

impl From<objects::Error> for Error {
    fn from(error: objects::Error) -> Error {
        match error {
            objects::Error::Busy(reason) => {
                tracing::warn!(%reason, "store is busy");
                Error::Busy
            }
            objects::Error::Full => Error::Full,
            // Where absence or presence means something, the caller has dealt with it before.
            objects::Error::NotFound => Error::Internal("object is missing".into()),
            objects::Error::Exists => Error::Internal("object exists".into()),
            objects::Error::Backend(reason) => {
                tracing::error!(%reason, "store failed");
                Error::Internal("store failed".into())
            }
        }
    }
}

impl From<tokio::task::JoinError> for Error {
    fn from(error: tokio::task::JoinError) -> Error {
        tracing::error!(%error, "a task of the server failed");
        Error::Internal("task failed".into())
    }
}
