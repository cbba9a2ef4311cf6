//! Tracing without the feature `otel`: no spans.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use super::{Answered, SpanFailed, is_wanted};
use crate::names::{RepoName, Tenant};

/// Warns if the environment names a collector.
pub fn start() {
    if is_wanted() {
        tracing::warn!("a trace collector is configured, but this program was built without the feature `otel`");
    }
}

/// Whether spans are recorded.
pub fn is_on() -> bool {
    false
}

/// Sends the spans that were not sent yet.
pub async fn finish(_: Duration) {}

/// Notes tenant and repository in the current span.
pub fn place(_: &Tenant, _: &RepoName) {}

/// Runs `work` in the current span.
pub fn carried<F: Future>(work: F) -> F {
    work
}

/// The span of a request.
pub struct RequestSpan;

/// The time in which a span is current.
pub struct Entered;

impl RequestSpan {
    pub fn begin(_: &'static str, _: bool, _: impl Fn(&str) -> String) -> RequestSpan {
        RequestSpan
    }

    pub fn within<F: Future>(&self, work: F) -> F {
        work
    }

    pub fn enter(&self) -> Entered {
        Entered
    }

    pub fn fail(&self, _: &dyn Display) {}

    pub fn end(&self, _: Answered<'_>) {}
}

/// The span of a call to the store.
pub struct CallSpan;

impl CallSpan {
    pub fn begin(_: &'static str, _: bool, _: &str) -> CallSpan {
        CallSpan
    }

    pub fn fail(&mut self, _: SpanFailed) {}
}
