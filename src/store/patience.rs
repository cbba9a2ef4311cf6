//! How long a request waits for a store that is busy.
//!
//! Builders do not ask again for manifests and configs, and a cache whose manifest fails once is lost for the build: such
//! requests are delayed rather than refused. They do ask again for layers. The patience is one for the whole request,
//! however many calls it makes. Only the time in which a client waits for us is counted: a body takes as long as it takes to
//! come and to be written, and patience begins anew behind it.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::objects::{Error, Result};

/// For what builders do not retry. Below the usual 60 s of proxies.
pub const LONG: Duration = Duration::from_secs(45);
/// For what they retry by themselves, after 1, 2 and 4 s.
pub const SHORT: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(250);

tokio::task_local! {
    static PATIENCE: Patience;
}

struct Patience {
    full: Duration,
    deadline: Cell<Instant>,
}

/// Runs a request that may wait for so long in all; part of one, not longer than the whole may.
///
/// No `async fn`: that would hold the request twice, as its argument and in the scope, and all of it is copied.
pub fn within<F: Future>(patience: Duration, request: F) -> impl Future<Output = F::Output> {
    let own = Instant::now() + patience;
    let deadline = PATIENCE.try_with(|whole| own.min(whole.deadline.get())).unwrap_or(own);
    PATIENCE.scope(Patience { full: patience, deadline: Cell::new(deadline) }, request)
}

/// To be called when the request has waited for something else than a busy store, which may have taken for ever: its
/// client, a place, or the writing of a body, which has bounds of its own. What follows has the whole patience.
pub(super) fn anew() {
    // Outside of a request, every call has a patience of its own.
    let _ = PATIENCE.try_with(|patience| patience.deadline.set(Instant::now() + patience.full));
}

fn deadline() -> Instant {
    PATIENCE.try_with(|patience| patience.deadline.get()).unwrap_or_else(|_| Instant::now() + LONG)
}

/// Asks a busy store again until the patience of the request has run out, and does not wait for an answer any longer.
pub(super) async fn patiently<T, F>(mut call: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let deadline = deadline();
    loop {
        match timeout_at(deadline, call()).await {
            Ok(Err(Error::Busy(_))) if Instant::now() + STEP < deadline => tokio::time::sleep(STEP).await,
            Ok(done) => return done,
            Err(_) => return Err(Error::Busy("no answer in time".into())),
        }
    }
}

/// Waits for work that is shared with other requests, and has a patience of its own.
pub(super) async fn in_time<T>(work: impl Future<Output = super::Result<T>>) -> super::Result<T> {
    timeout_at(deadline(), work).await.unwrap_or(Err(super::Error::Busy))
}

/// As [`in_time`]; when time has run out, `late` is called while `work` is still there.
pub(super) async fn in_time_or<T>(
    work: impl Future<Output = super::Result<T>>,
    late: impl FnOnce(),
) -> super::Result<T> {
    let mut work = pin!(work);
    match timeout_at(deadline(), &mut work).await {
        Ok(done) => done,
        Err(_) => {
            late();
            Err(super::Error::Busy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_busy_store_is_asked_until_the_requests_patience_has_run_out() {
        let began = Instant::now();
        let mut asked = 0;
        let busy = within(SHORT, async {
            for _ in 0..3 {
                let call = || {
                    asked += 1;
                    std::future::ready(Err::<(), _>(Error::Busy("full".into())))
                };
                assert!(patiently(call).await.is_err());
            }
        });
        busy.await;
        assert!(began.elapsed() <= SHORT, "{:?}", began.elapsed());
        assert!(asked > 15, "{asked}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_does_not_answer_is_not_waited_for_any_longer() {
        let began = Instant::now();
        let silent = within(SHORT, patiently(std::future::pending::<Result<()>>));
        assert!(matches!(silent.await, Err(Error::Busy(_))));
        let shared = within(SHORT, in_time(std::future::pending::<crate::store::Result<()>>()));
        assert!(matches!(shared.await, Err(crate::store::Error::Busy)));
        assert_eq!(began.elapsed(), SHORT * 2);
        // A part of a request has no more than the request.
        let part = within(SHORT, async { within(LONG, patiently(std::future::pending::<Result<()>>)).await });
        assert!(part.await.is_err());
        assert_eq!(began.elapsed(), SHORT * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_body_patience_begins_anew() {
        let answered = || async {
            tokio::task::yield_now().await;
            Ok(())
        };
        let slow = within(SHORT, async {
            tokio::time::sleep(LONG).await;
            assert!(matches!(patiently(answered).await, Err(Error::Busy(_))));
            anew();
            patiently(answered).await
        });
        slow.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_that_passes_is_not_seen() {
        let mut left = 10;
        let call = || {
            left -= 1;
            std::future::ready(if left > 0 { Err(Error::Busy("full".into())) } else { Ok(left) })
        };
        assert!(within(LONG, patiently(call)).await.is_ok());
    }
}
