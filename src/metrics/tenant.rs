//! Metrics of each tenant.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use serde::{Deserialize, Serialize};

use super::Maker;
use crate::events::Rule;
use crate::names::Tenant;

/// Tenants with numbers of their own. All others share one set, so that the metrics stay small whatever is configured.
pub const TENANTS_MAX: usize = 50;
/// The label of those. No tenant has such a name.
pub const OTHERS: &str = "(others)";

/// Kind of a lookup, which is a hit or a miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A manifest by its tag: where an import begins.
    Tag,
    /// A manifest by its digest.
    Manifest,
    /// The bytes of a blob.
    Blob,
    /// Whether a blob need not be sent: `HEAD`, or a mount.
    Upload,
}

/// Source of served bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The hot layer.
    Hot,
    /// Files: the system's page cache, or the disk.
    Warm,
    /// A bucket, for this reader or for another who asked at the same time.
    Cold,
}

/// The reason why bytes were not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// The client asked first, and heard that the blob is there.
    Present,
    /// The client had the blob mounted.
    Mounted,
}

const ASKED: [&str; 4] = ["tag", "manifest", "blob", "upload"];
const SOURCES: [&str; 3] = ["hot", "warm", "cold"];
const SAVED: [&str; 2] = ["present", "mounted"];
const RULES: [&str; 5] = ["unused", "pushed", "not_newest", "room", "subject"];

/// The numbers of one tenant. Found once for a request, then counted without looking anything up.
#[derive(Debug)]
pub struct TenantMetrics {
    hits: [IntCounter; 4],
    misses: [IntCounter; 4],
    served: [IntCounter; 3],
    saved: [IntCounter; 2],
    evictions: [IntCounter; RULES.len()],
    evicted_bytes: [IntCounter; RULES.len()],
    pub builds: BuildCounters,
    /// Bytes of blobs that were received.
    pub stored_new_bytes: IntCounter,
    pub stored_bytes: IntGauge,
    pub stored_blobs: IntGauge,
    pub condemned_bytes: IntGauge,
    pub named_bytes: IntGauge,
    pub tags: IntGauge,
    pub repositories: IntGauge,
    pub counted_at: IntGauge,
}

/// Actions of builds.
#[derive(Debug)]
pub struct BuildCounters {
    pub imports: IntCounter,
    pub import_misses: IntCounter,
    pub exports: IntCounter,
}

impl TenantMetrics {
    pub fn asked(&self, what: Asked, found: bool) {
        let counters = if found { &self.hits } else { &self.misses };
        counters[what as usize].inc();
    }

    pub fn served(&self, source: Source, bytes: u64) {
        self.served[source as usize].inc_by(bytes);
    }

    pub fn saved(&self, how: Saved, bytes: u64) {
        self.saved[how as usize].inc_by(bytes);
    }

    /// So many tags and layers are let go.
    pub fn evicted(&self, rule: Rule, count: u64, bytes: u64) {
        self.evictions[rule as usize].inc_by(count);
        self.evicted_bytes[rule as usize].inc_by(bytes);
    }

    /// Source of the charts.
    pub fn reading(&self) -> Reading {
        let sum = |counters: &[IntCounter]| counters.iter().map(IntCounter::get).sum();
        let of_imports = |counters: &[IntCounter; 4]| {
            [Asked::Tag, Asked::Manifest, Asked::Blob].iter().map(|asked| counters[*asked as usize].get()).sum()
        };
        let checks = Asked::Upload as usize;
        Reading {
            hits: of_imports(&self.hits),
            misses: of_imports(&self.misses),
            present: self.hits[checks].get(),
            absent: self.misses[checks].get(),
            imports: self.builds.imports.get(),
            import_misses: self.builds.import_misses.get(),
            exports: self.builds.exports.get(),
            served: self.served.each_ref().map(IntCounter::get),
            saved: sum(&self.saved),
            received: self.stored_new_bytes.get(),
        }
    }
}

/// Values of the counters of a tenant, or their growth in a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Tags, manifests and blobs that were asked for and there, as imports ask for them.
    pub hits: u64,
    /// Those that were not there.
    pub misses: u64,
    /// Blobs that an export need not send: its existence check found them, or they were mounted.
    #[serde(default)]
    pub present: u64,
    /// Blobs that an export has to send.
    #[serde(default)]
    pub absent: u64,
    /// Imports that found a cache.
    pub imports: u64,
    /// Tags that were asked for as imports ask for them, and that do not exist.
    #[serde(default)]
    pub import_misses: u64,
    pub exports: u64,
    /// Bytes served: hot, warm, cold.
    pub served: [u64; 3],
    /// Bytes that clients did not have to send.
    pub saved: u64,
    /// Bytes of blobs that were received.
    pub received: u64,
}

impl Reading {
    /// The growth since `before`.
    pub fn since(&self, before: &Reading) -> Reading {
        self.with(before, u64::saturating_sub)
    }

    pub fn plus(&self, other: &Reading) -> Reading {
        self.with(other, u64::saturating_add)
    }

    fn with(&self, other: &Reading, f: impl Fn(u64, u64) -> u64) -> Reading {
        Reading {
            hits: f(self.hits, other.hits),
            misses: f(self.misses, other.misses),
            present: f(self.present, other.present),
            absent: f(self.absent, other.absent),
            imports: f(self.imports, other.imports),
            import_misses: f(self.import_misses, other.import_misses),
            exports: f(self.exports, other.exports),
            served: std::array::from_fn(|at| f(self.served[at], other.served[at])),
            saved: f(self.saved, other.saved),
            received: f(self.received, other.received),
        }
    }

    /// Share of what imports asked for that was there. Percent; nothing when they asked for nothing.
    pub fn hit_percent(&self) -> Option<f64> {
        percent_of(self.hits, self.misses)
    }

    /// Share of the blobs of exports that need not be sent. Percent; nothing when there was no such blob.
    pub fn present_percent(&self) -> Option<f64> {
        percent_of(self.present, self.absent)
    }
}

fn percent_of(part: u64, rest: u64) -> Option<f64> {
    let all = part.saturating_add(rest);
    (all > 0).then(|| part as f64 * 100.0 / all as f64)
}

/// The numbers of all tenants.
pub struct Tenants {
    known: RwLock<BTreeMap<Tenant, Arc<TenantMetrics>>>,
    others: RwLock<Option<Arc<TenantMetrics>>>,
    families: Families,
}

struct Families {
    lookups: IntCounterVec,
    served: IntCounterVec,
    saved: IntCounterVec,
    evictions: IntCounterVec,
    evicted_bytes: IntCounterVec,
    imports: IntCounterVec,
    import_misses: IntCounterVec,
    exports: IntCounterVec,
    received: IntCounterVec,
    stored_bytes: IntGaugeVec,
    stored_blobs: IntGaugeVec,
    condemned_bytes: IntGaugeVec,
    named_bytes: IntGaugeVec,
    tags: IntGaugeVec,
    repositories: IntGaugeVec,
    counted_at: IntGaugeVec,
}

impl Tenants {
    pub(super) fn new(m: &Maker<'_>) -> Tenants {
        let one = &["tenant"][..];
        let families = Families {
            lookups: m.counters(
                "larder_lookups_total",
                "Lookups of builders by kind (tag, manifest, blob; upload: existence check) and result (hit, miss).",
                &["tenant", "kind", "result"],
            ),
            served: m.counters(
                "larder_served_bytes_total",
                "Bytes of blobs served, from memory (hot), from files (warm) or from a bucket (cold).",
                &["tenant", "from"],
            ),
            saved: m.counters(
                "larder_upload_saved_bytes_total",
                "Bytes that clients did not send, because the blob existed (present) or was mounted.",
                &["tenant", "how"],
            ),
            evictions: m.counters(
                "larder_evictions_total",
                "Tags and layers expired by a policy (unused, pushed, not_newest) evicted (room), or gone with their manifest (subject).",
                &["tenant", "rule"],
            ),
            evicted_bytes: m.counters(
                "larder_evicted_bytes_total",
                "Bytes of these layers, and of what only expired tags referenced.",
                &["tenant", "rule"],
            ),
            imports: m.counters("larder_imports_total", "Caches that BuildKit imported: configs of caches read.", one),
            import_misses: m.counters(
                "larder_import_misses_total",
                "Imports that found no cache: tags that do not exist, requested as an import requests them.",
                one,
            ),
            exports: m.counters(
                "larder_exports_total",
                "Caches that were exported: cache manifests pushed to tags.",
                one,
            ),
            received: m.counters("larder_stored_new_bytes_total", "Bytes of blobs received and stored.", one),
            stored_bytes: m.gauges("larder_stored_bytes", "Bytes that count for quotas, as last counted.", one),
            stored_blobs: m.gauges("larder_stored_blobs", "Blobs, as this server has counted them.", one),
            condemned_bytes: m.gauges(
                "larder_condemned_waiting_bytes",
                "Bytes of condemned objects, not yet deleted.",
                one,
            ),
            named_bytes: m.gauges(
                "larder_named_bytes",
                "Bytes that the tags would take without deduplication, as last counted.",
                one,
            ),
            tags: m.gauges("larder_tags", "Tags, as last counted.", one),
            repositories: m.gauges("larder_repositories", "Repositories, as last counted.", one),
            counted_at: m.gauges("larder_counted_timestamp_seconds", "When the store was last counted.", one),
        };
        Tenants { known: RwLock::default(), others: RwLock::default(), families }
    }

    /// The numbers of a tenant, shared with others when there are too many. Scopes always share them.
    pub fn of(&self, tenant: &Tenant) -> Arc<TenantMetrics> {
        if let Some(known) = self.known.read().get(tenant) {
            return known.clone();
        }
        let mut known = self.known.write();
        if tenant.is_scope() || known.len() >= TENANTS_MAX && !known.contains_key(tenant) {
            drop(known);
            let mut others = self.others.write();
            return others.get_or_insert_with(|| Arc::new(self.families.of(OTHERS))).clone();
        }
        known.entry(tenant.clone()).or_insert_with(|| Arc::new(self.families.of(tenant))).clone()
    }

    /// The numbers of all tenants and scopes together.
    pub fn total(&self) -> Reading {
        let others = self.others.read().clone();
        let all = self.all().into_iter().map(|(_, numbers)| numbers).chain(others);
        all.fold(Reading::default(), |sum, numbers| sum.plus(&numbers.reading()))
    }

    /// All tenants that have numbers of their own.
    pub fn all(&self) -> Vec<(Tenant, Arc<TenantMetrics>)> {
        let known = self.known.read();
        known.iter().map(|(tenant, numbers)| (tenant.clone(), numbers.clone())).collect()
    }
}

impl Families {
    fn of(&self, tenant: &str) -> TenantMetrics {
        let by = |family: &IntCounterVec, label: &str| family.with_label_values(&[tenant, label]);
        let lookups = |result: &str| ASKED.map(|kind| self.lookups.with_label_values(&[tenant, kind, result]));
        let gauge = |family: &IntGaugeVec| family.with_label_values(&[tenant]);
        TenantMetrics {
            hits: lookups("hit"),
            misses: lookups("miss"),
            served: SOURCES.map(|from| by(&self.served, from)),
            saved: SAVED.map(|how| by(&self.saved, how)),
            evictions: RULES.map(|rule| by(&self.evictions, rule)),
            evicted_bytes: RULES.map(|rule| by(&self.evicted_bytes, rule)),
            builds: BuildCounters {
                imports: self.imports.with_label_values(&[tenant]),
                import_misses: self.import_misses.with_label_values(&[tenant]),
                exports: self.exports.with_label_values(&[tenant]),
            },
            stored_new_bytes: self.received.with_label_values(&[tenant]),
            stored_bytes: gauge(&self.stored_bytes),
            stored_blobs: gauge(&self.stored_blobs),
            condemned_bytes: gauge(&self.condemned_bytes),
            named_bytes: gauge(&self.named_bytes),
            tags: gauge(&self.tags),
            repositories: gauge(&self.repositories),
            counted_at: gauge(&self.counted_at),
        }
    }
}
