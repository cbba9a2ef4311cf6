//! The backend's clock, without a call: what a collection was told last, and how long ago that is.

use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What time it is for the backend. Until a collection of this server has asked, the time of this machine stands for it:
/// a bucket takes no requests of one that is off by more than 15 minutes.
#[derive(Default)]
pub struct Clock {
    told: Mutex<Option<(Instant, SystemTime)>>,
}

impl Clock {
    /// It is `now` for the backend.
    pub fn set(&self, now: SystemTime) {
        *self.told.lock() = Some((Instant::now(), now));
    }

    /// What time it is for the backend, to a second or two.
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
