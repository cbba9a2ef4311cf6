//! Bodies: those of requests, bounded in time, and content on its way out.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use hyper::body::Body as HttpBody;

use crate::content::read::Outgoing;
use crate::stream::{BodyError, Incoming};

/// The body of a request as the house takes it. A pause longer than `idle` ends it.
pub fn incoming(body: Body, idle: Duration) -> Incoming {
    stream::unfold(Unread(Some(body)), move |mut unread| async move {
        let body = unread.0.as_mut()?;
        let end = match tokio::time::timeout(idle, body.into_data_stream().next()).await {
            Ok(Some(Ok(piece))) => return Some((Ok(piece), unread)),
            Ok(Some(Err(_))) => Some(BodyError::Cut),
            Ok(None) => None,
            Err(_) => Some(BodyError::Idle),
        };
        unread.0 = None;
        Some((Err(end?), unread))
    })
    .boxed()
}

/// The whole of a short body: at most `limit` bytes, which come within `span`.
pub async fn collected(body: Body, limit: usize, span: Duration) -> Result<Bytes, BodyError> {
    match tokio::time::timeout(span, axum::body::to_bytes(body, limit)).await {
        Ok(read) => read.map_err(|_| BodyError::Cut),
        Err(_) => Err(BodyError::Idle),
    }
}

/// Content as the body of an answer.
pub fn outgoing(content: Outgoing) -> Body {
    match content {
        Outgoing::Whole(bytes) => Body::from(bytes),
        Outgoing::Stream(bytes) => Body::from_stream(bytes),
    }
}

/// What nobody has read yet of a body. Dropped, it is read on for a little while: a connection that is closed with
/// unread bytes is reset, and a client that is still sending would see that instead of why it was refused. Clients stop
/// when they see it.
struct Unread(Option<Body>);

/// How much is read for nobody, and how long.
const LINGER_BYTES: usize = 16 << 20;
const LINGER: Duration = Duration::from_secs(5);

impl Drop for Unread {
    fn drop(&mut self) {
        let Some(mut body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        let linger = async move {
            let mut read = 0;
            while let Some(Ok(frame)) = body.frame().await
                && read < LINGER_BYTES
            {
                read += frame.data_ref().map_or(0, bytes::Bytes::len);
            }
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(LINGER, linger));
        }
    }
}
