//! Spans of the OpenTelemetry SDK, sent by OTLP over HTTP from a thread of its own.

use std::fmt::Display;
use std::future::Future;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::Either;
use opentelemetry::context::{Context, ContextGuard, FutureExt, WithContext};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span, SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData};

use super::{Answered, SpanFailed, is_wanted, setting};
use crate::names::{RepoName, Tenant, without_upload_id};

/// Time-out of the last export at the end of the process.
const FINISH_MAX: Duration = Duration::from_secs(5);
/// Longest header value that is kept, in bytes: spans wait in a queue, and headers may be long. A `tracestate` of this
/// length has to be kept (W3C Trace Context, 3.3.1.5); a longer one is not.
const HEADER_MAX: usize = 512;
const SERVICE_NAME: Key = Key::from_static_str("service.name");
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

struct Tracing {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// The tracer, set once before the first request, or never.
static TRACING: OnceLock<Tracing> = OnceLock::new();

/// Begins to record spans, if the environment names a collector. An error is logged, and only traces are lost.
pub fn start() {
    if !is_wanted() {
        return;
    }
    match open() {
        Ok(opened) => {
            if TRACING.set(opened).is_ok() {
                tracing::info!("traces are exported");
            }
        }
        Err(error) => tracing::error!(%error, "traces are not exported"),
    }
}

fn open() -> Result<Tracing, ExporterBuildError> {
    let exporter = SpanExporter::builder().with_http().with_protocol(protocol()).build()?;
    let exporter = ReportedExporter { exporter, failing: AtomicBool::new(false) };
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build();
    let tracer = provider.tracer("larder");
    Ok(Tracing { provider, tracer })
}

fn protocol() -> Protocol {
    match setting(["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]).as_deref() {
        Some("http/json") => Protocol::HttpJson,
        None | Some("http/protobuf") => Protocol::HttpBinary,
        Some(asked) => {
            tracing::warn!(asked, "unsupported trace protocol: using http/protobuf (http/json is supported, too)");
            Protocol::HttpBinary
        }
    }
}

/// The resource of this process from the environment, with the name of the program if no service name is set.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let builder = || Resource::builder().with_attribute(version.clone());
    let named = builder().build();
    match named.get(&SERVICE_NAME) {
        Some(name) if !name.as_str().starts_with("unknown_service") => named,
        _ => builder().with_service_name("larder").build(),
    }
}

/// An exporter that logs when it begins to fail and when that ends: in between it fails every few seconds.
#[derive(Debug)]
struct ReportedExporter {
    exporter: SpanExporter,
    failing: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for ReportedExporter {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        let done = self.exporter.export(spans).await;
        match (&done, self.failing.swap(done.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => tracing::warn!(%error, "cannot export traces: they are lost"),
            (Ok(()), true) => tracing::info!("traces are exported again"),
            _ => {}
        }
        done
    }

    fn shutdown_with_timeout(&self, within: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(within)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Whether spans are recorded.
pub fn is_on() -> bool {
    TRACING.get().is_some()
}

/// Sends the spans that were not sent yet. Returns after `within` at the latest, and sooner if the collector does not
/// answer.
pub async fn finish(within: Duration) {
    let Some(Tracing { provider, .. }) = TRACING.get() else { return };
    let within = within.min(FINISH_MAX);
    let flushed = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(within)).await;
    if !matches!(flushed, Ok(Ok(()))) {
        tracing::warn!("cannot export the last traces");
    }
}

/// Notes tenant and repository in the current span.
pub fn place(tenant: &Tenant, repo: &RepoName) {
    Context::map_current(|context| {
        let span = context.span();
        if span.is_recording() {
            span.set_attribute(KeyValue::new("larder.tenant", tenant.to_string()));
            span.set_attribute(KeyValue::new("larder.repository", repo.to_string()));
        }
    });
}

/// Runs `work` in the current span: for tasks, which begin without any.
pub fn carried<F: Future>(work: F) -> Within<F> {
    let current = is_on().then(Context::current).filter(|context| context.span().is_recording());
    within(current, work)
}

type Within<F> = Either<WithContext<F>, F>;

fn within<F>(context: Option<Context>, work: F) -> Within<F> {
    match context {
        Some(context) => Either::Left(work.with_context(context)),
        None => Either::Right(work),
    }
}

/// The span of a request, unless it is not sampled.
pub struct RequestSpan {
    context: Option<Context>,
    /// The method: the name of the span until its route is known.
    name: &'static str,
}

/// The time in which a span is current.
pub struct Entered {
    _guard: Option<ContextGuard>,
}

impl RequestSpan {
    /// Begins a span, as a child of the one in the request's `traceparent` (W3C Trace Context). `header` returns all
    /// values of a header, joined by commas.
    pub fn begin(method: &'static str, secure: bool, header: impl Fn(&str) -> String) -> RequestSpan {
        let name = if method == "_OTHER" { "HTTP" } else { method };
        let unsampled = RequestSpan { context: None, name };
        let Some(Tracing { tracer, .. }) = TRACING.get() else { return unsampled };
        let state = Some(header(TRACESTATE)).filter(|state| state.len() <= HEADER_MAX).unwrap_or_default();
        let parent = Some(header(TRACEPARENT)).filter(|parent| is_well_formed(parent)).unwrap_or_default();
        let carrier = Carrier { parent, state };
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
        let mut span = tracer.span_builder(name).with_kind(SpanKind::Server).start_with_context(tracer, &parent);
        if !span.is_recording() {
            return unsampled;
        }
        span.set_attribute(KeyValue::new("http.request.method", method));
        span.set_attribute(KeyValue::new("url.scheme", if secure { "https" } else { "http" }));
        let mut agent = header("user-agent");
        if !agent.is_empty() {
            agent.truncate(agent.floor_char_boundary(HEADER_MAX));
            span.set_attribute(KeyValue::new("user_agent.original", agent));
        }
        RequestSpan { context: Some(Context::new().with_span(span)), name }
    }

    /// Makes this the current span of `work`.
    pub fn within<F: Future>(&self, work: F) -> Within<F> {
        within(self.context.clone(), work)
    }

    /// Makes this the current span of this thread.
    pub fn enter(&self) -> Entered {
        Entered { _guard: self.context.clone().map(Context::attach) }
    }

    /// Notes that the request's answer was cut.
    pub fn fail(&self, why: &dyn Display) {
        if let Some(context) = &self.context {
            context.span().set_status(Status::error(why.to_string()));
        }
    }

    /// Ends the span.
    pub fn end(&self, answered: Answered<'_>) {
        let Some(context) = &self.context else { return };
        let Answered { path, route, status, received, sent, complete } = answered;
        let span = context.span();
        span.set_attribute(KeyValue::new("url.path", path.to_string()));
        if route != "none" {
            span.update_name(format!("{} {route}", self.name));
            span.set_attribute(KeyValue::new("http.route", route));
        }
        if status != 0 {
            span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        }
        if status >= 500 {
            span.set_attribute(KeyValue::new("error.type", status.to_string()));
            span.set_status(Status::error(""));
        }
        span.set_attribute(KeyValue::new("http.request.body.size", received as i64));
        span.set_attribute(KeyValue::new("http.response.body.size", sent as i64));
        span.set_attribute(KeyValue::new("larder.complete", complete));
        span.end();
    }
}

/// Whether the fields of a `traceparent` have their lengths (W3C Trace Context, 3.2.2), which the propagator does not
/// check. A version that is not known yet may have more fields.
fn is_well_formed(parent: &str) -> bool {
    let hex =
        |field: &str, digits| field.len() == digits && field.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match *parent.split('-').collect::<Vec<_>>() {
        [version, trace, span, flags, ref more @ ..] => {
            hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2) && (version != "00" || more.is_empty())
        }
        _ => false,
    }
}

/// The headers of a request with its parent span.
struct Carrier {
    parent: String,
    state: String,
}

impl Extractor for Carrier {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            TRACEPARENT => Some(&self.parent),
            TRACESTATE => Some(&self.state),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
    }
}

/// The span of a call to the store: a child of the current one, and none without it. Ends when it is dropped.
pub struct CallSpan(Option<opentelemetry_sdk::trace::Span>);

impl CallSpan {
    /// `remote`: whether the store is behind a network.
    pub fn begin(name: &'static str, remote: bool, key: &str) -> CallSpan {
        let span = TRACING.get().and_then(|Tracing { tracer, .. }| {
            Context::map_current(|current| {
                current.span().is_recording().then(|| {
                    let kind = if remote { SpanKind::Client } else { SpanKind::Internal };
                    let mut span = tracer.span_builder(name).with_kind(kind).start_with_context(tracer, current);
                    span.set_attribute(KeyValue::new("larder.key", without_upload_id(key).into_owned()));
                    span
                })
            })
        });
        CallSpan(span)
    }

    pub fn fail(&mut self, failed: SpanFailed) {
        let Some(span) = &mut self.0 else { return };
        span.set_attribute(KeyValue::new("error.type", failed.kind));
        if failed.fault {
            span.set_status(Status::error(""));
        }
    }
}
