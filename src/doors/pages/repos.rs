//! Repositories and tags: lists, search, and one repository with its tags.

use std::cmp::Reverse;

use jiff::Timestamp;
use maud::{Markup, html};
use serde::{Deserialize, Serialize};

use crate::cache::outline::IMPORT_LIMIT_BYTES;
use crate::doors::Doors;
use crate::doors::pages::frame::Column;
use crate::doors::pages::pending::{PendingDeletion, PendingDeletions};
use crate::doors::pages::visibility::Visibility;
use crate::doors::pages::{HtmlPage, PageError, frame, show};
use crate::names::{RepoName, Tag, Tenant};
use crate::refs::inventory::TagEntry;

/// Rows on one page of a list.
const PAGE: usize = 100;

/// The query of a list.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct RepoQuery {
    /// Part of the name of a repository or of a tag.
    q: String,
    tenant: String,
    /// The first row, of those that fit.
    from: usize,
}

/// One repository.
#[derive(Clone, Debug, Serialize)]
pub struct RepoRow {
    pub tenant: Tenant,
    pub repo: RepoName,
    pub tags: u64,
    /// Bytes of the blobs that it names, each counted once, when it has been counted; other repositories may name them
    /// too. Only for who may pull all of its tags.
    pub bytes: Option<u64>,
    /// The same for the tags that the caller may pull, each tag counted by itself.
    pub named_bytes: u64,
    pub last: Timestamp,
}

/// One tag.
#[derive(Clone, Debug, Serialize)]
pub struct TagRow {
    pub tenant: Tenant,
    pub repo: RepoName,
    pub tag: Tag,
    #[serde(flatten)]
    pub known: TagEntry,
    /// Its deletion, if it is condemned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_deletion: Option<PendingDeletion>,
}

/// The wanted part of the inventory, and the size of the whole.
#[derive(Default)]
pub struct Found {
    pub repositories: Vec<RepoRow>,
    pub repositories_in_all: usize,
    pub tags: Vec<TagRow>,
    pub tags_in_all: usize,
}

/// The largest repositories and the last used tags of those that the caller sees and `fits` takes, of each so many.
pub fn gather(
    doors: &Doors,
    visible: &Visibility<'_>,
    fits: &dyn Fn(&RepoName, Option<&Tag>) -> bool,
    most: usize,
) -> Found {
    let mut found = Found::default();
    // What is shown is copied, nothing else: there may be tens of thousands.
    for tenant in visible.tenants() {
        doors.store.stock().look(tenant, |repos| {
            for (repo, tags) in repos.iter().filter(|(repo, _)| visible.can_see_repo(tenant, repo)) {
                let seen: Vec<(&Tag, &TagEntry)> =
                    tags.iter().filter(|(tag, _)| visible.can_see_tag(tenant, repo, tag)).collect();
                if fits(repo, None) && !seen.is_empty() {
                    found.repositories.push(row(tenant, repo, &seen));
                }
                for (tag, known) in seen.into_iter().filter(|(tag, _)| fits(repo, Some(tag))) {
                    found.tags_in_all += 1;
                    keep_last(&mut found.tags, most, tenant, repo, tag, known);
                }
            }
        });
    }
    found.repositories_in_all = found.repositories.len();
    found.repositories.sort_by_key(|row| Reverse(row.named_bytes));
    found.repositories.truncate(most);
    for row in found.repositories.iter_mut().filter(|row| visible.can_see_all_of(&row.tenant, &row.repo)) {
        row.bytes = doors.store.usage().account(&row.tenant).counted_repo(&row.repo).map(|counted| counted.bytes);
    }
    found.tags.sort_by_key(|row| Reverse(row.known.last()));
    found.tags.truncate(most);
    mark_pending(doors, &mut found.tags);
    found
}

/// Marks the tags that are condemned.
fn mark_pending(doors: &Doors, rows: &mut [TagRow]) {
    let pending = PendingDeletions::of(doors);
    for row in rows {
        row.pending_deletion = pending.get(&row.tenant, &row.repo, &row.tag, row.known.last());
    }
}

/// Keeps the newest rows, in any order, and somewhat more than `most`.
fn keep_last(rows: &mut Vec<TagRow>, most: usize, tenant: &Tenant, repo: &RepoName, tag: &Tag, known: &TagEntry) {
    if rows.len() >= most * 2 {
        rows.sort_by_key(|row| Reverse(row.known.last()));
        rows.truncate(most);
    }
    if rows.len() < most || rows[..most].iter().any(|row| row.known.last() < known.last()) {
        let (tenant, repo, tag) = (tenant.clone(), repo.clone(), tag.clone());
        rows.push(TagRow { tenant, repo, tag, known: known.clone(), pending_deletion: None });
    }
}

fn row(tenant: &Tenant, repo: &RepoName, tags: &[(&Tag, &TagEntry)]) -> RepoRow {
    RepoRow {
        tenant: tenant.clone(),
        repo: repo.clone(),
        tags: tags.len() as u64,
        bytes: None,
        named_bytes: tags.iter().map(|(_, known)| known.weight.bytes).fold(0, u64::saturating_add),
        last: tags.iter().map(|(_, known)| known.last()).max().unwrap_or_default(),
    }
}

/// Repositories, and the tags that a search finds.
#[derive(Serialize)]
pub struct ReposList {
    now: Timestamp,
    query: String,
    /// As it was asked for: whether there is such a tenant is not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    repositories: Vec<RepoRow>,
    from: usize,
    repositories_in_all: usize,
    tags: Vec<TagRow>,
    tags_in_all: usize,
}

pub fn list(doors: &Doors, visible: &Visibility<'_>, wanted: RepoQuery) -> ReposList {
    let query = wanted.q.trim().to_string();
    let tenant = Some(wanted.tenant).filter(|tenant| !tenant.is_empty());
    let from = wanted.from.min(crate::refs::inventory::TAGS_MAX);
    let fits = |repo: &RepoName, tag: Option<&Tag>| match tag {
        None => repo.contains(&*query),
        // Without a search tags are found in their repositories.
        Some(tag) => !query.is_empty() && (tag.contains(&*query) || format!("{repo}:{tag}").contains(&*query)),
    };
    let mut found = gather(doors, &visible.narrowed(tenant.as_deref()), &fits, from + PAGE);
    found.tags.truncate(PAGE);
    ReposList {
        now: Timestamp::now(),
        query,
        repositories: found.repositories.split_off(from.min(found.repositories.len())),
        from,
        repositories_in_all: found.repositories_in_all,
        tags: found.tags,
        tags_in_all: found.tags_in_all,
        tenant,
    }
}

impl HtmlPage for ReposList {
    fn title(&self) -> String {
        match (&self.tenant, &*self.query) {
            (None, "") => "Repositories".to_string(),
            (Some(tenant), "") => format!("Repositories of {tenant}"),
            (_, query) => format!("Search for {query}"),
        }
    }

    fn body(&self) -> Markup {
        let to = self.from + self.repositories.len();
        let more = (to < self.repositories_in_all).then_some(to);
        html! {
            @if !self.query.is_empty() {
                h2 { "Tags" }
                (tag_table(&self.tags, self.now))
                @if self.tags_in_all > self.tags.len() { p.note { "The last used of " (self.tags_in_all) "." } }
                h2 { "Repositories" }
            }
            (repo_table(&self.repositories, self.now))
            (pages(self.from, more, self.repositories_in_all, &|from| {
                let tenant = self.tenant.as_deref().unwrap_or_default();
                address("/repositories", &[("q", &self.query), ("tenant", tenant), ("from", &from.to_string())])
            }))
        }
    }
}

fn address(path: &str, parts: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(parts.iter().filter(|(_, value)| !value.is_empty()));
    format!("{path}?{}", query.finish())
}

/// The place in a list, with links to the next and the previous page.
fn pages(from: usize, next: Option<usize>, all: usize, to: &dyn Fn(usize) -> String) -> Markup {
    html! {
        @if from > 0 || next.is_some() {
            nav.pages aria-label="More of the list" {
                @if from > 0 { a href=(to(from.saturating_sub(PAGE))) { "Back" } }
                span { "from " (from + 1) " of " (all) }
                @if let Some(next) = next { a href=(to(next)) { "On" } }
            }
        }
    }
}

/// One repository.
#[derive(Serialize)]
pub struct Repository {
    now: Timestamp,
    tenant: Tenant,
    repo: RepoName,
    /// As of the last count; only for who may pull all of its tags.
    bytes: Option<u64>,
    manifests: Option<u64>,
    /// Time of the count.
    counted: Option<Timestamp>,
    tags_in_all: usize,
    from: usize,
    /// The last used first.
    tags: Vec<TagRow>,
}

pub fn one(doors: &Doors, visible: &Visibility<'_>, name: &str, wanted: RepoQuery) -> Result<Repository, PageError> {
    let repo: RepoName = name.parse().map_err(|_| PageError::unknown(name))?;
    let tenant = visible.tenant_of(&repo)?;
    let tags = doors.store.stock().look(&tenant, |repos| repos.get(&repo).cloned());
    let tags = tags.ok_or_else(|| PageError::missing(visible.unknown_repo(&repo)))?;
    let mut tags: Vec<TagRow> = tags
        .into_iter()
        .filter(|(tag, _)| visible.can_see_tag(&tenant, &repo, tag))
        .map(|(tag, known)| TagRow { tenant: tenant.clone(), repo: repo.clone(), tag, known, pending_deletion: None })
        .collect();
    tags.sort_by_key(|row| Reverse(row.known.last()));
    let (tags_in_all, from) = (tags.len(), wanted.from.min(tags.len()));
    let mut tags: Vec<TagRow> = tags.into_iter().skip(from).take(PAGE).collect();
    mark_pending(doors, &mut tags);
    let account = doors.store.usage().account(&tenant);
    let usage = account.counted_repo(&repo).filter(|_| visible.can_see_all_of(&tenant, &repo));
    Ok(Repository {
        now: Timestamp::now(),
        bytes: usage.map(|usage| usage.bytes),
        manifests: usage.map(|usage| usage.manifests),
        counted: account.counted().map(|(at, _)| at),
        tenant,
        repo,
        tags_in_all,
        from,
        tags,
    })
}

impl HtmlPage for Repository {
    fn title(&self) -> String {
        self.repo.to_string()
    }

    fn body(&self) -> Markup {
        let to = self.from + self.tags.len();
        let more = (to < self.tags_in_all).then_some(to);
        html! {
            p {
                "In tenant " a href=(address("/repositories", &[("tenant", &self.tenant)])) { (self.tenant) } "; "
                (self.tags_in_all) " tags"
                @if let (Some(bytes), Some(manifests)) = (self.bytes, self.manifests) {
                    ", " (manifests) " manifests that reference " (show::bytes(bytes))
                }
                "."
                @if let Some(at) = self.counted { " Counted " (show::ago(at, self.now)) "." }
            }
            h2 { "Tags" }
            (tag_table(&self.tags, self.now))
            (pages(self.from, more, self.tags_in_all, &|from| {
                address(&format!("/repo/{}", self.repo), &[("from", &from.to_string())])
            }))
        }
    }
}

/// The way to a repository or a tag. Names need no escape in a path.
pub fn link(repo: &RepoName, tag: Option<&Tag>) -> Markup {
    html! {
        @match tag {
            Some(tag) => a href=(format!("/repo/{repo}:{tag}")) { (name(repo, Some(tag))) },
            None => a href=(format!("/repo/{repo}")) { (name(repo, None)) },
        }
    }
}

/// A repository or a tag, which a narrow column breaks behind a slash or a colon first.
pub fn name(repo: &RepoName, tag: Option<&Tag>) -> Markup {
    html! {
        @for (at, part) in repo.split('/').enumerate() {
            @if at > 0 { "/" wbr; }
            (part)
        }
        @if let Some(tag) = tag { ":" wbr; (tag) }
    }
}

const REPO_COLUMNS: [Column; 6] = [
    Column::Text("Repository"),
    Column::Text("Tenant"),
    Column::Number("Tags"),
    Column::Number("Size"),
    Column::Number("Without sharing"),
    Column::Text("Last use"),
];

pub fn repo_table(rows: &[RepoRow], now: Timestamp) -> Markup {
    let row = |row: &RepoRow| {
        html! {
            th scope="row" { (link(&row.repo, None)) }
            td { (row.tenant) }
            td.number { (row.tags) }
            td.number { @if let Some(bytes) = row.bytes { (show::bytes(bytes)) } @else { "–" } }
            td.number { (show::bytes(row.named_bytes)) }
            td { (show::ago(row.last, now)) }
        }
    };
    let rows: Vec<Markup> = rows.iter().map(row).collect();
    frame::table("Repositories", &REPO_COLUMNS, &rows)
}

const TAG_COLUMNS: [Column; 7] = [
    Column::Text("Tag"),
    Column::Number("Size"),
    Column::Number("Shared"),
    Column::Text("Last use"),
    Column::Text("Pushed"),
    Column::Number("Pushes in view"),
    Column::Number("Of import limit"),
];

pub fn tag_table(rows: &[TagRow], now: Timestamp) -> Markup {
    let row = |row: &TagRow| {
        let known = &row.known;
        html! {
            th scope="row" {
                (link(&row.repo, Some(&row.tag)))
                @if let Some(pending) = &row.pending_deletion { br; (pending.note()) }
            }
            td.number { (show::bytes(known.weight.bytes)) }
            td.number { @if let Some(shared) = known.shared { (show::bytes(shared)) } @else { "–" } }
            td { (show::ago(known.last(), now)) }
            td { (show::ago(known.pushed, now)) }
            td.number { @if known.pushes > 0 { (known.pushes) } @else { "–" } }
            td.number { @if known.cache { (limit(known)) " %" } @else { "–" } }
        }
    };
    let rows: Vec<Markup> = rows.iter().map(row).collect();
    frame::table("Tags", &TAG_COLUMNS, &rows)
}

/// Size of the larger of manifest and config, in percent of BuildKit's import limit.
fn limit(known: &TagEntry) -> u64 {
    show::percent(known.weight.manifest_bytes.max(known.weight.config_bytes), IMPORT_LIMIT_BYTES)
}
