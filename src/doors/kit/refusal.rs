//! Refusals: errors of the store, of `auth` and of the parsers of names, as a kind and a status.
//!
//! This is the only place that maps them. Each door words a kind in its own protocol.

use axum::response::Response;
use http::StatusCode;
use http::header::RETRY_AFTER;
use serde_json::json;

use crate::auth::AuthError;
use crate::doors::kit::answer::{Answer, respond};
use crate::error::Error;
use crate::names::InvalidName;
use crate::stream::BodyError;

/// The kind of a refusal, whatever the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    BlobUnknown,
    ManifestUnknown,
    RepoUnknown,
    UploadUnknown,
    /// A manifest references missing content.
    ContentUnknown,
    DigestInvalid,
    ManifestInvalid,
    NameInvalid,
    SizeInvalid,
    UploadInvalid,
    Denied,
    Unauthenticated,
    TooManyRequests,
    Unsupported,
    Unavailable,
    Failed,
}

impl RefusalKind {
    /// The default status of the kind.
    fn status(self) -> StatusCode {
        match self {
            RefusalKind::BlobUnknown | RefusalKind::ManifestUnknown | RefusalKind::RepoUnknown => StatusCode::NOT_FOUND,
            RefusalKind::UploadUnknown | RefusalKind::ContentUnknown => StatusCode::NOT_FOUND,
            RefusalKind::DigestInvalid | RefusalKind::ManifestInvalid | RefusalKind::NameInvalid => {
                StatusCode::BAD_REQUEST
            }
            RefusalKind::SizeInvalid | RefusalKind::UploadInvalid => StatusCode::BAD_REQUEST,
            RefusalKind::Denied => StatusCode::FORBIDDEN,
            RefusalKind::Unauthenticated => StatusCode::UNAUTHORIZED,
            RefusalKind::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            RefusalKind::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            RefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            RefusalKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A refusal, not yet worded by a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub kind: RefusalKind,
    pub status: StatusCode,
    /// Seconds after which the client may try again.
    pub retry_after: Option<u64>,
}

impl Refusal {
    pub fn with_status(self, status: StatusCode) -> Refusal {
        Refusal { status, ..self }
    }

    fn after(self, seconds: u64) -> Refusal {
        Refusal { retry_after: Some(seconds), ..self }
    }

    /// An answer with the status and `Retry-After`.
    pub fn respond(&self) -> Answer {
        let answer = respond(self.status);
        match self.retry_after {
            Some(seconds) => answer.set(RETRY_AFTER, seconds),
            None => answer,
        }
    }

    /// The answer of doors without codes of their own: a body with `errors`, as clients of registries read it.
    pub fn told(&self, why: impl ToString) -> Response {
        self.respond().json(&json!({ "errors": [{ "message": why.to_string() }] }))
    }
}

impl From<RefusalKind> for Refusal {
    fn from(kind: RefusalKind) -> Refusal {
        Refusal { kind, status: kind.status(), retry_after: None }
    }
}

impl From<&AuthError> for Refusal {
    fn from(error: &AuthError) -> Refusal {
        match error {
            AuthError::Unidentified | AuthError::Invalid(_) | AuthError::Jwt(_) | AuthError::Insufficient => {
                RefusalKind::Unauthenticated.into()
            }
            AuthError::Denied(_) | AuthError::Reserved(_) => RefusalKind::Denied.into(),
            AuthError::RepoUnknown(_) => RefusalKind::RepoUnknown.into(),
            AuthError::TooMany(wait) => Refusal::from(RefusalKind::TooManyRequests).after(wait.as_secs()),
            AuthError::Unavailable => Refusal::from(RefusalKind::Unavailable).after(5),
        }
    }
}

impl From<&InvalidName> for Refusal {
    fn from(error: &InvalidName) -> Refusal {
        let kind = match error {
            InvalidName::Repo | InvalidName::Tenant => RefusalKind::NameInvalid,
            InvalidName::Tag => RefusalKind::ManifestInvalid,
            InvalidName::Upload | InvalidName::Batch | InvalidName::Session => RefusalKind::UploadUnknown,
            InvalidName::Digest(_) => RefusalKind::DigestInvalid,
        };
        kind.into()
    }
}

impl From<&Error> for Refusal {
    fn from(error: &Error) -> Refusal {
        let (kind, status) = match error {
            Error::BlobUnknown(_) => (RefusalKind::BlobUnknown, None),
            Error::ManifestUnknown(_) => (RefusalKind::ManifestUnknown, None),
            Error::RepoUnknown(_) => (RefusalKind::RepoUnknown, None),
            Error::UploadUnknown => (RefusalKind::UploadUnknown, None),
            Error::DigestMismatch { .. } => (RefusalKind::DigestInvalid, None),
            Error::OffsetMismatch { .. } => (RefusalKind::UploadInvalid, Some(StatusCode::RANGE_NOT_SATISFIABLE)),
            Error::TooManyParts { .. } => (RefusalKind::UploadInvalid, None),
            Error::ManifestInvalid(_) => (RefusalKind::ManifestInvalid, None),
            Error::ManifestBlobUnknown(_) => (RefusalKind::ContentUnknown, None),
            Error::Referenced { .. } => (RefusalKind::Unsupported, None),
            Error::Body(BodyError::TooLarge { .. }) => (RefusalKind::SizeInvalid, Some(StatusCode::PAYLOAD_TOO_LARGE)),
            Error::Body(BodyError::Cut) => (RefusalKind::SizeInvalid, None),
            Error::Body(BodyError::Idle) => (RefusalKind::SizeInvalid, Some(StatusCode::REQUEST_TIMEOUT)),
            Error::Busy => return Refusal::from(RefusalKind::Unavailable).after(1),
            Error::LeftBehind { .. } | Error::FormatTooOld { .. } => {
                return Refusal::from(RefusalKind::Unavailable).after(60);
            }
            Error::Full
            | Error::Short { .. }
            | Error::ShortOfInodes { .. }
            | Error::ScopesFull { .. }
            | Error::Ended => (RefusalKind::Denied, Some(StatusCode::INSUFFICIENT_STORAGE)),
            Error::OverQuota { .. } => (RefusalKind::Denied, None),
            Error::Internal(_) => (RefusalKind::Failed, None),
        };
        let refusal = Refusal::from(kind);
        status.map_or(refusal, |status| refusal.with_status(status))
    }
}
