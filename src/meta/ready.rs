//! Readiness: whether the store answers and takes writes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::error::{Error, Result};
use crate::objects::Objects;

/// Time for which a good answer of a remote store is reused: a balancer asks every second, and each probe is a write.
const GOOD_FOR: Duration = Duration::from_secs(5);
/// Time for which a bad answer is reused: a store that is back should be used.
const BAD_FOR: Duration = Duration::from_secs(1);
/// Time-out of a probe.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// The readiness of a store.
pub struct Ready {
    objects: Arc<dyn Objects>,
    /// Result of the last probe. One probe runs at a time: other callers wait for it.
    last: Mutex<Option<(Instant, Result<()>)>>,
}

impl Ready {
    /// The readiness of these objects.
    pub fn new(objects: Arc<dyn Objects>) -> Ready {
        Ready { objects, last: Mutex::default() }
    }

    /// Proves that the backend answers and takes writes, or did a moment ago.
    pub async fn probe(&self) -> Result<()> {
        if !self.objects.traits().remote {
            return Ok(self.objects.probe().await?);
        }
        let looking = async {
            let mut last = self.last.lock().await;
            if let Some((at, answer)) = &*last
                && at.elapsed() < if answer.is_ok() { GOOD_FOR } else { BAD_FOR }
            {
                return answer.clone();
            }
            let looked = timeout(ANSWERS_WITHIN, self.objects.probe()).await;
            let answer = looked.map_or(Err(Error::Busy), |probed| probed.map_err(Error::from));
            *last = Some((Instant::now(), answer.clone()));
            answer
        };
        timeout(ANSWERS_WITHIN * 2, looking).await.unwrap_or(Err(Error::Busy))
    }
}
