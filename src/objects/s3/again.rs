//! Calls of an upload, repeated while the bucket is busy.
//!
//! The SDK repeats a call a few times within seconds, and all calls of the process share its retry budget. When a
//! bucket slows all clients down, that budget is soon used up, and the next refusal of one part would end a layer of
//! gigabytes. So each call of an upload has a time limit of its own here, above the SDK's retries.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::PassingError;

/// Time after its beginning until which a call is repeated: as long as a request waits for a busy store. A client
/// notices only that the connection takes no more bytes.
const PATIENCE: Duration = Duration::from_secs(45);
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// The schedule of the repeats of one call.
pub(super) struct Again {
    until: Instant,
    pause: Duration,
}

impl Again {
    pub(super) fn begin() -> Again {
        Again { until: Instant::now() + PATIENCE, pause: PAUSE_MIN }
    }

    /// Waits before the next attempt. False when the time is over.
    pub(super) async fn wait(&mut self) -> bool {
        // Jitter: callers that were refused at once shall not all come back at once.
        let pause = self.pause.mul_f64(rand::random_range(0.5..1.0));
        if Instant::now() + pause >= self.until {
            return false;
        }
        sleep(pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}

/// Makes an idempotent call, until the bucket is not busy or the time is over.
pub(super) async fn again<T, E, F>(mut call: impl FnMut() -> F) -> Result<T, E>
where
    E: PassingError,
    F: Future<Output = Result<T, E>>,
{
    let mut again = Again::begin();
    loop {
        match call().await {
            Err(error) if error.passes() && again.wait().await => {}
            done => return done,
        }
    }
}
