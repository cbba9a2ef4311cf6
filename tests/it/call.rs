//! Requests and answers, as short as tests want them.

use std::future::IntoFuture;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use larder::doors::kit::origin::Peer;
use serde_json::Value;

use crate::world::World;

/// A request to a server in this process. Awaited, it is sent.
pub struct Call<'w> {
    world: &'w World,
    request: http::request::Builder,
    body: Body,
}

impl<'w> Call<'w> {
    pub fn new(world: &'w World, method: &str, uri: String) -> Call<'w> {
        Call { world, request: http::Request::builder().method(method).uri(uri), body: Body::empty() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Call<'w> {
        self.request = self.request.header(name, value);
        self
    }

    /// Lets the request come over a connection from this address.
    pub fn from(mut self, address: &str) -> Call<'w> {
        let peer = Peer { address: Some(address.parse().unwrap()), ..Peer::default() };
        self.request = self.request.extension(Arc::new(peer));
        self
    }

    /// A body, with the length that any client tells.
    pub fn body(self, bytes: impl Into<Bytes>) -> Call<'w> {
        let bytes = bytes.into();
        let mut call = self.header("content-length", &bytes.len().to_string());
        call.body = Body::from(bytes);
        call
    }

    /// Sets a body that arrives in its own pieces. `length`: its announced length, in bytes.
    pub fn incoming(mut self, body: Body, length: Option<usize>) -> Call<'w> {
        if let Some(length) = length {
            self = self.header("content-length", &length.to_string());
        }
        self.body = body;
        self
    }

    /// A body of untold length, as `Transfer-Encoding: chunked` makes it.
    pub fn stream(mut self, bytes: impl Into<Bytes>) -> Call<'w> {
        self.body = Body::from(bytes.into());
        self
    }
}

impl<'w> IntoFuture for Call<'w> {
    type Output = Answer;
    type IntoFuture = BoxFuture<'w, Answer>;

    fn into_future(self) -> BoxFuture<'w, Answer> {
        let request = self.request.body(self.body).unwrap();
        self.world.send(request).boxed()
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub async fn of(response: http::Response<Body>) -> Answer {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("the body was cut").to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// An answer over TCP; an error if the body was cut.
    pub async fn over_tcp(response: reqwest::Response) -> reqwest::Result<Answer> {
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await? })
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status.as_u16(), status, "{:?} {}", self.headers, String::from_utf8_lossy(&self.body));
        self
    }

    /// The one value of a header.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let values: Vec<_> = self.headers.get_all(name).iter().collect();
        assert_eq!(values.len(), 1, "{name} in {:?}", self.headers);
        values[0].to_str().unwrap()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// The code of the one error in the body.
    #[track_caller]
    pub fn code(&self) -> String {
        let body = self.json();
        assert_eq!(body["errors"].as_array().map(Vec::len), Some(1), "{body}");
        body["errors"][0]["code"].as_str().unwrap().to_string()
    }

    /// The full text of a refusal.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
