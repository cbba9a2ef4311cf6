//! What clients of the registry are told when something is refused.
//!
//! The house says what happened ([`crate::error::Error`]); here it becomes a status, a code of the distribution spec
//! ("Error Codes") and a message that helps whoever reads it in a build log.

use axum::body::Body;
use axum::response::Response;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::json;

use crate::auth::Refusal;
use crate::error;
use crate::names::InvalidName;
use crate::stream::BodyError;

/// Codes of the distribution spec, and what each means when nothing more is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Denied,
    Unauthorized,
    TooManyRequests,
    Unsupported,
    /// Not in the spec, which has no code for a server in trouble; `distribution` uses this one.
    Unavailable,
    /// As above.
    Unknown,
}

impl Code {
    fn name(self) -> &'static str {
        match self {
            Code::BlobUnknown => "BLOB_UNKNOWN",
            Code::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Code::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Code::DigestInvalid => "DIGEST_INVALID",
            Code::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Code::ManifestInvalid => "MANIFEST_INVALID",
            Code::ManifestUnknown => "MANIFEST_UNKNOWN",
            Code::NameInvalid => "NAME_INVALID",
            Code::NameUnknown => "NAME_UNKNOWN",
            Code::SizeInvalid => "SIZE_INVALID",
            Code::Denied => "DENIED",
            Code::Unauthorized => "UNAUTHORIZED",
            Code::TooManyRequests => "TOOMANYREQUESTS",
            Code::Unsupported => "UNSUPPORTED",
            Code::Unavailable => "UNAVAILABLE",
            Code::Unknown => "UNKNOWN",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Code::BlobUnknown | Code::ManifestUnknown | Code::NameUnknown => StatusCode::NOT_FOUND,
            Code::BlobUploadUnknown | Code::ManifestBlobUnknown => StatusCode::NOT_FOUND,
            Code::BlobUploadInvalid | Code::DigestInvalid | Code::ManifestInvalid => StatusCode::BAD_REQUEST,
            Code::NameInvalid | Code::SizeInvalid => StatusCode::BAD_REQUEST,
            Code::Denied => StatusCode::FORBIDDEN,
            Code::Unauthorized => StatusCode::UNAUTHORIZED,
            Code::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Code::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Digests that one refusal names.
const NAMED_MAX: usize = 16;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OciError {
    status: StatusCode,
    code: Code,
    message: String,
    detail: Option<serde_json::Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl OciError {
    pub fn new(code: Code) -> OciError {
        let message = code.name().to_lowercase().replace('_', " ");
        OciError { status: code.status(), code, message, detail: None, headers: Vec::new() }
    }

    pub fn because(mut self, message: impl Into<String>) -> OciError {
        self.message = message.into();
        self
    }

    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> OciError {
        self.headers.push((name, value));
        self
    }

    fn status(mut self, status: StatusCode) -> OciError {
        self.status = status;
        self
    }

    fn about(mut self, detail: serde_json::Value) -> OciError {
        self.detail = Some(detail);
        self
    }

    /// No such endpoint.
    pub fn not_found() -> OciError {
        OciError::new(Code::NameUnknown).because("no such endpoint")
    }

    pub fn method_not_allowed(allow: &'static str) -> OciError {
        OciError::new(Code::Unsupported)
            .because("method is not supported here")
            .with(ALLOW, HeaderValue::from_static(allow))
    }

    pub fn bad_request(message: &str) -> OciError {
        OciError::new(Code::Unsupported).status(StatusCode::BAD_REQUEST).because(message)
    }

    pub fn range_not_satisfiable(size: u64) -> OciError {
        let header = HeaderValue::from_str(&format!("bytes */{size}"));
        let error = OciError::new(Code::SizeInvalid).status(StatusCode::RANGE_NOT_SATISFIABLE);
        let error = error.because(format!("range lies outside the blob, which has {size} bytes"));
        match header {
            Ok(header) => error.with(http::header::CONTENT_RANGE, header),
            Err(_) => error,
        }
    }

    pub fn status_code(&self) -> u16 {
        self.status.as_u16()
    }

    pub fn into_response(self) -> Response {
        let mut entry = json!({ "code": self.code.name(), "message": self.message });
        if let Some(detail) = self.detail {
            entry["detail"] = detail;
        }
        let mut response = Response::new(Body::from(json!({ "errors": [entry] }).to_string()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().extend(self.headers);
        response
    }
}

impl From<Refusal> for OciError {
    fn from(refusal: Refusal) -> OciError {
        let error = match &refusal {
            Refusal::Unidentified | Refusal::Invalid(_) | Refusal::Jwt(_) | Refusal::Insufficient => {
                OciError::new(Code::Unauthorized)
            }
            Refusal::Denied(_) => OciError::new(Code::Denied),
            Refusal::TooMany(wait) => {
                OciError::new(Code::TooManyRequests).with(RETRY_AFTER, HeaderValue::from(wait.as_secs()))
            }
            Refusal::Unavailable => OciError::new(Code::Unavailable).with(RETRY_AFTER, HeaderValue::from_static("5")),
        };
        error.because(refusal.to_string())
    }
}

impl From<InvalidName> for OciError {
    fn from(error: InvalidName) -> OciError {
        let code = match error {
            InvalidName::Repo | InvalidName::Tenant => Code::NameInvalid,
            InvalidName::Tag => Code::ManifestInvalid,
            InvalidName::Upload | InvalidName::Batch => Code::BlobUploadUnknown,
            InvalidName::Digest(_) => Code::DigestInvalid,
        };
        OciError::new(code).because(error.to_string())
    }
}

impl From<error::Error> for OciError {
    fn from(error: error::Error) -> OciError {
        use error::Error as E;
        let message = error.to_string();
        let refused = match error {
            E::BlobUnknown(digest) => OciError::new(Code::BlobUnknown).about(json!({ "digest": digest.to_string() })),
            E::ManifestUnknown(_) => OciError::new(Code::ManifestUnknown),
            E::RepoUnknown(_) => OciError::new(Code::NameUnknown),
            E::UploadUnknown => OciError::new(Code::BlobUploadUnknown),
            E::DigestMismatch { .. } => OciError::new(Code::DigestInvalid),
            E::OffsetMismatch { .. } => {
                OciError::new(Code::BlobUploadInvalid).status(StatusCode::RANGE_NOT_SATISFIABLE)
            }
            E::TooManyParts { .. } => OciError::new(Code::BlobUploadInvalid),
            E::ManifestInvalid(_) => OciError::new(Code::ManifestInvalid),
            E::ManifestBlobUnknown(digests) => {
                let named: Vec<String> = digests.iter().take(NAMED_MAX).map(ToString::to_string).collect();
                let more = if digests.len() > NAMED_MAX { ", and more" } else { "" };
                let message = format!("manifest names content that is not here: {}{more}", named.join(", "));
                return OciError::new(Code::ManifestBlobUnknown).because(message).about(json!({ "digests": named }));
            }
            E::Referenced { .. } => OciError::new(Code::Unsupported),
            E::Body(BodyError::TooLarge { .. }) => {
                OciError::new(Code::SizeInvalid).status(StatusCode::PAYLOAD_TOO_LARGE)
            }
            E::Body(BodyError::Cut) => OciError::new(Code::SizeInvalid),
            E::Body(BodyError::Idle) => OciError::new(Code::SizeInvalid).status(StatusCode::REQUEST_TIMEOUT),
            E::Busy => OciError::new(Code::Unavailable).with(RETRY_AFTER, HeaderValue::from_static("1")),
            E::LeftBehind { .. } | E::FormatTooOld { .. } => {
                OciError::new(Code::Unavailable).with(RETRY_AFTER, HeaderValue::from_static("60"))
            }
            E::Full | E::Short { .. } => OciError::new(Code::Denied).status(StatusCode::INSUFFICIENT_STORAGE),
            E::OverQuota { tenant, stored, max, size } => {
                let numbers = json!({ "tenant": &*tenant, "stored": stored, "max": max, "size": size });
                OciError::new(Code::Denied).about(numbers)
            }
            E::Internal(_) => OciError::new(Code::Unknown),
        };
        refused.because(message)
    }
}
