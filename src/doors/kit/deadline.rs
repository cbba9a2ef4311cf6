//! The one place where a door gives a request its deadline.

use std::time::Duration;

pub use crate::deadline::{Deadline, LONG, SHORT};

/// Answers a request that waits for a busy store for at most `span` in all. The handler is given the deadline to hand
/// on.
///
/// No `async fn`: that would hold the request twice, as its argument and in the scope, and all of it is copied.
pub fn within<F: Future>(span: Duration, handler: impl FnOnce(Deadline) -> F) -> impl Future<Output = F::Output> {
    crate::deadline::within(span, handler(Deadline::within(span)))
}
