//! No spans.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use super::{Answered, SpanFailed, is_wanted};
use crate::names::{RepoName, Tenant};

/// Says so when the environment names a collector.
pub fn start() {
    if is_wanted() {
        tracing::warn!("a trace collector is configured, but this program was built without the feature `otel`");
    }
}

/// Whether spans are made.
pub fn is_on() -> bool {
    false
}

/// Sends what has not been sent.
pub async fn finish(_: Duration) {}

/// Notes in the current span which repository it is about.
pub fn place(_: &Tenant, _: &RepoName) {}

/// Gives `work` the current span.
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
