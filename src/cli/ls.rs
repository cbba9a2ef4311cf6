//! `larder ls`: repositories and tags of a running server.

use anyhow::bail;
use clap::Args;
use serde_json::Value;

use super::ask::{Asked, Trust};
use super::show::{ago, count, size, table, text};

/// Lists repositories, or the tags of one, as the server last counted them.
#[derive(Args)]
pub struct List {
    /// The server, or a repository of it: HOST:PORT, or HOST:PORT/REPOSITORY.
    #[arg(value_name = "WHERE", env = "LARDER_SERVER", default_value = "127.0.0.1:5000")]
    place: String,
    #[command(flatten)]
    trust: Trust,
    /// Only what has this in its name: repositories, and tags of any.
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Print JSON, a line for each repository or tag.
    #[arg(long)]
    json: bool,
}

/// Pages that are asked for at most.
const PAGES_MAX: usize = 1000;

impl List {
    pub async fn run(self) -> anyhow::Result<()> {
        let scheme = self.place.find("://").map_or(0, |at| at + "://".len());
        let end = self.place[scheme..].find('/').map_or(self.place.len(), |at| scheme + at);
        let (server, repo) = self.place.split_at(end);
        let asked = Asked::of(server, self.trust.ca.as_deref())?;
        let (repo, search) = (repo.trim_matches('/'), self.search.as_deref().unwrap_or_default());
        if !repo.is_empty() && !search.is_empty() {
            bail!("--search looks through all repositories: give the server alone");
        }
        if !repo.is_empty() {
            let tags = all(&asked, &format!("/api/repo/{repo}"), "", "tags").await?;
            return self.print(&tags, tag_table);
        }
        if !search.is_empty() {
            let found = asked.get("/api/repositories", &[("q", search)]).await?;
            self.print(found["tags"].as_array().map_or(&[][..], |tags| tags), tag_table)?;
        }
        let repos = all(&asked, "/api/repositories", search, "repositories").await?;
        self.print(&repos, repo_table)
    }

    fn print(&self, rows: &[Value], render: fn(&[Value]) -> String) -> anyhow::Result<()> {
        if self.json {
            rows.iter().for_each(|row| println!("{row}"));
        } else if !rows.is_empty() {
            print!("{}", render(rows));
        }
        Ok(())
    }
}

/// All pages of a list.
async fn all(asked: &Asked, path: &str, search: &str, rows: &str) -> anyhow::Result<Vec<Value>> {
    let mut found = Vec::new();
    for _ in 0..PAGES_MAX {
        let from = found.len().to_string();
        let mut page = asked.get(path, &[("q", search), ("from", &from)]).await?;
        let Some(Value::Array(more)) = page.get_mut(rows).map(Value::take) else { break };
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    Ok(found)
}

fn repo_table(rows: &[Value]) -> String {
    let row = |row: &Value| {
        vec![
            text(&row["repo"]).to_string(),
            text(&row["tenant"]).to_string(),
            count(&row["tags"]),
            size(&row["bytes"]),
            size(&row["named_bytes"]),
            ago(&row["last"]),
        ]
    };
    let rows: Vec<Vec<String>> = rows.iter().map(row).collect();
    table(&["REPOSITORY", "TENANT", ">TAGS", ">SIZE", ">UNSHARED", "LAST USE"], &rows)
}

fn tag_table(rows: &[Value]) -> String {
    let row = |row: &Value| {
        let used = if row["used"].is_string() { &row["used"] } else { &row["pushed"] };
        vec![
            format!("{}:{}", text(&row["repo"]), text(&row["tag"])),
            size(&row["bytes"]),
            size(&row["shared"]),
            count(&row["pushes"]),
            ago(used),
            ago(&row["pushed"]),
        ]
    };
    let rows: Vec<Vec<String>> = rows.iter().map(row).collect();
    table(&["TAG", ">SIZE", ">SHARED", ">PUSHES", "LAST USE", "PUSHED"], &rows)
}
