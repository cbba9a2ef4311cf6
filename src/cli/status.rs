//! `larder status`: how a running server is.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use larder::human::{bytes, percent};
use larder::jobs::{Run, Status as Job};
use larder::metrics::tenant::Reading;
use serde::Deserialize;
use serde_json::Value;

use super::ask::AskedAddress;
use super::ls::{ListedScope, scopes_table};
use super::show::{ago, table};

/// Says what a running server has, does, and saves.
#[derive(Args)]
#[command(after_help = "Exit status: 0 the server is ready, 1 it does not answer, 3 it answers and is not ready.")]
pub struct StatusCommand {
    #[command(flatten)]
    server: AskedAddress,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

const NOT_READY: u8 = 3;

impl StatusCommand {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let asked = self.server.asked().await?;
        let (ready, said) = asked.ready().await?;
        // Nothing where the caller may not administer, or the server is an older one.
        let jobs: Option<RunningJobs> = asked.get("/api/jobs", &[]).await.ok();
        let jobs = jobs.map_or(Vec::new(), |told| told.jobs);
        if self.json {
            let mut overview: Value = asked.get("/api/overview", &[]).await?;
            (overview["ready"], overview["jobs"]) = (ready.into(), serde_json::to_value(jobs)?);
            println!("{}", serde_json::to_string_pretty(&overview)?);
        } else {
            print!("{}{}", render(&said, asked.get("/api/overview", &[]).await?), jobs_table(&jobs));
        }
        Ok(if ready { ExitCode::SUCCESS } else { ExitCode::from(NOT_READY) })
    }
}

/// Answer of `/api/jobs`.
#[derive(Deserialize)]
struct RunningJobs {
    jobs: Vec<Job>,
}

/// The part of `/api/overview` that is shown.
#[derive(Deserialize)]
struct ServerOverview {
    version: String,
    began: Timestamp,
    /// For callers who may administer.
    #[serde(flatten)]
    whole: Option<StatusTotals>,
}

/// Totals of all tenants, and of the server.
#[derive(Deserialize)]
struct StatusTotals {
    tenants: Vec<Tenant>,
    /// The last used. Older servers tell of none.
    #[serde(default)]
    scopes: Vec<ListedScope>,
    #[serde(default)]
    scopes_in_all: usize,
    so_far: Reading,
    hot: HotStatus,
    requests_in_flight: u64,
    collector: CollectorStatus,
}

#[derive(Deserialize)]
struct Tenant {
    tenant: String,
    bytes: u64,
    named_bytes: u64,
    arriving: u64,
    repositories: u64,
    tags: u64,
    quota: Option<QuotaStatus>,
    counted: Option<Timestamp>,
}

#[derive(Deserialize)]
struct QuotaStatus {
    max: u64,
}

#[derive(Deserialize)]
struct HotStatus {
    bytes: u64,
    limit: u64,
}

#[derive(Deserialize)]
struct CollectorStatus {
    running: bool,
    last: Option<Timestamp>,
    deleted_bytes: u64,
    condemned_bytes: u64,
    skipped: Option<String>,
}

fn render(said: &str, overview: ServerOverview) -> String {
    let server = format!("larder {}, {said}, since {}", overview.version, ago(Some(overview.began)));
    let mut out = format!("{:10} {server}\n", "server");
    for (name, fact) in FACTS {
        let fact = overview.whole.as_ref().map_or("not shown".to_string(), fact);
        out.push_str(&format!("{name:10} {fact}\n"));
    }
    let Some(whole) = overview.whole else {
        out.push_str("\nNumbers of the server and of tenants are shown to callers that may administer.\n");
        return out;
    };
    let row = |tenant: &Tenant| {
        vec![
            tenant.tenant.clone(),
            bytes(tenant.bytes),
            tenant.quota.as_ref().map_or("-".to_string(), |quota| bytes(quota.max)),
            tenant.repositories.to_string(),
            tenant.tags.to_string(),
            ago(tenant.counted),
        ]
    };
    let rows: Vec<Vec<String>> = whole.tenants.iter().map(row).collect();
    out.push('\n');
    out.push_str(&table(&["TENANT", ">STORED", ">QUOTA", ">REPOSITORIES", ">TAGS", "COUNTED"], &rows));
    if !whole.scopes.is_empty() {
        let more = whole.scopes_in_all.saturating_sub(whole.scopes.len());
        out.push_str(&format!("\n{}", scopes_table(whole.scopes)));
        if more > 0 {
            out.push_str(&format!("and {more} more: larder ls --scopes\n"));
        }
    }
    out
}

/// A name, and what a person sees beside it.
type StatusLine = (&'static str, fn(&StatusTotals) -> String);

const FACTS: [StatusLine; 8] = [
    ("stored", |whole| {
        let is_counted = whole.tenants.iter().any(|tenant| tenant.counted.is_some());
        let named = if is_counted { whole.sum(|one| one.named_bytes) } else { "-".to_string() };
        format!("{}, {named} without sharing", whole.sum(|one| one.bytes))
    }),
    ("hits", |StatusTotals { so_far, .. }| match so_far.hits + so_far.misses {
        0 => "nothing asked for yet".to_string(),
        all => format!("{} % of {all} that imports asked for", percent(so_far.hits, all)),
    }),
    ("not sent", |StatusTotals { so_far, .. }| match so_far.present.saturating_add(so_far.absent) {
        0 => format!("{} that clients need not send", bytes(so_far.saved)),
        all => format!(
            "{} that clients need not send: {} % of {all} blobs of exports",
            bytes(so_far.saved),
            percent(so_far.present, all)
        ),
    }),
    ("served", |StatusTotals { so_far: Reading { served, .. }, .. }| {
        format!("{}, {} of it from memory", bytes(served.iter().sum()), bytes(served[0]))
    }),
    ("builds", |StatusTotals { so_far, .. }| {
        let imports = match so_far.imports.saturating_add(so_far.import_misses) {
            0 => "no imports yet".to_string(),
            all => format!("{} of {all} imports found a cache", so_far.imports),
        };
        format!("{imports}, {} exports", so_far.exports)
    }),
    ("memory", |StatusTotals { hot, .. }| format!("{} of {} in the hot layer", bytes(hot.bytes), bytes(hot.limit))),
    ("now", |whole| {
        format!("{} requests in flight, {} arriving", whole.requests_in_flight, whole.sum(|one| one.arriving))
    }),
    ("collected", |whole| collector(&whole.collector)),
];

impl StatusTotals {
    /// Bytes of all tenants together, for people.
    fn sum(&self, of: fn(&Tenant) -> u64) -> String {
        bytes(self.tenants.iter().map(of).sum())
    }
}

fn collector(collector: &CollectorStatus) -> String {
    match (&collector.skipped, collector.running, collector.last) {
        (Some(why), ..) => format!("never: {why}"),
        (None, true, _) => "just now".to_string(),
        (None, false, Some(_)) => format!(
            "{}: {} deleted, {} condemned",
            ago(collector.last),
            bytes(collector.deleted_bytes),
            bytes(collector.condemned_bytes)
        ),
        (None, false, None) => "not yet".to_string(),
    }
}

/// The background jobs; nothing where none is told.
fn jobs_table(jobs: &[Job]) -> String {
    if jobs.is_empty() {
        return String::new();
    }
    let state = |job: &Job| {
        let state = if job.running { "running" } else { "idle" };
        let next =
            job.next.map(|next| format!(", next in {} s", next.duration_since(Timestamp::now()).as_secs().max(0)));
        format!("{state}{}", next.unwrap_or_default())
    };
    let result = |last: &Run| {
        let text = if last.text.is_empty() { String::new() } else { format!(": {}", last.text) };
        format!("{}, {}{text}", last.result.as_str(), ago(Some(last.ended)))
    };
    let row = |job: &Job| {
        let last = job.last.as_ref().map_or("none yet".to_string(), result);
        vec![job.name.clone(), state(job), job.runs.to_string(), job.failures.to_string(), last]
    };
    let rows: Vec<Vec<String>> = jobs.iter().map(row).collect();
    format!("\n{}", table(&["JOB", "STATE", ">RUNS", ">FAILED", "LAST RESULT"], &rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(told: Value) -> String {
        render("ready", serde_json::from_value(told).unwrap())
    }

    #[test]
    fn people_see_what_it_has_and_what_it_saves() {
        let with = |counted: Value| {
            shown(json!({
                "version": "1.2.3", "began": "2026-01-01T00:00:00Z",
                "tenants": [{ "tenant": "default", "bytes": 1024, "named_bytes": 4096, "arriving": 0, "repositories": 2,
                    "tags": 3, "quota": { "max": 2048 }, "counted": counted }],
                "so_far": { "hits": 3, "misses": 1, "present": 9, "absent": 1, "served": [512, 512, 0], "saved": 2048, "received": 0,
                    "imports": 1, "import_misses": 2, "exports": 2 },
                "hot": { "bytes": 0, "limit": 1024 }, "requests_in_flight": 1, "collector": { "running": false,
                    "last": null, "deleted_bytes": 0, "condemned_bytes": 0, "skipped": null },
                "scopes_in_all": 3, "scopes": [{ "scope": "default~pr-1-0123456789abcdef0123456789abcdef", "text": "pr:1",
                    "repositories": 1, "tags": 1, "bytes": 512, "quota": null, "last": null }],
            }))
        };
        assert!(with(Value::Null).contains("1.0 KiB, - without sharing"));
        let shown = with("2026-01-01T00:00:00Z".into());
        for part in [
            "larder 1.2.3, ready",
            "1.0 KiB, 4.0 KiB without sharing",
            "75 % of 4 that imports asked for",
            "2.0 KiB that clients need not send: 90 % of 10 blobs",
            "512 B of it from memory",
            "1 of 3 imports found a cache, 2 exports",
            "not yet",
            "default",
            "pr-1-01234567 ",
            " pr:1 ",
            "and 2 more: larder ls --scopes",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
    }

    #[test]
    fn what_is_not_told_is_not_shown_as_nothing() {
        let shown = shown(json!({
            "version": "1.2.3", "began": "2026-01-01T00:00:00Z", "now": "2026-01-02T00:00:00Z",
            "repositories": [], "repositories_in_all": 0, "tags": [], "tags_in_all": 0, "events": [], "evictions": [],
        }));
        assert!(shown.starts_with("server     larder 1.2.3, ready"), "{shown}");
        let lines = ["stored", "hits", "not sent", "served", "builds", "memory", "now", "collected"];
        for name in lines {
            assert!(shown.contains(&format!("\n{name:10} not shown\n")), "{name} in\n{shown}");
        }
        assert!(!shown.contains("0 B") && !shown.contains("TENANT") && shown.contains("may administer"), "{shown}");
    }
}
