//! `larder gc`: collect once, now.

use std::process::ExitCode;

use anyhow::{anyhow, bail};
use clap::Args;
use larder::app::{self, App};
use larder::config::Config;
use serde_json::Value;

use super::lines::Server;
use super::show::Progress;
use larder::human::bytes;

/// Deletes what nothing names any more, and what policies let go.
///
/// Servers do this by themselves; this is for doing it now, and for seeing what they would do. A store of files that a
/// server has open is collected by that server.
#[derive(Args)]
#[command(after_help = "Exit status: 0 collected, 1 nothing could be collected.")]
pub struct Gc {
    /// Change nothing, and say what would go, and why.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Gc {
    pub async fn run(self, config: Config) -> anyhow::Result<ExitCode> {
        let (mut report, mut progress) = (None, Progress::new(self.json));
        match App::open_existing(config.clone()).await {
            Ok(app) => {
                let done = progress
                    .during("collecting", app.collect(self.dry_run))
                    .await
                    .map_err(|error| anyhow!("cannot collect: {error}"))?;
                report = Some(serde_json::to_value(&*done)?);
            }
            Err(error) if app::is_in_use(&error) => {
                let query = [("dry_run", if self.dry_run { "true" } else { "false" })];
                let mut failed = None;
                let each = |mut line: Value| {
                    failed = line["failed"].as_str().map(str::to_string);
                    report = line.get_mut("done").map(Value::take);
                };
                let server = Server::of(&config).await?;
                progress.during("the server collects", server.order("/api/gc", &query, each)).await?;
                if let Some(reason) = failed {
                    bail!("cannot collect: {reason}");
                }
            }
            Err(error) => return Err(error),
        }
        let Some(report) = report else { bail!("the collection ended before its end") };
        if self.json {
            println!("{report}");
        } else {
            print!("{}", render(&report));
        }
        Ok(if report["skipped"].is_string() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

fn sum(sum: &Value) -> String {
    format!("{} objects, {}", sum["objects"].as_u64().unwrap_or(0), bytes(sum["bytes"].as_u64().unwrap_or(0)))
}

fn render(report: &Value) -> String {
    if let Some(skipped) = report["skipped"].as_str() {
        return format!("nothing was deleted: {skipped}\n");
    }
    let mut out = String::new();
    for decision in report["decisions"].as_array().map_or(&[][..], |decisions| decisions) {
        let text = |name: &str| decision[name].as_str().unwrap_or_default().to_string();
        let layer = decision["layer"].as_str().map(|layer| format!(" layer {layer}")).unwrap_or_default();
        let bytes = bytes(decision["bytes"].as_u64().unwrap_or(0));
        out.push_str(&format!("{}:{}{layer} goes, {bytes}: {}\n", text("repo"), text("tag"), text("why")));
    }
    let named = report["decisions"].as_array().map_or(0, Vec::len) as u64;
    let all = report["going"].as_object().into_iter().flatten().filter_map(|(_, sum)| sum["objects"].as_u64());
    if let Some(more) = all.sum::<u64>().checked_sub(named).filter(|more| *more > 0) {
        out.push_str(&format!("and {more} more\n"));
    }
    for (tenant, found) in report["tenants"].as_object().into_iter().flatten() {
        let (blobs, live) = (sum(&found["blobs"]), sum(&found["live"]));
        out.push_str(&format!(
            "tenant {tenant}: {} tags, {} manifests, blobs {blobs}, of which named {live}\n",
            found["tags"], found["manifests"]
        ));
    }
    let would = if report["dry"] == true { "would be condemned" } else { "condemned" };
    out.push_str(&format!("{would}: {}\n", sum(&report["condemned"])));
    if report["dry"] != true {
        out.push_str(&format!("deleted:   {}\n", sum(&report["deleted"])));
        let (kept, spared) = (report["kept"].as_u64().unwrap_or(0), report["spared"].as_u64().unwrap_or(0));
        out.push_str(&format!("stay of what was condemned: {kept} named again, {spared} relied on\n"));
    }
    out.push_str(&format!(
        "{} objects listed and {} read in {:.1} s\n",
        report["objects"],
        report["reads"],
        report["seconds"].as_f64().unwrap_or(0.0)
    ));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn people_see_what_goes_and_why() {
        let report = json!({
            "dry": true, "objects": 10, "reads": 2, "seconds": 0.51,
            "condemned": { "objects": 3, "bytes": 4096 },
            "tenants": { "default": { "tags": 2, "manifests": 3, "blobs": { "objects": 5, "bytes": 1024 },
                "live": { "objects": 4, "bytes": 512 } } },
            "going": { "unused": { "objects": 1, "bytes": 0 }, "room": { "objects": 4, "bytes": 400 } },
            "decisions": [
                { "repo": "a", "tag": "pr-1", "bytes": 100, "why": "not used for 8 days" },
                { "repo": "a", "tag": "main", "layer": "ab", "bytes": 100, "why": "to make room; last used 2 hours ago" },
            ],
        });
        let shown = render(&report);
        for part in [
            "a:pr-1 goes, 100 B: not used for 8 days",
            "a:main layer ab goes, 100 B: to make room; last used 2 hours ago",
            "and 3 more",
            "tenant default: 2 tags, 3 manifests",
            "would be condemned: 3 objects, 4.0 KiB",
            "10 objects listed and 2 read in 0.5 s",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
        assert!(render(&json!({ "skipped": "because" })).contains("nothing was deleted: because"));
    }
}
