//! Requests that write, as tasks of their own.

use futures::FutureExt;

use crate::trace;

/// Starts a request that writes, and runs it to its end. A client that goes away takes the future of its request with
/// it; what it had begun to write is finished or undone all the same. The answer is nothing when the task failed.
///
/// No `async fn`: the future of whoever waits would hold all of the request.
pub fn carried_through<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = Option<T>> {
    tokio::spawn(trace::carried(work)).map(|done| match done {
        Ok(done) => Some(done),
        Err(error) => {
            tracing::error!(%error, "request failed");
            None
        }
    })
}
