//! Bodies: those of requests, bounded in time, and content of answers.

use std::net::IpAddr;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use http_body_util::BodyExt;
use hyper::body::Body as HttpBody;
use tokio::time::Instant;

use crate::content::read::Outgoing;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::names::Tenant;
use crate::stream::{BodyError, Incoming, Portion, Portions};
use crate::turns::{Class, Turn, Turns};

/// The body of a request as the store takes it. A pause longer than `idle` ends it.
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

/// Memory for bodies that are read whole before use: manifests, and forms of unauthenticated clients. They wait for it
/// unread.
#[derive(Clone)]
pub struct Collecting {
    memory: Turns<Tenant>,
    forms: Turns<Option<IpAddr>>,
}

/// Maximum sum of all forms in memory, in bytes.
const FORMS_BYTES: u64 = 8 << 20;

/// Maximum sum of all collected bodies, in bytes, and the minimum number of largest ones that fit.
const COLLECTED_BYTES: u64 = 48 << 20;
const COLLECTED_MIN: u64 = 4;
/// Longest time for a body that is read whole.
const COLLECT_TIME: Duration = Duration::from_secs(120);
/// Pause after which a body is cut off if another one waits for memory.
const COLLECT_PAUSE: Duration = Duration::from_secs(3);

/// A whole body, with its claim on memory.
pub struct Collected {
    pub bytes: Bytes,
    _memory: Turn<Tenant>,
}

impl Collecting {
    /// Memory for bodies of at most `limit` bytes.
    pub fn new(limit: u64) -> Collecting {
        let bytes = COLLECTED_BYTES.max(limit.saturating_mul(COLLECTED_MIN));
        Collecting { memory: Turns::new(bytes, bytes / 2), forms: Turns::new(FORMS_BYTES, 0) }
    }

    /// Reads a whole form of at most `limit` bytes from this address within `span`; `size` is its announced length, if
    /// any.
    pub async fn form(
        &self,
        from: Option<IpAddr>,
        size: Option<u64>,
        body: Body,
        limit: usize,
        span: Duration,
    ) -> Result<Bytes, BodyError> {
        let longest = limit as u64;
        let reading = async {
            let _memory = self.forms.take(Class::First, from, size.unwrap_or(longest).min(longest)).await;
            axum::body::to_bytes(body, limit).await.map_err(|_| BodyError::Cut)
        };
        tokio::time::timeout(span, reading).await.unwrap_or(Err(BodyError::Idle))
    }

    /// Reads a whole body of at most `limit` bytes; `size` is its announced length, if any. Waits for memory until
    /// `deadline`, and keeps it until the body is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Body`] if it is too long, breaks off, or is not complete in time; [`Error::Busy`] if there was no
    /// memory.
    pub async fn collect(
        &self,
        tenant: &Tenant,
        size: Option<u64>,
        body: Incoming,
        limit: usize,
        deadline: Deadline,
    ) -> Result<Collected, Error> {
        let longest = limit as u64;
        if size.is_some_and(|size| size > longest) {
            return Err(Error::Body(BodyError::TooLarge { limit: longest }));
        }
        // Without an announced length the body may be as long as allowed.
        let taking = self.memory.take(Class::of(tenant), tenant.clone(), size.unwrap_or(longest));
        let memory = deadline.bound(taking.map(Ok)).await?;
        let (mut body, mut whole) = (Portions::new(body), Portion::default());
        let ends = Instant::now() + COLLECT_TIME;
        while whole.length <= limit && !whole.last && whole.failed.is_none() {
            let before = whole.length;
            body.fill_within(&mut whole, limit.saturating_add(1), COLLECT_PAUSE).await;
            let pauses = whole.length == before && !whole.last && memory.is_awaited();
            if pauses || Instant::now() >= ends {
                whole.failed.get_or_insert(BodyError::Idle);
            }
        }
        match whole.failed.take() {
            Some(error) => Err(Error::Body(error)),
            None if whole.length > limit => Err(Error::Body(BodyError::TooLarge { limit: longest })),
            None => Ok(Collected { bytes: whole.join(), _memory: memory }),
        }
    }
}

/// Content as the body of an answer.
pub fn outgoing(content: Outgoing) -> Body {
    match content {
        Outgoing::Whole(bytes) => Body::from(bytes),
        Outgoing::Stream(bytes) => Body::from_stream(bytes),
    }
}

/// The unread rest of a body. When dropped, it is read on for a short time: a connection that is closed with unread
/// bytes is reset, and a client that is still sending would see the reset instead of the refusal. Clients stop when
/// they see the refusal.
struct Unread(Option<Body>);

/// Limits of this reading: bytes and time.
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
