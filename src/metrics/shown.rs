//! The metrics as they are scraped.

use prometheus::core::Collector;

use super::Metrics;

/// Routes that are not the registry's.
const OTHER_ROUTES: [&str; 3] = ["admin", "page", "none"];
/// The kernel's file with the memory of this process.
const STATUS: &str = "/proc/self/status";

impl Metrics {
    /// The metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        if let Some(bytes) = resident_bytes() {
            self.resident_bytes.set(bytes);
        }
        let mut text = String::new();
        let encoder = prometheus::TextEncoder::new();
        if let Err(error) = encoder.encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "cannot render metrics");
        }
        text
    }

    /// Requests of registry clients answered so far: without those of probes, scrapers and people.
    pub fn answered(&self) -> u64 {
        let families = self.requests.collect();
        let series = families.iter().flat_map(|family| family.get_metric());
        let of_clients = series.filter(|one| {
            !one.get_label().iter().any(|label| label.name() == "route" && OTHER_ROUTES.contains(&label.value()))
        });
        of_clients.map(|one| one.get_counter().get_value() as u64).sum()
    }
}

fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string(STATUS).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tenant::{OTHERS, TENANTS_MAX};

    const SHOWN_BYTES_MAX: usize = 200 << 10;

    /// Every series that a server can have, but for odd statuses.
    fn full() -> Metrics {
        let metrics = Metrics::default();
        let routes = ["base", "catalog", "tags", "referrers", "blob", "manifest", "upload", "admin", "page", "none"];
        for route in routes {
            for method in ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "other"] {
                let expected = matches!(
                    (route, method),
                    ("blob" | "manifest", "GET" | "HEAD" | "DELETE")
                        | ("manifest" | "upload", "PUT")
                        | ("upload", "POST" | "PATCH" | "GET" | "DELETE")
                        | ("admin", "POST")
                        | (_, "GET")
                );
                if expected {
                    for status in ["200", "201", "404", "500"] {
                        metrics.requests.with_label_values(&[route, method, status]).inc();
                    }
                    metrics.request_seconds.with_label_values(&[route, method]).observe(0.1);
                    metrics.answer_seconds.with_label_values(&[route, method]).observe(0.1);
                }
            }
        }
        for kind in crate::metrics::S3_KINDS {
            metrics.s3_calls.with_label_values(&[kind]).inc();
        }
        for job in
            ["sweep", "count", "pending-deletions", "collection", "history", "revoked-sessions", "quarantine", "reload"]
        {
            for result in ["ok", "skipped", "failed"] {
                metrics.job_runs.with_label_values(&[job, result]).inc();
            }
            metrics.job_last_success.with_label_values(&[job]).set(1 << 31);
        }
        for number in 0..TENANTS_MAX + 10 {
            metrics.tenants.of(&format!("a-tenant-with-a-name-{number}").parse().unwrap()).stored_bytes.set(1 << 40);
        }
        metrics
    }

    #[test]
    fn every_metric_is_documented_and_every_documented_one_is_shown() {
        let shown = full().render();
        let names = |text: &str, mark: &str| -> Vec<String> {
            let names = text.lines().filter_map(|line| line.strip_prefix(mark));
            let mut names: Vec<String> =
                names.filter_map(|rest| rest.split([' ', '`']).next()).map(str::to_string).collect();
            names.sort();
            names
        };
        let documented = names(include_str!("../../docs/metrics.md"), "| `");
        assert_eq!(names(&shown, "# HELP "), documented);
    }

    #[test]
    fn a_scrape_stays_small_with_any_number_of_tenants() {
        let shown = full().render();
        assert!(shown.len() < SHOWN_BYTES_MAX, "{} bytes", shown.len());
        assert_eq!(shown.matches("larder_stored_bytes{").count(), TENANTS_MAX + 1);
        assert!(shown.contains(&format!("larder_stored_bytes{{tenant=\"{OTHERS}\"}}")));
    }

    #[test]
    fn the_memory_of_the_process_is_known() {
        assert!(resident_bytes().unwrap() > 1 << 20);
    }
}
