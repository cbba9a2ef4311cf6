//! Write requests as tasks of their own.

use futures::FutureExt;

use crate::trace;

/// Starts a write request, and runs it to its end. A client that disconnects drops the future of its request; the write
/// is completed or undone all the same. The answer is nothing if the task failed.
///
/// No `async fn`: the caller's future would contain all of the request.
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
