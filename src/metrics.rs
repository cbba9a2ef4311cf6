//! Metrics of the server. One instance, passed through; names are stable, and `docs/metrics.md` has all of them.
//!
//! Invariant: how many series there are depends on the code and on the configuration alone, never on what is stored or
//! asked for.

mod counted;
pub mod recent;
mod shown;
pub mod tenant;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use recent::Recent;
use tenant::Tenants;

/// All metrics of one server.
pub struct Metrics {
    registry: Registry,
    pub requests: IntCounterVec,
    pub request_seconds: HistogramVec,
    pub answer_seconds: HistogramVec,
    pub requests_in_flight: IntGauge,
    pub received_bytes: IntCounter,
    pub sent_bytes: IntCounter,
    pub connections: IntGauge,
    pub hot_hits: IntCounter,
    pub hot_misses: IntCounter,
    pub hot_bytes: IntGauge,
    pub hot_limit_bytes: IntGauge,
    pub import_seconds: Histogram,
    pub export_seconds: Histogram,
    pub blobs_stored: IntCounter,
    pub blobs_mounted: IntCounter,
    pub corrupt_objects: IntCounter,
    pub uploads_refused: IntCounter,
    pub free_bytes: IntGauge,
    pub free_inodes: IntGauge,
    pub views_made: IntCounter,
    pub view_seconds: Histogram,
    pub view_pushes: IntCounter,
    pub view_records: IntCounter,
    pub view_layers: IntCounter,
    pub view_layers_missing: IntCounter,
    pub views_trimmed: IntCounter,
    pub collections: IntCounter,
    pub collections_skipped: IntCounter,
    pub collections_failed: IntCounter,
    pub collection_seconds: Histogram,
    pub collection_last: IntGauge,
    pub condemned_objects: IntCounter,
    pub condemned_bytes: IntCounter,
    pub deleted_objects: IntCounter,
    pub deleted_bytes: IntCounter,
    pub spared_objects: IntCounter,
    pub collecting: IntGauge,
    pub s3_calls: IntCounterVec,
    pub job_runs: IntCounterVec,
    pub job_last_success: IntGaugeVec,
    resident_bytes: IntGauge,
    /// Metrics of each tenant.
    pub tenants: Tenants,
    /// Recent events. Not part of the scraped metrics.
    pub recent: Recent,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let m = Maker { registry: &registry };
        let recent = Recent::default();
        let began = m.gauge("larder_started_timestamp_seconds", "When this process began.");
        began.set(recent.began.as_second());
        Metrics {
            requests: m.counters(
                "larder_requests_total",
                "Requests by route, method and status.",
                &["route", "method", "status"],
            ),
            request_seconds: m.histograms(
                "larder_request_seconds",
                "Time to the last byte of the response, by route and method.",
                &["route", "method"],
            ),
            answer_seconds: m.histograms(
                "larder_answer_seconds",
                "Time to response headers, by route and method.",
                &["route", "method"],
            ),
            requests_in_flight: m.gauge("larder_requests_in_flight", "Requests being answered."),
            received_bytes: m.counter("larder_received_bytes_total", "Bytes of request bodies."),
            sent_bytes: m.counter("larder_sent_bytes_total", "Bytes of response bodies."),
            connections: m.gauge("larder_connections", "Open connections."),
            hot_hits: m.counter("larder_hot_hits_total", "Reads answered from the hot layer."),
            hot_misses: m.counter("larder_hot_misses_total", "Reads that went to the store."),
            hot_bytes: m.gauge("larder_hot_bytes", "Bytes held by the hot layer."),
            hot_limit_bytes: m.gauge("larder_hot_limit_bytes", "Limit of the hot layer in bytes."),
            import_seconds: m.histogram(
                "larder_import_seconds",
                "Time from the first request of an import to the end of the cache's config. Of builders that send traceparent.",
            ),
            export_seconds: m.histogram(
                "larder_export_seconds",
                "Time from the first request of an export to its manifest. Of builders that send traceparent.",
            ),
            blobs_stored: m.counter("larder_blobs_stored_total", "Blobs received and stored."),
            blobs_mounted: m.counter("larder_blobs_mounted_total", "Blobs mounted."),
            corrupt_objects: m.counter("larder_corrupt_objects_total", "Objects whose bytes did not fit their digest."),
            uploads_refused: m
                .counter("larder_uploads_refused_total", "Uploads refused because the disk or a quota is full."),
            free_bytes: m.gauge("larder_free_bytes", "Free bytes of the store's filesystem, at the last upload."),
            free_inodes: m.gauge(
                "larder_free_inodes",
                "Free inodes of the store's filesystem, at the last upload; 0 if it has no limit.",
            ),
            views_made: m.counter(
                "larder_views_made_total",
                "Views made of several pushes, or of a part of one.",
            ),
            view_seconds: m.histogram("larder_view_seconds", "Time to load the pushes of a tag and make their view."),
            view_pushes: m.counter("larder_view_pushes_total", "Pushes merged, summed over the views made."),
            view_records: m.counter("larder_view_records_total", "Records, summed over the views made."),
            view_layers: m.counter("larder_view_layers_total", "Layers, summed over the views made."),
            view_layers_missing: m
                .counter("larder_view_layers_missing_total", "Layers left out of views because the store lacks them."),
            views_trimmed: m
                .counter("larder_views_trimmed_total", "Views that left something out to stay below BuildKit's limit."),
            collections: m.counter("larder_collections_total", "Completed collections."),
            collections_skipped: m
                .counter("larder_collections_skipped_total", "Collections skipped, because this server may not delete."),
            collections_failed: m.counter("larder_collections_failed_total", "Aborted collections."),
            collection_seconds: m.histogram("larder_collection_seconds", "Duration of a collection."),
            collection_last: m.gauge("larder_collection_last_timestamp_seconds", "When the last completed collection began; 0 before the first."),
            condemned_objects: m.counter("larder_condemned_objects_total", "Objects that were condemned."),
            condemned_bytes: m.counter("larder_condemned_bytes_total", "Bytes of the objects that were condemned."),
            deleted_objects: m.counter("larder_deleted_objects_total", "Objects that collections deleted."),
            deleted_bytes: m.counter("larder_deleted_bytes_total", "Bytes of the objects that collections deleted."),
            spared_objects: m
                .counter("larder_spared_objects_total", "Condemned objects kept, because they were used or referenced."),
            collecting: m.gauge("larder_collecting", "Collections in progress."),
            s3_calls: m.counters("larder_s3_calls_total", "Requests sent to the bucket, retries included.", &["kind"]),
            job_runs: m.counters(
                "larder_job_runs_total",
                "Runs of background jobs, by name and result: ok, skipped or failed.",
                &["name", "result"],
            ),
            job_last_success: m.gauges(
                "larder_job_last_success_timestamp_seconds",
                "When a background job last ended ok; 0 before.",
                // Prometheus has a label `job` of its own for what it scrapes, and would rename ours.
                &["name"],
            ),
            resident_bytes: m.gauge("larder_resident_bytes", "Memory of this process."),
            tenants: Tenants::new(&m),
            recent,
            registry,
        }
    }
}

/// Makes and registers in one step. A name that is wrong or taken is a mistake in this file, found by its test: the
/// server goes on with a metric that is not shown.
struct Maker<'a> {
    registry: &'a Registry,
}

impl Maker<'_> {
    fn keep<C: prometheus::core::Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let made = made.expect("metric names and labels are constants, checked by a test");
        if let Err(error) = self.registry.register(Box::new(made.clone())) {
            tracing::error!(%error, "metric is not registered");
        }
        made
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.keep(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.keep(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.keep(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        self.keep(HistogramVec::new(HistogramOpts::new(name, help).buckets(seconds()), labels))
    }

    fn histogram(&self, name: &str, help: &str) -> Histogram {
        self.keep(Histogram::with_opts(HistogramOpts::new(name, help).buckets(seconds())))
    }
}

/// From a hot answer to a large blob over a slow line.
fn seconds() -> Vec<f64> {
    vec![0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0]
}

/// Kinds of requests to a bucket: the values of a label.
pub const S3_KINDS: [&str; 9] = ["get", "head", "list", "put", "part", "multipart", "copy", "delete", "other"];
