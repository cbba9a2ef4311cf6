//! A mark for each attempt of a write.
//!
//! The SDK sends a request again when its answer was lost. The first attempt may have been done, and another writer may have
//! written since: then the second one is a writing of its own, and its version must not be that of the first. Whoever
//! remembers something of the first would take it for the newest.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

use super::MARK;

/// Gives each attempt of one write but the first a mark of its own: the write's, with the attempt's number behind it.
#[derive(Clone, Debug)]
pub(super) struct MarkedAttempts {
    write: Arc<str>,
    begun: Arc<AtomicUsize>,
}

impl MarkedAttempts {
    /// For the write that has this mark.
    pub(super) fn of(write: &str) -> MarkedAttempts {
        MarkedAttempts { write: write.into(), begun: Arc::default() }
    }

    /// The mark of the last attempt: the one that was answered.
    pub(super) fn last(&self) -> String {
        self.mark(self.begun.load(Relaxed))
    }

    fn mark(&self, attempt: usize) -> String {
        match attempt {
            0 | 1 => self.write.to_string(),
            _ => format!("{}-{attempt}", self.write),
        }
    }
}

impl Intercept for MarkedAttempts {
    fn name(&self) -> &'static str {
        "marked attempts"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let attempt = self.begun.fetch_add(1, Relaxed) + 1;
        if attempt > 1 {
            let name = format!("x-amz-meta-{MARK}");
            context.request_mut().headers_mut().insert(name, self.mark(attempt));
        }
        Ok(())
    }
}
