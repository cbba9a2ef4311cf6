//! One log line and the metrics of each request, written when the last byte is sent or the client has left.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::{Method, Uri};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::doors::kit::logged;
use crate::doors::kit::origin::{Peer, trace_id};
use crate::metrics::Metrics;
use crate::trace::{Answered, RequestSpan};

/// Has `answer` answer a request, and observes it. `answer` also returns the label of the route.
pub async fn observe<F>(metrics: Arc<Metrics>, request: Request, answer: impl FnOnce(Request) -> F) -> Response
where
    F: Future<Output = (&'static str, Response)>,
{
    let received = Arc::new(AtomicU64::new(0));
    metrics.requests_in_flight.inc();
    let mut line = Line {
        metrics,
        began: Instant::now(),
        span: span(&request),
        method: request.method().clone(),
        uri: request.uri().clone(),
        trace: trace_id(request.headers()),
        received: received.clone(),
        sent: 0,
        status: 0,
        label: "none",
        complete: false,
    };
    let request = request.map(|body| {
        Body::new(body.map_frame(move |frame| {
            if let Some(bytes) = frame.data_ref() {
                received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
            frame
        }))
    });
    let answering = line.span.within(answer(request));
    let (label, response) = answering.await;
    let answered = line.began.elapsed();
    (line.status, line.label) = (response.status().as_u16(), label);
    line.metrics.answer_seconds.with_label_values(&[label, line.known_method()]).observe(answered.as_secs_f64());
    // An answer without a body is not polled; it is complete already.
    line.complete = response.body().is_end_stream();
    response.map(|body| Body::new(Observed { body, line }))
}

/// The span of a request.
fn span(request: &Request) -> RequestSpan {
    let secure = request.extensions().get::<Arc<Peer>>().is_some_and(|peer| peer.secure);
    RequestSpan::begin(known_method(request.method()).unwrap_or("_OTHER"), secure, |name| {
        let values = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.collect::<Vec<_>>().join(",")
    })
}

/// The method as a label; nothing for an unknown one: clients can invent any number of them.
fn known_method(method: &Method) -> Option<&'static str> {
    let known = match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => return None,
    };
    Some(known)
}

/// The log line of a request. Written when dropped: at the end of its answer, or when its client leaves.
struct Line {
    metrics: Arc<Metrics>,
    began: Instant,
    span: RequestSpan,
    method: Method,
    uri: Uri,
    trace: Option<String>,
    received: Arc<AtomicU64>,
    sent: u64,
    status: u16,
    label: &'static str,
    complete: bool,
}

impl Line {
    fn known_method(&self) -> &'static str {
        known_method(&self.method).unwrap_or("other")
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let (took, received) = (self.began.elapsed(), self.received.load(Ordering::Relaxed));
        self.metrics.requests_in_flight.dec();
        self.metrics.received_bytes.inc_by(received);
        self.metrics.sent_bytes.inc_by(self.sent);
        let method = self.known_method();
        let mut digits = [0; 3];
        let labels = [self.label, method, status_text(self.status, &mut digits)];
        self.metrics.requests.with_label_values(&labels).inc();
        self.metrics.request_seconds.with_label_values(&[self.label, method]).observe(took.as_secs_f64());
        let path = logged::path(&self.uri);
        tracing::debug!(
            target: "larder::request",
            method = logged::method(&self.method),
            path = &*path,
            status = self.status,
            bytes_in = received,
            bytes_out = self.sent,
            micros = took.as_micros() as u64,
            trace = self.trace.as_deref(),
            complete = self.complete,
            "request"
        );
        self.span.end(Answered {
            path: &path,
            route: self.label,
            status: self.status,
            received,
            sent: self.sent,
            complete: self.complete,
        });
    }
}

fn status_text(status: u16, digits: &mut [u8; 3]) -> &str {
    let status = status.min(999);
    *digits = [b'0' + (status / 100) as u8, b'0' + (status / 10 % 10) as u8, b'0' + (status % 10) as u8];
    std::str::from_utf8(digits).unwrap_or("000")
}

/// A response body that counts its sent bytes.
struct Observed {
    body: Body,
    line: Line,
}

impl HttpBody for Observed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let _current = self.line.span.enter();
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.line.sent += frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
                // A body of known length is not polled again after its last byte.
                self.line.complete = self.body.is_end_stream() || self.body.size_hint().exact() == Some(0);
            }
            Poll::Ready(None) => self.line.complete = true,
            Poll::Ready(Some(Err(error))) => {
                tracing::warn!(path = &*logged::path(&self.line.uri), %error, "answer was cut");
                self.line.span.fail(error);
            }
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
