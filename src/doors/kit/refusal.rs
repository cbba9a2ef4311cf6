//! Refusals: what the house, `auth` and the parsers of names say, as a kind and a status.
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
pub enum Kind {
    BlobUnknown,
    ManifestUnknown,
    RepoUnknown,
    UploadUnknown,
    /// A manifest names content that is not here.
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

impl Kind {
    /// The status of the kind, where nothing more is known.
    fn status(self) -> StatusCode {
        match self {
            Kind::BlobUnknown | Kind::ManifestUnknown | Kind::RepoUnknown => StatusCode::NOT_FOUND,
            Kind::UploadUnknown | Kind::ContentUnknown => StatusCode::NOT_FOUND,
            Kind::DigestInvalid | Kind::ManifestInvalid | Kind::NameInvalid => StatusCode::BAD_REQUEST,
            Kind::SizeInvalid | Kind::UploadInvalid => StatusCode::BAD_REQUEST,
            Kind::Denied => StatusCode::FORBIDDEN,
            Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
            Kind::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Kind::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A refusal that no door has worded yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub kind: Kind,
    pub status: StatusCode,
    /// Seconds after which the client may ask again.
    pub retry_after: Option<u64>,
}

impl Refusal {
    pub fn with_status(self, status: StatusCode) -> Refusal {
        Refusal { status, ..self }
    }

    fn after(self, seconds: u64) -> Refusal {
        Refusal { retry_after: Some(seconds), ..self }
    }

    /// An answer that has the status and `Retry-After`.
    pub fn respond(&self) -> Answer {
        let answer = respond(self.status);
        match self.retry_after {
            Some(seconds) => answer.set(RETRY_AFTER, seconds),
            None => answer,
        }
    }

    /// The answer of doors without codes of their own: `errors`, as clients of registries read them.
    pub fn told(&self, why: impl ToString) -> Response {
        self.respond().json(&json!({ "errors": [{ "message": why.to_string() }] }))
    }
}

impl From<Kind> for Refusal {
    fn from(kind: Kind) -> Refusal {
        Refusal { kind, status: kind.status(), retry_after: None }
    }
}

impl From<&AuthError> for Refusal {
    fn from(error: &AuthError) -> Refusal {
        match error {
            AuthError::Unidentified | AuthError::Invalid(_) | AuthError::Jwt(_) | AuthError::Insufficient => {
                Kind::Unauthenticated.into()
            }
            AuthError::Denied(_) | AuthError::Reserved(_) => Kind::Denied.into(),
            AuthError::RepoUnknown(_) => Kind::RepoUnknown.into(),
            AuthError::TooMany(wait) => Refusal::from(Kind::TooManyRequests).after(wait.as_secs()),
            AuthError::Unavailable => Refusal::from(Kind::Unavailable).after(5),
        }
    }
}

impl From<&InvalidName> for Refusal {
    fn from(error: &InvalidName) -> Refusal {
        let kind = match error {
            InvalidName::Repo | InvalidName::Tenant => Kind::NameInvalid,
            InvalidName::Tag => Kind::ManifestInvalid,
            InvalidName::Upload | InvalidName::Batch => Kind::UploadUnknown,
            InvalidName::Digest(_) => Kind::DigestInvalid,
        };
        kind.into()
    }
}

impl From<&Error> for Refusal {
    fn from(error: &Error) -> Refusal {
        let (kind, status) = match error {
            Error::BlobUnknown(_) => (Kind::BlobUnknown, None),
            Error::ManifestUnknown(_) => (Kind::ManifestUnknown, None),
            Error::RepoUnknown(_) => (Kind::RepoUnknown, None),
            Error::UploadUnknown => (Kind::UploadUnknown, None),
            Error::DigestMismatch { .. } => (Kind::DigestInvalid, None),
            Error::OffsetMismatch { .. } => (Kind::UploadInvalid, Some(StatusCode::RANGE_NOT_SATISFIABLE)),
            Error::TooManyParts { .. } => (Kind::UploadInvalid, None),
            Error::ManifestInvalid(_) => (Kind::ManifestInvalid, None),
            Error::ManifestBlobUnknown(_) => (Kind::ContentUnknown, None),
            Error::Referenced { .. } => (Kind::Unsupported, None),
            Error::Body(BodyError::TooLarge { .. }) => (Kind::SizeInvalid, Some(StatusCode::PAYLOAD_TOO_LARGE)),
            Error::Body(BodyError::Cut) => (Kind::SizeInvalid, None),
            Error::Body(BodyError::Idle) => (Kind::SizeInvalid, Some(StatusCode::REQUEST_TIMEOUT)),
            Error::Busy => return Refusal::from(Kind::Unavailable).after(1),
            Error::LeftBehind { .. } | Error::FormatTooOld { .. } => return Refusal::from(Kind::Unavailable).after(60),
            Error::Full | Error::Short { .. } => (Kind::Denied, Some(StatusCode::INSUFFICIENT_STORAGE)),
            Error::OverQuota { .. } => (Kind::Denied, None),
            Error::Internal(_) => (Kind::Failed, None),
        };
        let refusal = Refusal::from(kind);
        status.map_or(refusal, |status| refusal.with_status(status))
    }
}
