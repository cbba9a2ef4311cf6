//! `larder ls`: repositories and tags of a running server.

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use larder::human::{bytes, minute};
use larder::names::Tenant;
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
    /// List scopes instead: whom each is for, what it stores, and its last use. For callers that may administer.
    #[arg(long, conflicts_with = "search")]
    scopes: bool,
    /// Print JSON, a line for each repository, tag or scope.
    #[arg(long)]
    json: bool,
}

const REPOSITORIES: &[&str] = &["REPOSITORY", "TENANT", ">TAGS", ">SIZE", ">WITHOUT SHARING", "LAST USE"];
const SCOPES: &[&str] = &["SCOPE", "FOR", "TENANT", ">SIZE", ">QUOTA", ">TAGS", "LAST USE"];
const TAGS: &[&str] = &["TAG", ">SIZE", ">SHARED", ">PUSHES", "LAST USE", "PUSHED", "DELETION"];
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
        if self.scopes && !repo.is_empty() {
            bail!("--scopes lists the scopes of a server: give the server alone");
        }
        if self.scopes {
            let mut found: Value = asked.get("/api/scopes", &[]).await?;
            let scopes = taken(&mut found, "scopes");
            if scopes.is_empty() {
                eprintln!("no scopes yet");
            }
            return self.print(scopes, SCOPES, scope_row);
        }
        if !repo.is_empty() {
            let tags = all(&asked, &format!("/api/repo/{repo}"), "", "tags").await?;
            return self.print(tags, TAGS, tag_row);
        }
        let mut has_tags = false;
        if !search.is_empty() {
            let mut found: Value = asked.get("/api/repositories", &[("q", search)]).await?;
            let tags = taken(&mut found, "tags");
            has_tags = !tags.is_empty();
            self.print(tags, TAGS, tag_row)?;
        }
        let repos = all(&asked, "/api/repositories", search, "repositories").await?;
        // On standard error: a program that reads the list finds it empty.
        match (repos.is_empty() && !has_tags, search) {
            (false, _) => {}
            (true, "") => eprintln!("no repositories yet"),
            (true, text) => eprintln!("no repository and no tag has {text} in its name"),
        }
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

/// The row of a repository.
#[derive(Deserialize)]
struct RepositoryRow {
    repo: String,
    tenant: String,
    tags: u64,
    bytes: Option<u64>,
    named_bytes: u64,
    last: Timestamp,
}

/// The row of a tag.
#[derive(Deserialize)]
struct Tag {
    repo: String,
    tag: String,
    bytes: u64,
    shared: Option<u64>,
    pushes: u64,
    used: Option<Timestamp>,
    pushed: Timestamp,
    pending_deletion: Option<ListedDeletion>,
}

/// The time from which a condemned tag may be deleted.
#[derive(Deserialize)]
struct ListedDeletion {
    due: Timestamp,
    bytes: Option<u64>,
}

/// The row of a scope.
#[derive(Deserialize)]
pub struct ListedScope {
    scope: String,
    text: Option<String>,
    bytes: u64,
    quota: Option<u64>,
    tags: u64,
    last: Option<Timestamp>,
}

/// The cells of a scope, below [`SCOPES`].
fn scope_row(row: ListedScope) -> Vec<String> {
    let tenant = row.scope.parse::<Tenant>();
    let (short, root) = match &tenant {
        Ok(tenant) => (tenant.short_scope().unwrap_or_default(), tenant.root()),
        Err(_) => (&*row.scope, "-"),
    };
    let text = row.text.unwrap_or("-".to_string());
    vec![short.into(), text, root.into(), bytes(row.bytes), size(row.quota), row.tags.to_string(), ago(row.last)]
}

/// A table of scopes.
pub fn scopes_table(scopes: Vec<ListedScope>) -> String {
    table(SCOPES, &scopes.into_iter().map(scope_row).collect::<Vec<_>>())
}

fn size(size: Option<u64>) -> String {
    size.map_or("-".to_string(), bytes)
}

fn repo_row(row: RepositoryRow) -> Vec<String> {
    // Before a count nothing is known of what is shared.
    let without_sharing = size(row.bytes.map(|_| row.named_bytes));
    vec![row.repo, row.tenant, row.tags.to_string(), size(row.bytes), without_sharing, ago(Some(row.last))]
}

fn tag_row(row: Tag) -> Vec<String> {
    let (name, pushed) = (format!("{}:{}", row.repo, row.tag), Some(row.pushed));
    let (bytes, shared) = (bytes(row.bytes), size(row.shared));
    let deletion = row.pending_deletion.map_or("-".to_string(), deletion);
    vec![name, bytes, shared, row.pushes.to_string(), ago(row.used.or(pushed)), ago(pushed), deletion]
}

fn deletion(pending: ListedDeletion) -> String {
    let frees = pending.bytes.map(|freed| format!(", frees up to {}", bytes(freed))).unwrap_or_default();
    format!("after {}{frees}, unless used", minute(pending.due))
}
