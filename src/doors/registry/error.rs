//! Refusals as clients of the registry receive them.
//!
//! A refusal has a kind and a status already ([`crate::doors::kit::refusal`]); here it becomes a code of the
//! distribution spec ("Error Codes") and a message that helps a reader of a build log.

use axum::response::Response;
use http::header::{ALLOW, CONTENT_RANGE, HeaderName};
use http::{HeaderValue, StatusCode};
use serde_json::json;

use crate::auth::AuthError;
use crate::doors::kit::refusal::{Refusal, RefusalKind};
use crate::error::Error;
use crate::names::InvalidName;

/// The code of the distribution spec, which has none for a failing server; `distribution` uses the last two.
fn code(kind: RefusalKind) -> &'static str {
    match kind {
        RefusalKind::BlobUnknown => "BLOB_UNKNOWN",
        RefusalKind::UploadInvalid => "BLOB_UPLOAD_INVALID",
        RefusalKind::UploadUnknown => "BLOB_UPLOAD_UNKNOWN",
        RefusalKind::DigestInvalid => "DIGEST_INVALID",
        RefusalKind::ContentUnknown => "MANIFEST_BLOB_UNKNOWN",
        RefusalKind::ManifestInvalid => "MANIFEST_INVALID",
        RefusalKind::ManifestUnknown => "MANIFEST_UNKNOWN",
        RefusalKind::NameInvalid => "NAME_INVALID",
        RefusalKind::RepoUnknown => "NAME_UNKNOWN",
        RefusalKind::SizeInvalid => "SIZE_INVALID",
        RefusalKind::Denied => "DENIED",
        RefusalKind::Unauthenticated => "UNAUTHORIZED",
        RefusalKind::TooManyRequests => "TOOMANYREQUESTS",
        RefusalKind::Unsupported => "UNSUPPORTED",
        RefusalKind::Unavailable => "UNAVAILABLE",
        RefusalKind::Failed => "UNKNOWN",
    }
}

/// Maximum number of digests in one refusal.
const NAMED_MAX: usize = 16;

/// A refusal with a code of the distribution spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OciError {
    refusal: Refusal,
    message: String,
    detail: Option<serde_json::Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl OciError {
    /// A refusal that tells only its kind.
    pub fn new(kind: RefusalKind) -> OciError {
        OciError::of(kind, code(kind).to_lowercase().replace('_', " "))
    }

    fn of(refusal: impl Into<Refusal>, message: impl ToString) -> OciError {
        OciError { refusal: refusal.into(), message: message.to_string(), detail: None, headers: Vec::new() }
    }

    pub fn because(mut self, message: impl Into<String>) -> OciError {
        self.message = message.into();
        self
    }

    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> OciError {
        self.headers.push((name, value));
        self
    }

    fn with_status(self, status: StatusCode) -> OciError {
        OciError { refusal: self.refusal.with_status(status), ..self }
    }

    /// A refusal for a path without an endpoint.
    pub fn not_found() -> OciError {
        OciError::of(RefusalKind::RepoUnknown, "no such endpoint")
    }

    pub fn method_not_allowed(allow: &'static str) -> OciError {
        OciError::of(RefusalKind::Unsupported, "method is not supported here")
            .with(ALLOW, HeaderValue::from_static(allow))
    }

    pub fn bad_request(message: &str) -> OciError {
        OciError::of(RefusalKind::Unsupported, message).with_status(StatusCode::BAD_REQUEST)
    }

    pub fn range_not_satisfiable(size: u64) -> OciError {
        let message = format!("range lies outside the blob, which has {size} bytes");
        let error = OciError::of(RefusalKind::SizeInvalid, message).with_status(StatusCode::RANGE_NOT_SATISFIABLE);
        match HeaderValue::from_str(&format!("bytes */{size}")) {
            Ok(range) => error.with(CONTENT_RANGE, range),
            Err(_) => error,
        }
    }

    pub fn status(&self) -> StatusCode {
        self.refusal.status
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn into_response(self) -> Response {
        let mut entry = json!({ "code": code(self.refusal.kind), "message": self.message });
        if let Some(detail) = self.detail {
            entry["detail"] = detail;
        }
        let mut response = self.refusal.respond().json(&json!({ "errors": [entry] }));
        response.headers_mut().extend(self.headers);
        response
    }
}

impl From<AuthError> for OciError {
    fn from(error: AuthError) -> OciError {
        OciError::of(&error, &error)
    }
}

impl From<InvalidName> for OciError {
    fn from(error: InvalidName) -> OciError {
        OciError::of(&error, error)
    }
}

impl From<Error> for OciError {
    fn from(error: Error) -> OciError {
        let told = OciError::of(&error, &error);
        let (message, detail) = match &error {
            Error::BlobUnknown(digest) => (told.message, json!({ "digest": digest.to_string() })),
            Error::ManifestBlobUnknown(digests) => {
                let named: Vec<String> = digests.iter().take(NAMED_MAX).map(ToString::to_string).collect();
                let more = if digests.len() > NAMED_MAX { ", and more" } else { "" };
                let message = format!("manifest references missing content: {}{more}", named.join(", "));
                (message, json!({ "digests": named }))
            }
            Error::OverQuota { tenant, stored, max, size, next } => {
                let mut numbers = json!({ "tenant": &**tenant, "stored": stored, "max": max, "size": size });
                if let Some(next) = next {
                    numbers["next_eviction"] = json!(next);
                }
                (told.message, numbers)
            }
            _ => return told,
        };
        OciError { message, detail: Some(detail), ..told }
    }
}
