//! `larder inspect`: what a tag is made of.

use anyhow::bail;
use clap::Args;
use larder::buildkit::Explanation;
use larder::cache::{Inspection, WITHOUT_MAX};
use larder::human::{bytes, percent};
use serde_json::Value;

use super::ask::AskedServer;

/// Asks a running server what a tag serves and what it was made of.
#[derive(Args)]
pub struct Inspect {
    /// The tag, written as for a builder: HOST:PORT/REPOSITORY:TAG. Credentials are those of `docker login`.
    #[arg(value_name = "REF")]
    reference: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Certificates (PEM) to trust, in addition to those of the system.
    #[arg(long, value_name = "FILE")]
    ca: Option<std::path::PathBuf>,
}

impl Inspect {
    pub async fn run(self) -> anyhow::Result<()> {
        let (scheme, rest) = match self.reference.split_once("://") {
            Some((scheme, rest)) => (format!("{scheme}://"), rest),
            None => (String::new(), &*self.reference),
        };
        let Some((host, name)) = rest.split_once('/') else {
            bail!("{} is not HOST:PORT/REPOSITORY:TAG", self.reference);
        };
        let server = format!("{scheme}{host}");
        let (asked, query) = (AskedServer::of(&server, self.ca.as_deref()).await?, [("ref", name)]);
        if self.json {
            println!("{}", serde_json::to_string_pretty(&asked.get::<Value>("/api/inspect", &query).await?)?);
        } else {
            print!("{}", render(&asked.get("/api/inspect", &query).await?));
        }
        Ok(())
    }
}

fn render(tag: &Inspection) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    let made = if tag.is_view { "a view" } else { "as pushed" };
    line(format!("{}:{}", tag.repo, tag.tag));
    if let Some(kind) = &tag.kind {
        line(format!("  is       {kind}"));
    }
    line(format!("  serves   {} ({made})", tag.served.digest));
    line(format!("  pushed   {:.0}", tag.pushed));
    for image in &tag.images {
        let (platform, layers) = (image.platform.as_deref().unwrap_or("unknown platform"), image.layers.len());
        line(format!("  image    {platform}, {layers} layers, {}: {}", bytes(image.layer_bytes), image.manifest));
        image.layers.iter().for_each(|layer| line(format!("           {:>10}  {}", bytes(layer.bytes), layer.digest)));
    }
    if let Some(why) = &tag.explanation {
        explain(why, tag.limit_bytes.unwrap_or(1), &mut line);
    }
    if !tag.pushes.is_empty() {
        line(String::new());
        line(format!("  {:20} {:>8} {:>7} {:>12} {:>10}  push", "at", "records", "layers", "layer bytes", "config"));
    }
    for push in &tag.pushes {
        line(format!(
            "  {:20} {:>8} {:>7} {:>12} {:>10}  {} {}",
            format!("{:.0}", push.at),
            push.records,
            push.layers,
            bytes(push.layer_bytes),
            bytes(push.config_bytes),
            push.manifest,
            push.error.as_deref().unwrap_or_default(),
        ));
        if push.without_max {
            line(format!("  {:20} {WITHOUT_MAX}", ""));
        }
    }
    out
}

/// Size and parts of a view, and what it leaves out.
fn explain(why: &Explanation, limit_bytes: u64, line: &mut impl FnMut(String)) {
    for (name, size) in [("manifest", why.manifest_bytes as u64), ("config", why.config_bytes as u64)] {
        let share = percent(size, limit_bytes);
        line(format!("  {name:8} {} ({share} % of what BuildKit imports)", bytes(size)));
    }
    for (name, got, gave) in [
        ("pushes", why.pushes_in, why.pushes_out),
        ("records", why.records_in, why.records_out),
        ("results", why.results_in, why.results_out),
        ("layers", why.layers_in, why.layers_out),
    ] {
        let before = if gave == got { String::new() } else { format!(" ({got} before merging)") };
        line(format!("  {name:8} {gave}{before}"));
    }
    line(format!("  missing  {} layers are not in the store", why.missing_layers.len()));
    why.missing_layers.iter().for_each(|digest| line(format!("           {digest}")));
    for (count, meaning) in [
        (why.splits, "steps had several results and are kept apart"),
        (why.bounded_splits, "of these separated less finely than possible, because of a limit"),
        (why.trimmed_records, "records left out for size"),
        (why.trimmed_results, "results left out for size"),
        (why.loop_links, "links left out because they close a loop"),
    ] {
        if count > 0 {
            line(format!("           {count} {meaning}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_cache_is_called_what_it_is() {
        let shown = |kind: serde_json::Value| {
            let answer = serde_json::json!({
                "repo": "a", "tag": "t", "is_view": false, "pushed": "2026-01-01T00:00:00Z", "pushes": [], "kind": kind,
                "served": { "digest": format!("sha256:{}", "0".repeat(64)), "media_type": "m", "size": 1 },
            });
            render(&serde_json::from_value(answer).unwrap())
        };
        assert!(shown("cache_index".into()).contains("builders import nothing from it"));
        assert!(shown("image".into()).contains("an image, not a cache"));
        let artifact = serde_json::json!({ "artifact": "application/vnd.example" });
        assert!(shown(artifact).contains("an artifact of the type application/vnd.example"));
        assert!(!shown(serde_json::Value::Null).contains(" is "));
    }

    #[test]
    fn a_person_sees_what_is_missing_and_how_near_the_limit_is() {
        let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let answer = serde_json::json!({
            "repo": "a", "tag": "t", "is_view": true, "limit_bytes": 1 << 20, "pushed": "2026-01-01T00:00:00Z",
            "served": { "digest": digest("0"), "media_type": "application/json", "size": 1 << 19 },
            "explanation": { "manifest_bytes": 1 << 19, "config_bytes": 1024, "missing_layers": [digest("1")],
                "splits": 2, "pushes_in": 2, "pushes_out": 2, "records_in": 9, "records_out": 5 },
            "pushes": [{ "at": "2026-01-01T00:00:00.123456789Z", "without_max": true, "manifest": digest("2"), "manifest_bytes": 1, "config_bytes": 1,
                "records": 4, "layers": 1, "layer_bytes": 2048 }],
        });
        let shown = render(&serde_json::from_value(answer).unwrap());
        for part in [
            "a:t",
            "a view",
            "50 %",
            "1 layers are not",
            &digest("1"),
            "2 steps had",
            "records  5 (9 before merging)\n",
            "pushes   2\n",
            "  2026-01-01T00:00:00Z ",
            "pushed without mode=max, it seems",
            "2.0 KiB",
            &digest("2"),
        ] {
            assert!(shown.contains(part), "{part} in:\n{shown}");
        }
    }
}
