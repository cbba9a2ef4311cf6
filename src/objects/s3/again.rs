//! Calls that make a large object, repeated while the bucket has too much to do.
//!
//! The SDK repeats a call some times within seconds, and all calls of the process share what it may repeat. When a bucket
//! slows everybody down, that is soon used up, and the next refusal of one part would end a layer of gigabytes. So each call
//! on the way of an upload has a patience of its own here, above the SDK's.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::PassingError;

/// How long after its beginning a call is begun once more: as long as a request waits for a store that is busy. What a
/// client notices meanwhile is that the connection takes no more bytes.
const PATIENCE: Duration = Duration::from_secs(45);
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// When to try once more, and when no more.
pub(super) struct Again {
    until: Instant,
    pause: Duration,
}

impl Again {
    pub(super) fn begin() -> Again {
        Again { until: Instant::now() + PATIENCE, pause: PAUSE_MIN }
    }

    /// Waits before the next try; false when there shall be none.
    pub(super) async fn wait(&mut self) -> bool {
        // Those who were refused at once shall not all come back at once.
        let pause = self.pause.mul_f64(rand::random_range(0.5..1.0));
        if Instant::now() + pause >= self.until {
            return false;
        }
        sleep(pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}

/// Makes a call that may be made twice, until the bucket is not busy or patience has run out.
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
