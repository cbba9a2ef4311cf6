//! Responses under construction, and their form for a `HEAD`.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName};
use http::{HeaderValue, StatusCode};
use hyper::body::Body as HttpBody;

use crate::doors::kit::etag::EntityTag;

/// The media type of raw bytes: the type of content that a browser would run must not be guessed from them.
pub const OCTETS: &str = "application/octet-stream";

/// A header as text; nothing if it is absent, or not text.
pub fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// An answer without headers and body.
pub fn respond(status: StatusCode) -> Answer {
    Answer { response: Response::new(Body::empty()), status }
}

/// A response under construction. All values come from parsed names and numbers, so each is a valid header.
///
/// Most values are digests: their text is made once, and constants are not copied.
pub struct Answer {
    response: Response,
    status: StatusCode,
}

impl Answer {
    pub fn set<V>(mut self, name: HeaderName, value: V) -> Answer
    where
        HeaderValue: TryFrom<V>,
    {
        match HeaderValue::try_from(value) {
            Ok(value) => drop(self.response.headers_mut().append(name, value)),
            Err(_) => tracing::error!(%name, "header was left out"),
        }
        self
    }

    pub fn set_const(mut self, name: HeaderName, value: &'static str) -> Answer {
        self.response.headers_mut().append(name, HeaderValue::from_static(value));
        self
    }

    /// Sets the entity tag of the content, and the protocol's own header with its digest.
    pub fn entity(self, tag: &EntityTag, digest: HeaderName) -> Answer {
        match (HeaderValue::from_maybe_shared(tag.text()), HeaderValue::from_maybe_shared(tag.digest())) {
            (Ok(tag), Ok(text)) => self.set(ETAG, tag).set(digest, text),
            _ => self,
        }
    }

    /// Sets the headers of `size` raw bytes.
    pub fn octets(self, size: u64) -> Answer {
        self.set_const(CONTENT_TYPE, OCTETS).set(CONTENT_LENGTH, size)
    }

    pub fn body(mut self, body: impl Into<Body>) -> Response {
        *self.response.body_mut() = body.into();
        self.done()
    }

    pub fn json(self, value: &serde_json::Value) -> Response {
        self.set_const(CONTENT_TYPE, "application/json").body(value.to_string())
    }

    pub fn done(mut self) -> Response {
        *self.response.status_mut() = self.status;
        self.response
    }
}

/// The answer to a `HEAD`: that to a `GET` without its body.
pub fn without_body(mut response: Response) -> Response {
    let length = response.body().size_hint().exact();
    if let Some(length) = length.filter(|length| *length > 0)
        && !response.headers().contains_key(CONTENT_LENGTH)
    {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    response.map(|_| Body::empty())
}
