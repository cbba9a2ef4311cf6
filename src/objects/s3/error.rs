//! Meaning of the answers of S3.
//!
//! Overload, time-outs and failed connections are [`Error::Busy`]: the SDK has retried for a while by then, and the
//! same call may succeed later. Faults that only an operator can repair are [`Error::Backend`], with a hint what to do.

use std::error::Error as StdError;
use std::fmt::Display;
use std::io;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::status;
use crate::objects::Error;

/// Longest chain of causes that a text of an error has.
const CAUSES_MAX: usize = 8;

/// A failed call to the bucket: the error for callers, and the endpoint's code, which decides what is done next.
#[derive(Clone, Debug)]
pub(super) struct S3Error {
    pub meaning: Error,
    pub status: Option<u16>,
    pub code: Option<Box<str>>,
}

impl S3Error {
    /// Whether the endpoint does not know the upload: aborted, or completed already.
    pub fn is_gone(&self) -> bool {
        self.has_code("NoSuchUpload")
    }

    /// Whether the endpoint does not support the call.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.meaning, Error::Backend(_)) && (self.status == Some(501) || self.has_code("NotImplemented"))
    }

    /// Whether the endpoint's code is `code`.
    pub fn has_code(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }
}

impl From<Error> for S3Error {
    fn from(meaning: Error) -> S3Error {
        S3Error { meaning, status: None, code: None }
    }
}

impl From<S3Error> for Error {
    fn from(error: S3Error) -> Error {
        error.meaning
    }
}

/// An error that may be temporary.
pub(super) trait PassingError {
    /// Whether the same call may succeed later.
    fn passes(&self) -> bool;
}

impl PassingError for Error {
    fn passes(&self) -> bool {
        matches!(self, Error::Busy(_))
    }
}

impl PassingError for S3Error {
    /// A call of an upload that was aborted never succeeds: the whole upload has to begin anew.
    fn passes(&self) -> bool {
        self.meaning.passes() && !self.is_gone()
    }
}

/// Converts the error of `call` on `key`.
pub(super) fn from_sdk<E>(call: &str, key: impl Display, error: SdkError<E>) -> S3Error
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let (code, status) = (code_of(&error).or(error.code()), status(&error));
    let meaning = meaning(call, key, &error, code, status);
    S3Error { meaning, status, code: code.map(Box::from) }
}

fn meaning<E>(call: &str, key: impl Display, error: &SdkError<E>, code: Option<&str>, status: Option<u16>) -> Error
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    let text = || {
        let mut text = format!("{call} {key}: ");
        match (status, code.or(error.message())) {
            (Some(status), Some(_)) => {
                let said = [code, error.message()].into_iter().flatten().collect::<Vec<_>>().join(": ");
                text.push_str(&format!("{status} {said}"));
            }
            (Some(status), None) => text.push_str(&format!("{status}")),
            (None, _) => text.push_str(&in_words(error).map_or_else(|| causes(error), str::to_string)),
        }
        if let Some(hint) = hint(status, code) {
            text.push_str(&format!(" ({hint})"));
        }
        text.into()
    };
    match error {
        SdkError::ServiceError(_) | SdkError::ResponseError(_) => match (status, code) {
            // The bucket is gone, or out of reach behind a proxy that answers for it: nothing is known of the object,
            // and it may come back.
            (_, Some("NoSuchBucket")) => Error::Busy(text()),
            // The upload was aborted: the next attempt begins another.
            (_, Some("NoSuchUpload")) => Error::Busy(text()),
            (Some(404), _) => Error::NotFound,
            (Some(412), _) | (Some(409), Some("ConditionalRequestConflict")) => Error::Exists,
            (Some(507), _) | (_, Some("QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage")) => Error::Full,
            // Bytes that were damaged in transit.
            (_, Some("BadDigest" | "XAmzContentChecksumMismatch" | "XAmzContentSHA256Mismatch")) => Error::Busy(text()),
            (_, Some("RequestTimeout" | "IncompleteBody")) => Error::Busy(text()),
            (Some(501), _) => Error::Backend(text()),
            (Some(409 | 429 | 500..), _) => Error::Busy(text()),
            // A proxy's answer, or half of one.
            (Some(200..300), _) | (None, _) => Error::Busy(text()),
            _ => Error::Backend(text()),
        },
        SdkError::TimeoutError(_) => Error::Busy(text()),
        SdkError::DispatchFailure(failure) if !failure.is_user() => Error::Busy(text()),
        _ => Error::Backend(text()),
    }
}

/// The error code of an answer to a HEAD, which has no body. MinIO sends one in a header; with other endpoints only
/// another call can tell a missing bucket from a missing object.
fn code_of<E>(error: &SdkError<E>) -> Option<&str> {
    error.raw_response()?.headers().get("x-minio-error-code")
}

/// Advice for the operator.
fn hint(status: Option<u16>, code: Option<&str>) -> Option<&'static str> {
    Some(match (status, code?) {
        (_, "NoSuchBucket") => "create the bucket, or correct [store.s3] bucket, region or endpoint",
        (_, "RequestTimeTooSkewed") => "the clock of this host is wrong",
        (_, "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken" | "NotSignedUp") => {
            "the endpoint does not accept these credentials"
        }
        (_, "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException") => {
            "the bucket is in another region: set [store.s3] region"
        }
        (Some(403), _) => {
            "the credentials need s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload on the objects and \
             s3:ListBucket on the bucket"
        }
        _ => return None,
    })
}

/// What has kept a call from being sent, where that is a usual case: the SDK's own texts name its types.
fn in_words(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    fn source<'e>(error: &&'e (dyn StdError + 'static)) -> Option<&'e (dyn StdError + 'static)> {
        (*error).source()
    }
    let mut causes = std::iter::successors(Some(error), source).take(CAUSES_MAX);
    causes.find_map(|cause| {
        if let Some(CredentialsError::CredentialsNotLoaded(_)) = cause.downcast_ref() {
            return Some(
                "no credentials: set [store.s3] access_key_id and secret_access_key, or AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY, or give the host a role",
            );
        }
        match cause.downcast_ref::<io::Error>()?.kind() {
            io::ErrorKind::ConnectionRefused => {
                Some("the connection was refused: nothing listens there (correct [store.s3] endpoint)")
            }
            _ => None,
        }
    })
}

/// An error with its causes, in one line. The SDK's own texts say next to nothing.
pub(super) fn causes(error: &dyn StdError) -> String {
    let mut said = Vec::<String>::new();
    let mut next = Some(error);
    while let Some(cause) = next.filter(|_| said.len() < CAUSES_MAX) {
        let text = cause.to_string();
        if said.last().is_none_or(|last| !last.contains(&text)) {
            said.push(text);
        }
        next = cause.source();
    }
    said.join(": ")
}
