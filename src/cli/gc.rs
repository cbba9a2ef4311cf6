//! `larder gc`: collect once, now.

use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use larder::app::{self, App};
use larder::config::{Config, policies_of_file};
use larder::lifetime::collect::{Report, Sum};
use serde::Deserialize;

use super::lines::OpenServer;
use super::show::ProgressLine;
use larder::human::bytes;

/// Deletes what nothing names any more, and what policies let go.
///
/// Servers do this by themselves; this is for doing it now, and for seeing what they would do. A store of files that a
/// server has open is collected by that server.
#[derive(Args)]
#[command(after_help = "Exit status: 0 collected, 1 nothing could be collected.")]
pub struct Gc {
    /// Delete nothing; show what would be deleted, and why.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A message of a server about a collection.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum CollectionMessage {
    Done(Box<Report>),
    Failed(String),
}

impl Gc {
    /// `file` is the configuration file that was given, if any.
    pub async fn run(self, config: Config, file: Option<&Path>) -> anyhow::Result<ExitCode> {
        let mut progress = ProgressLine::new(self.json);
        let told = match App::open_existing(config.clone()).await {
            Ok(app) => match progress.during("collecting", app.collect(self.dry_run)).await {
                Ok(report) => Some(CollectionMessage::Done(Box::new((*report).clone()))),
                Err(error) => Some(CollectionMessage::Failed(error.to_string())),
            },
            Err(error) if app::is_in_use(&error) => {
                let query = [("dry_run", if self.dry_run { "true" } else { "false" })];
                let mut last = None;
                let server = OpenServer::of(&config).await?;
                let policies = match file.filter(|_| self.dry_run) {
                    Some(file) => policies_of_file(file)?,
                    None => String::new(),
                };
                match file.filter(|_| self.dry_run) {
                    Some(file) => {
                        eprintln!("asked the server at {}, with the policies of {}", server.url(), file.display())
                    }
                    None => eprintln!("asked the server at {}: its own policies count", server.url()),
                }
                let order = server.order("/api/gc", &query, policies, |told: CollectionMessage| last = Some(told));
                progress.during("the server collects", order).await?;
                last
            }
            Err(error) => return Err(error),
        };
        let report = match told {
            Some(CollectionMessage::Done(report)) => report,
            Some(CollectionMessage::Failed(reason)) => bail!("cannot collect: {reason}"),
            None => bail!("the collection was aborted"),
        };
        match self.json {
            true => println!("{}", serde_json::to_string(&report)?),
            false => print!("{}", render(&report)),
        }
        Ok(if report.skipped.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn sum(sum: Sum) -> String {
    format!("{} objects, {}", sum.objects, bytes(sum.bytes))
}

fn render(report: &Report) -> String {
    if let Some(skipped) = &report.skipped {
        return format!("nothing was deleted: {skipped}\n");
    }
    let condemned = if report.dry { "would be condemned" } else { "condemned" };
    let mut out = String::new();
    for decision in &report.decisions {
        let layer = decision.layer.as_ref().map(|layer| format!(" layer {layer}")).unwrap_or_default();
        let (repo, tag, bytes, why) = (&decision.repo, &decision.tag, bytes(decision.bytes), &decision.why);
        out.push_str(&format!("{repo}:{tag}{layer} {condemned}, {bytes}: {why}\n"));
    }
    let all: u64 = report.going.values().map(|sum| sum.objects).sum();
    if let Some(more) = all.checked_sub(report.decisions.len() as u64).filter(|more| *more > 0) {
        out.push_str(&format!("and {more} more\n"));
    }
    for (tenant, found) in &report.tenants {
        let (blobs, live) = (sum(found.blobs), sum(found.live));
        out.push_str(&format!(
            "tenant {tenant}: {} tags, {} manifests, blobs {blobs}, of which referenced {live}\n",
            found.tags, found.manifests
        ));
        if found.young.objects > 0 {
            out.push_str(&format!("tenant {tenant}: {} unreferenced, too recent to be condemned\n", sum(found.young)));
        }
        if let Some(shortfall) = &found.shortfall {
            out.push_str(&format!("tenant {tenant} {shortfall}\n"));
        }
    }
    out.push_str(&format!("{condemned}: {}\n", sum(report.condemned)));
    if !report.dry {
        out.push_str(&format!("deleted:   {}\n", sum(report.deleted)));
        let (kept, spared) = (report.kept, report.spared);
        out.push_str(&format!("kept:      {kept} referenced again, {spared} in use\n"));
    }
    out.push_str(&format!("{} objects listed and {} read in {:.1} s\n", report.objects, report.reads, report.seconds));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(told: serde_json::Value) -> Report {
        serde_json::from_value(told).unwrap()
    }

    #[test]
    fn people_see_what_goes_and_why() {
        let dry = report(json!({
            "dry": true, "objects": 10, "reads": 2, "seconds": 0.51,
            "condemned": { "objects": 3, "bytes": 4096 },
            "tenants": { "default": { "young": { "objects": 1, "bytes": 2048 },
                "shortfall": { "bytes": 4096, "in_use": 2, "protected": 1, "next": "2026-05-01T17:19:05Z" }, "tags": 2, "manifests": 3, "blobs": { "objects": 5, "bytes": 1024 },
                "live": { "objects": 4, "bytes": 512 } } },
            "going": { "unused": { "objects": 1, "bytes": 0 }, "room": { "objects": 4, "bytes": 400 } },
            "decisions": [
                { "tenant": "default", "repo": "a", "tag": "pr-1", "bytes": 100, "known": true,
                    "reason": { "unused": { "seconds": 691_200 } }, "why": "not used for 8 days" },
                { "tenant": "default", "repo": "a", "tag": "main", "layer": "ab", "bytes": 100, "known": false,
                    "reason": { "room": { "seconds": 7200 } }, "why": "evicted for space; last used 2 hours ago" },
            ],
        }));
        let shown = render(&dry);
        for part in [
            "a:pr-1 would be condemned, 100 B: not used for 8 days",
            "a:main layer ab would be condemned, 100 B: evicted for space; last used 2 hours ago",
            "and 3 more",
            "tenant default: 2 tags, 3 manifests",
            "tenant default: 1 objects, 2.0 KiB unreferenced, too recent to be condemned",
            "tenant default has to free 4.0 KiB more and cannot: 2 tags in use too recently, 1 tag protected by a policy; \
             the next eviction is possible from 2026-05-01 17:20 UTC",
            "would be condemned: 3 objects, 4.0 KiB",
            "10 objects listed and 2 read in 0.5 s",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
        assert!(render(&report(json!({ "skipped": "because" }))).contains("nothing was deleted: because"));
    }
}
