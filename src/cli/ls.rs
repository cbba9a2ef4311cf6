//! `larder ls`: repositories and tags of a running server.

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use larder::human::bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ask::{AskedServer, Trust};
use super::show::{ago, table};

/// Lists repositories, or the tags of one, as the server last counted them.
#[derive(Args)]
pub struct ListCommand {
    /// The server, or a repository of it: HOST:PORT, or HOST:PORT/REPOSITORY.
    #[arg(value_name = "WHERE", env = "LARDER_SERVER", default_value = "127.0.0.1:5000")]
    place: String,
    #[command(flatten)]
    trust: Trust,
    /// Only repositories and tags with this text in their name.
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Print JSON, a line for each repository or tag.
    #[arg(long)]
    json: bool,
}

const REPOSITORIES: &[&str] = &["REPOSITORY", "TENANT", ">TAGS", ">SIZE", ">UNSHARED", "LAST USE"];
const TAGS: &[&str] = &["TAG", ">SIZE", ">SHARED", ">PUSHES", "LAST USE", "PUSHED"];
/// Pages that are asked for at most.
const PAGES_MAX: usize = 1000;

impl ListCommand {
    pub async fn run(self) -> anyhow::Result<()> {
        let scheme = self.place.find("://").map_or(0, |at| at + "://".len());
        let end = self.place[scheme..].find('/').map_or(self.place.len(), |at| scheme + at);
        let (server, repo) = self.place.split_at(end);
        let asked = AskedServer::of(server, self.trust.ca.as_deref()).await?;
        let (repo, search) = (repo.trim_matches('/'), self.search.as_deref().unwrap_or_default());
        if !repo.is_empty() && !search.is_empty() {
            bail!("--search looks through all repositories: give the server alone");
        }
        if !repo.is_empty() {
            let tags = all(&asked, &format!("/api/repo/{repo}"), "", "tags").await?;
            return self.print(tags, TAGS, tag_row);
        }
        if !search.is_empty() {
            let mut found: Value = asked.get("/api/repositories", &[("q", search)]).await?;
            self.print(taken(&mut found, "tags"), TAGS, tag_row)?;
        }
        let repos = all(&asked, "/api/repositories", search, "repositories").await?;
        self.print(repos, REPOSITORIES, repo_row)
    }

    fn print<T: DeserializeOwned>(
        &self,
        rows: Vec<Value>,
        headings: &[&str],
        row: fn(T) -> Vec<String>,
    ) -> anyhow::Result<()> {
        if self.json {
            rows.iter().for_each(|row| println!("{row}"));
        } else if !rows.is_empty() {
            let rows: Vec<T> = rows.into_iter().map(serde_json::from_value).collect::<Result<_, _>>()?;
            print!("{}", table(headings, &rows.into_iter().map(row).collect::<Vec<_>>()));
        }
        Ok(())
    }
}

/// The rows of a page.
fn taken(page: &mut Value, name: &str) -> Vec<Value> {
    match page.get_mut(name).map(Value::take) {
        Some(Value::Array(rows)) => rows,
        _ => Vec::new(),
    }
}

/// All pages of a list.
async fn all(asked: &AskedServer, path: &str, search: &str, rows: &str) -> anyhow::Result<Vec<Value>> {
    let mut found = Vec::new();
    for _ in 0..PAGES_MAX {
        let from = found.len().to_string();
        let mut page: Value = asked.get(path, &[("q", search), ("from", &from)]).await?;
        let more = taken(&mut page, rows);
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    Ok(found)
}

/// What a person sees of a repository.
#[derive(Deserialize)]
struct RepositoryRow {
    repo: String,
    tenant: String,
    tags: u64,
    bytes: Option<u64>,
    named_bytes: u64,
    last: Timestamp,
}

/// What a person sees of a tag.
#[derive(Deserialize)]
struct Tag {
    repo: String,
    tag: String,
    bytes: u64,
    shared: Option<u64>,
    pushes: u64,
    used: Option<Timestamp>,
    pushed: Timestamp,
}

fn size(size: Option<u64>) -> String {
    size.map_or("-".to_string(), bytes)
}

fn repo_row(row: RepositoryRow) -> Vec<String> {
    let (tags, unshared) = (row.tags.to_string(), bytes(row.named_bytes));
    vec![row.repo, row.tenant, tags, size(row.bytes), unshared, ago(Some(row.last))]
}

fn tag_row(row: Tag) -> Vec<String> {
    let (name, pushed) = (format!("{}:{}", row.repo, row.tag), Some(row.pushed));
    let (bytes, shared) = (bytes(row.bytes), size(row.shared));
    vec![name, bytes, shared, row.pushes.to_string(), ago(row.used.or(pushed)), ago(pushed)]
}
