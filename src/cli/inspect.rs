//! `larder inspect`: what a tag is made of.

use anyhow::bail;
use bytesize::ByteSize;
use clap::Args;
use serde_json::Value;

use super::ask::Asked;

/// Asks a running server what a tag serves and what it was made of.
#[derive(Args)]
pub struct Inspect {
    /// The tag, written as for a builder: HOST:PORT/REPOSITORY:TAG. Credentials are those of `docker login`.
    #[arg(value_name = "REF")]
    reference: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Certificates (PEM) to trust beside those of the system.
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
        let answer = Asked::of(&server, self.ca.as_deref())?.get("/api/inspect", &[("ref", name)]).await?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&answer)?);
        } else {
            print!("{}", render(&answer));
        }
        Ok(())
    }
}

fn bytes(value: &Value) -> String {
    ByteSize(value.as_u64().unwrap_or(0)).display().iec().to_string()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn render(answer: &Value) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    let made = if answer["is_view"] == true { "a view" } else { "as pushed" };
    line(format!("{}:{}", text(&answer["repo"]), text(&answer["tag"])));
    line(format!("  serves   {} ({made})", text(&answer["served"]["digest"])));
    line(format!("  pushed   {}", text(&answer["pushed"])));
    let why = &answer["explanation"];
    if why.is_object() {
        let limit = answer["limit_bytes"].as_u64().unwrap_or(1).max(1);
        let near = |value: &Value| {
            let share = value.as_u64().unwrap_or(0) * 100 / limit;
            format!("{} ({share} % of what BuildKit imports)", bytes(value))
        };
        line(format!("  manifest {}", near(&why["manifest_bytes"])));
        line(format!("  config   {}", near(&why["config_bytes"])));
        for (name, what) in [("pushes", "pushes"), ("records", "records"), ("results", "results"), ("layers", "layers")]
        {
            let (got, gave) = (&why[format!("{what}_in")], &why[format!("{what}_out")]);
            line(format!("  {name:8} {gave} of {got}"));
        }
        let missing = why["missing_layers"].as_array().map_or(&[][..], |missing| missing);
        line(format!("  missing  {} layers are not in the store", missing.len()));
        missing.iter().for_each(|digest| line(format!("           {}", text(digest))));
        for (key, meaning) in [
            ("splits", "steps had several results and are kept apart"),
            ("bounded_splits", "of them more coarsely than could be"),
            ("trimmed_records", "records left out for size"),
            ("trimmed_results", "results left out for size"),
            ("loop_links", "links left out that closed a loop"),
        ] {
            if why[key].as_u64().unwrap_or(0) > 0 {
                line(format!("           {} {meaning}", why[key]));
            }
        }
    }
    let pushes = answer["pushes"].as_array().map_or(&[][..], |pushes| pushes);
    if !pushes.is_empty() {
        line(String::new());
        line(format!("  {:30} {:>8} {:>7} {:>12} {:>10}  push", "at", "records", "layers", "layer bytes", "config"));
    }
    for push in pushes {
        line(format!(
            "  {:30} {:>8} {:>7} {:>12} {:>10}  {} {}",
            text(&push["at"]),
            push["records"].as_u64().unwrap_or(0),
            push["layers"].as_u64().unwrap_or(0),
            bytes(&push["layer_bytes"]),
            bytes(&push["config_bytes"]),
            text(&push["manifest"]),
            push["error"].as_str().unwrap_or_default(),
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_what_is_missing_and_how_near_the_limit_is() {
        let answer = serde_json::json!({
            "repo": "a", "tag": "t", "is_view": true, "limit_bytes": 1 << 20,
            "served": { "digest": "sha256:00" }, "pushed": "2026-01-01T00:00:00Z",
            "explanation": { "manifest_bytes": 1 << 19, "config_bytes": 1024, "missing_layers": ["sha256:11"], "splits": 2,
                "pushes_in": 2, "pushes_out": 2, "records_in": 9, "records_out": 5 },
            "pushes": [{ "at": "2026-01-01T00:00:00Z", "manifest": "sha256:22", "records": 4, "layer_bytes": 2048 }],
        });
        let shown = render(&answer);
        for part in
            ["a:t", "a view", "50 %", "1 layers are not", "sha256:11", "2 steps had", "5 of 9", "2.0 KiB", "sha256:22"]
        {
            assert!(shown.contains(part), "{part} in:\n{shown}");
        }
    }
}
