//! Deadlines: how long a caller waits for a busy store.
//!
//! Builders do not ask again for manifests and configs, and a cache whose manifest fails once is lost for the build:
//! such requests are delayed rather than refused. Builders do ask again for layers. One deadline holds for the whole
//! request, however many calls it makes. Only the time in which a client waits for the server counts: a body takes as
//! long as it takes to arrive and to be written, and the deadline restarts after it ([`Deadline::restarted`]).

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::error;
use crate::objects::{Error, Result};

/// Deadline of requests that builders do not retry. Below the usual 60 s of proxies.
pub const LONG: Duration = Duration::from_secs(45);
/// Deadline of requests that builders retry by themselves, after 1, 2 and 4 s.
pub const SHORT: Duration = Duration::from_secs(5);
/// Pause between two attempts.
const STEP: Duration = Duration::from_millis(250);

/// The moment until which a caller waits, passed on from call to call.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// The time until the deadline when it restarts.
    span: Duration,
    /// The deadline; absent if each call has the whole time.
    at: Option<Instant>,
}

impl Deadline {
    /// A deadline for a whole request, from now on.
    pub fn within(span: Duration) -> Deadline {
        Deadline { span, at: Some(Instant::now() + span) }
    }

    /// The deadline of work that no client waits for: each call to the store may take [`LONG`].
    pub const fn of_each_call() -> Deadline {
        Deadline { span: LONG, at: None }
    }

    /// The same deadline, counted from now. For a request that has waited for something else than a busy store: its
    /// client, an upload slot, the writing of a body, which have bounds of their own.
    #[must_use]
    pub fn restarted(self) -> Deadline {
        Deadline { at: self.at.map(|_| Instant::now() + self.span), ..self }
    }

    /// A deadline for a part of a request: `span` from now, but no later than that of the whole request.
    #[must_use]
    pub fn at_most(self, span: Duration) -> Deadline {
        let own = Instant::now() + span;
        Deadline { span, at: Some(self.at.map_or(own, |whole| own.min(whole))) }
    }

    fn instant(self) -> Instant {
        self.at.unwrap_or_else(|| Instant::now() + self.span)
    }

    /// Repeats a call while the store is busy, and does not wait for an answer beyond the deadline.
    pub async fn retry<T, F>(self, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let deadline = self.instant();
        loop {
            match timeout_at(deadline, call()).await {
                Ok(Err(Error::Busy(_))) if Instant::now() + STEP < deadline => tokio::time::sleep(STEP).await,
                Ok(done) => return done,
                Err(_) => return Err(Error::Busy("no answer in time".into())),
            }
        }
    }

    /// Waits for work that is shared with other requests, and continues if this one gives up.
    pub async fn bound<T>(self, work: impl Future<Output = error::Result<T>>) -> error::Result<T> {
        timeout_at(self.instant(), work).await.unwrap_or(Err(error::Error::Busy))
    }

    /// As [`Deadline::bound`]; after the deadline, `late` is called before `work` is dropped.
    pub async fn bound_or<T>(
        self,
        work: impl Future<Output = error::Result<T>>,
        late: impl FnOnce(),
    ) -> error::Result<T> {
        let mut work = pin!(work);
        match timeout_at(self.instant(), &mut work).await {
            Ok(done) => done,
            Err(_) => {
                late();
                Err(error::Error::Busy)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_busy_store_is_asked_until_the_deadline_of_the_request() {
        let began = Instant::now();
        let deadline = Deadline::within(SHORT);
        let mut asked = 0;
        for _ in 0..3 {
            let call = || {
                asked += 1;
                std::future::ready(Err::<(), _>(Error::Busy("full".into())))
            };
            assert!(deadline.retry(call).await.is_err());
        }
        assert!(began.elapsed() <= SHORT, "{:?}", began.elapsed());
        assert!(asked > 15, "{asked}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_does_not_answer_is_not_waited_for_any_longer() {
        let began = Instant::now();
        let silent = Deadline::within(SHORT).retry(std::future::pending::<Result<()>>).await;
        assert!(matches!(silent, Err(Error::Busy(_))));
        let shared = Deadline::within(SHORT).bound(std::future::pending::<error::Result<()>>()).await;
        assert!(matches!(shared, Err(error::Error::Busy)));
        assert_eq!(began.elapsed(), SHORT * 2);
        // A part of a request has no more than the request.
        let part = Deadline::within(SHORT).at_most(LONG).retry(std::future::pending::<Result<()>>).await;
        assert!(part.is_err());
        assert_eq!(began.elapsed(), SHORT * 3);
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_body_the_deadline_starts_again() {
        let answered = || async {
            tokio::task::yield_now().await;
            Ok(())
        };
        let deadline = Deadline::within(SHORT);
        tokio::time::sleep(LONG).await;
        assert!(matches!(deadline.retry(answered).await, Err(Error::Busy(_))));
        deadline.restarted().retry(answered).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn each_call_of_background_work_has_the_whole_time() {
        let deadline = Deadline::of_each_call();
        for calls in 1..3 {
            let began = Instant::now();
            assert!(deadline.retry(std::future::pending::<Result<()>>).await.is_err(), "{calls}");
            assert_eq!(began.elapsed(), LONG);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_that_passes_is_not_seen() {
        let mut left = 10;
        let call = || {
            left -= 1;
            std::future::ready(if left > 0 { Err(Error::Busy("full".into())) } else { Ok(left) })
        };
        assert!(Deadline::within(LONG).retry(call).await.is_ok());
    }
}
