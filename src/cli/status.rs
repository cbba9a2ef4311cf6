//! `larder status`: how a running server is.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::ask::Server;
use super::show::{ago, count, size, table, text};
use larder::human::bytes;

/// Says what a running server has, does, and saves.
#[derive(Args)]
#[command(after_help = "Exit status: 0 the server is ready, 1 it does not answer, 3 it answers and is not ready.")]
pub struct Status {
    #[command(flatten)]
    server: Server,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

const NOT_READY: u8 = 3;

impl Status {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let asked = self.server.asked()?;
        let (ready, said) = asked.ready().await?;
        let mut overview = asked.get("/api/overview", &[]).await?;
        if self.json {
            overview["ready"] = ready.into();
            println!("{}", serde_json::to_string_pretty(&overview)?);
        } else {
            print!("{}", render(&said, &overview));
        }
        Ok(if ready { ExitCode::SUCCESS } else { ExitCode::from(NOT_READY) })
    }
}

fn render(said: &str, overview: &Value) -> String {
    let sum = |name: &str| -> u64 { list(&overview["tenants"]).iter().filter_map(|one| one[name].as_u64()).sum() };
    let so_far = &overview["so_far"];
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let all = number(&so_far["hits"]) + number(&so_far["misses"]);
    let hits = (number(&so_far["hits"]) * 100)
        .checked_div(all)
        .map_or("nothing asked for yet".to_string(), |percent| format!("{percent} % of {all} lookups"));
    let served: Vec<u64> = list(&so_far["served"]).iter().map(number).collect();
    let hot = &overview["hot"];
    // Who may not administer is not told what concerns all.
    let whole = overview["tenants"].is_array();
    let mut out = String::new();
    for (name, value) in [
        ("server", format!("larder {}, {said}, since {}", text(&overview["version"]), ago(&overview["began"]))),
        ("stored", format!("{}, {} without sharing", bytes(sum("bytes")), bytes(sum("named_bytes")))),
        ("hits", hits),
        ("not sent", format!("{} that clients need not send", size(&so_far["saved"]))),
        (
            "served",
            format!(
                "{}, {} of it from memory",
                bytes(served.iter().sum()),
                bytes(served.first().copied().unwrap_or(0))
            ),
        ),
        ("builds", format!("{} imports, {} exports", count(&so_far["imports"]), count(&so_far["exports"]))),
        ("memory", format!("{} of {} in the hot layer", size(&hot["bytes"]), size(&hot["limit"]))),
        ("now", format!("{} requests, {} arriving", count(&overview["requests_in_flight"]), bytes(sum("arriving")))),
        ("collected", collector(&overview["collector"])),
    ] {
        let value = if whole || name == "server" { value } else { "not shown".to_string() };
        out.push_str(&format!("{name:10} {value}\n"));
    }
    if !whole {
        out.push_str("\nNumbers of the server and of tenants are shown to who may administer.\n");
        return out;
    }
    let rows: Vec<Vec<String>> = list(&overview["tenants"])
        .iter()
        .map(|tenant| {
            let quota = &tenant["quota"];
            vec![
                text(&tenant["tenant"]).to_string(),
                size(&tenant["bytes"]),
                if quota.is_null() { "-".to_string() } else { size(&quota["max"]) },
                count(&tenant["repositories"]),
                count(&tenant["tags"]),
                ago(&tenant["counted"]),
            ]
        })
        .collect();
    out.push('\n');
    out.push_str(&table(&["TENANT", ">STORED", ">QUOTA", ">REPOSITORIES", ">TAGS", "COUNTED"], &rows));
    out
}

fn collector(collector: &Value) -> String {
    match (collector["skipped"].as_str(), collector["running"] == true, collector["last"].is_string()) {
        (Some(why), ..) => format!("never: {why}"),
        (None, true, _) => "just now".to_string(),
        (None, false, true) => format!(
            "{}: {} deleted, {} condemned",
            ago(&collector["last"]),
            size(&collector["deleted_bytes"]),
            size(&collector["condemned_bytes"])
        ),
        (None, false, false) => "not yet".to_string(),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], |list| list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn people_see_what_it_has_and_what_it_saves() {
        let shown = render(
            "ready",
            &json!({
                "version": "1.2.3", "began": "2026-01-01T00:00:00Z",
                "tenants": [{ "tenant": "default", "bytes": 1024, "named_bytes": 4096, "arriving": 0, "repositories": 2,
                    "tags": 3, "quota": { "max": 2048 }, "counted": null }],
                "so_far": { "hits": 3, "misses": 1, "served": [512, 512, 0], "saved": 2048, "imports": 1, "exports": 2 },
                "hot": { "bytes": 0, "limit": 1024 }, "requests_in_flight": 1, "collector": { "running": false },
            }),
        );
        for part in [
            "larder 1.2.3, ready",
            "1.0 KiB, 4.0 KiB without sharing",
            "75 % of 4 lookups",
            "2.0 KiB that clients",
            "512 B of it from memory",
            "1 imports, 2 exports",
            "not yet",
            "default",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
    }
    #[test]
    fn what_is_not_told_is_not_shown_as_nothing() {
        let shown = render(
            "ready",
            &json!({
                "version": "1.2.3", "began": "2026-01-01T00:00:00Z", "now": "2026-01-02T00:00:00Z",
                "repositories": [], "repositories_in_all": 0, "tags": [], "tags_in_all": 0, "events": [], "evictions": [],
            }),
        );
        assert!(shown.starts_with("server     larder 1.2.3, ready"), "{shown}");
        let lines = ["stored", "hits", "not sent", "served", "builds", "memory", "now", "collected"];
        for name in lines {
            assert!(shown.contains(&format!("\n{name:10} not shown\n")), "{name} in\n{shown}");
        }
        assert!(!shown.contains("0 B") && !shown.contains("TENANT") && shown.contains("may administer"), "{shown}");
    }
}
