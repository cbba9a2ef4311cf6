//! Spans of requests and of the calls for which they wait, sent to an OpenTelemetry collector.
//!
//! Built with the feature `otel`. Without it everything here is empty, and callers need no conditions. The settings are
//! the environment variables of OpenTelemetry: nothing is sent unless one of them names a collector.

#[cfg(not(feature = "otel"))]
mod none;
#[cfg(feature = "otel")]
mod otel;

#[cfg(not(feature = "otel"))]
use none as built;
#[cfg(feature = "otel")]
use otel as built;

pub use built::{CallSpan, RequestSpan, carried, finish, is_on, place, start};

/// The end of a request.
pub struct Answered<'a> {
    pub path: &'a str,
    /// Name of the route, as in metrics.
    pub route: &'static str,
    /// Status of the answer; zero if there was none.
    pub status: u16,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the answer's body.
    pub sent: u64,
    /// Whether the whole answer was sent.
    pub complete: bool,
}

/// The failure of a call to the store.
pub struct SpanFailed {
    /// Kind of the failure, in a few words.
    pub kind: &'static str,
    /// Whether it is a fault. That an object is missing is an answer, and no fault.
    pub fault: bool,
}

/// Whether the environment names a collector, and does not disable tracing.
fn is_wanted() -> bool {
    let named = setting(["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]).is_some();
    let forbidden = |name, value: &str| setting([name]).is_some_and(|said| said.trim().eq_ignore_ascii_case(value));
    named && !forbidden("OTEL_SDK_DISABLED", "true") && !forbidden("OTEL_TRACES_EXPORTER", "none")
}

/// The first of these variables that is set and not empty.
fn setting<const N: usize>(names: [&str; N]) -> Option<String> {
    names.into_iter().filter_map(|name| std::env::var(name).ok()).find(|value| !value.is_empty())
}
