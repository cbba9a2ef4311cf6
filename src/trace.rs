//! Spans of requests and of what they wait for, sent to a collector of OpenTelemetry.
//!
//! Built with the feature `otel`. Without it everything here is empty, so that callers need not know. The settings are the
//! environment variables of OpenTelemetry: nothing is sent unless one of them names a collector.

#[cfg(not(feature = "otel"))]
mod none;
#[cfg(feature = "otel")]
mod otel;

#[cfg(not(feature = "otel"))]
use none as built;
#[cfg(feature = "otel")]
use otel as built;

pub use built::{CallSpan, RequestSpan, carried, finish, is_on, place, start};

/// How a request ended.
pub struct Answered<'a> {
    pub path: &'a str,
    /// The name of its route, as metrics have it.
    pub route: &'static str,
    /// Zero where there was no answer.
    pub status: u16,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the answer's body.
    pub sent: u64,
    /// Whether the whole answer has gone.
    pub complete: bool,
}

/// How a call to the store failed.
pub struct SpanFailed {
    /// Of a few words.
    pub kind: &'static str,
    /// Whether it is worth a look. That nothing is there is an answer, too.
    pub fault: bool,
}

/// Whether the environment names a collector, and does not forbid to use it.
fn is_wanted() -> bool {
    let named = setting(["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]).is_some();
    let forbidden = |name, value: &str| setting([name]).is_some_and(|said| said.trim().eq_ignore_ascii_case(value));
    named && !forbidden("OTEL_SDK_DISABLED", "true") && !forbidden("OTEL_TRACES_EXPORTER", "none")
}

/// The first of these variables that says something: an empty one does not.
fn setting<const N: usize>(names: [&str; N]) -> Option<String> {
    names.into_iter().filter_map(|name| std::env::var(name).ok()).find(|value| !value.is_empty())
}
