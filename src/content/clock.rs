//! The backend's clock, without a call: the time that a collection was last told, plus the time since then.

use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The backend's time. Until a collection of this server has asked for it, this machine's time is used: a bucket
/// refuses requests from a clock that is off by more than 15 minutes.
#[derive(Default)]
pub struct Clock {
    told: Mutex<Option<(Instant, SystemTime)>>,
}

impl Clock {
    /// Sets the backend's time to `now`.
    pub fn set(&self, now: SystemTime) {
        *self.told.lock() = Some((Instant::now(), now));
    }

    /// The backend's time, to a second or two.
    pub fn now(&self) -> SystemTime {
        let told = *self.told.lock();
        told.and_then(|(at, told)| told.checked_add(at.elapsed())).unwrap_or_else(SystemTime::now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_from_what_it_was_told() {
        let clock = Clock::default();
        assert!(clock.now().duration_since(SystemTime::now()).unwrap_or_default() < Duration::from_secs(60));
        let theirs = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        clock.set(theirs);
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(clock.now(), theirs + Duration::from_secs(90));
    }
}
