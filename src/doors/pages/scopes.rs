//! Scopes: whom they are for, what they store, and when they were used last.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::Timestamp;
use maud::{Markup, html};
use serde::Serialize;

use super::frame::Column;
use super::visibility::Visibility;
use super::{HtmlPage, PageError, frame, show};
use crate::doors::Doors;
use crate::human::span;
use crate::names::Tenant;

/// Rows on the page.
const ROWS: usize = 500;

/// One scope.
#[derive(Clone, Serialize)]
pub struct ScopeRow {
    /// Its name as a tenant.
    scope: Tenant,
    /// What the rule calls it, with the claims filled in; nothing before a caller of the scope has come since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    repositories: u64,
    tags: u64,
    bytes: u64,
    /// The most that it may store, in bytes.
    quota: Option<u64>,
    /// Time of the last push or use of one of its tags, as far as this server knows.
    last: Option<Timestamp>,
}

/// All scopes, the last used first.
#[derive(Serialize)]
pub struct ScopesPage {
    now: Timestamp,
    scopes: Vec<ScopeRow>,
    scopes_in_all: usize,
    /// A scope that is not used for so long is deleted as a whole. Seconds.
    max_age_seconds: u64,
}

/// For who may administer: claims tell who works on what.
pub fn page(doors: &Doors, visible: &Visibility<'_>) -> Result<ScopesPage, PageError> {
    visible.expect_whole("scopes are shown to callers that may administer")?;
    let (scopes, scopes_in_all) = gather(doors, visible, ROWS);
    let max_age_seconds = doors.config.scope_limits().max_age.get().as_secs();
    Ok(ScopesPage { now: Timestamp::now(), scopes, scopes_in_all, max_age_seconds })
}

/// The scopes that were used last, and how many there are in all.
pub fn gather(doors: &Doors, visible: &Visibility<'_>, most: usize) -> (Vec<ScopeRow>, usize) {
    let is_listed = |scope: &Tenant| visible.tenants().iter().any(|tenant| **tenant == *scope.root());
    let accounts = doors.store.usage().accounts().into_iter();
    let stored: BTreeMap<Tenant, u64> = accounts.map(|(tenant, account)| (tenant, account.stored())).collect();
    let of_scopes = stored.into_iter().filter(|(tenant, _)| tenant.is_scope() && is_listed(tenant));
    let mut rows: Vec<ScopeRow> = of_scopes.map(|(scope, bytes)| row(doors, scope, bytes)).collect();
    // A scope that only reads stores nothing, and is not shown.
    rows.retain(|row| row.bytes > 0 || row.tags > 0);
    rows.sort_by_key(|row| (Reverse(row.last), Reverse(row.bytes)));
    let all = rows.len();
    rows.truncate(most);
    (rows, all)
}

fn row(doors: &Doors, scope: Tenant, bytes: u64) -> ScopeRow {
    let (repositories, tags, last) = doors.store.stock().look(&scope, |repos| {
        let tags = || repos.values().flat_map(|tags| tags.values());
        (repos.len() as u64, tags().count() as u64, tags().map(|tag| tag.last()).max())
    });
    let text = doors.gate.scope_text(&scope).map(|text| text.to_string());
    ScopeRow { text, repositories, tags, bytes, quota: doors.config.quota(&scope).max, last, scope }
}

impl HtmlPage for ScopesPage {
    fn title(&self) -> String {
        "Scopes".to_string()
    }

    fn body(&self) -> Markup {
        html! {
            p {
                "Parts of a tenant that only their own callers read: pull requests and branches. A scope that is not used for "
                (span(self.max_age_seconds)) " is deleted as a whole."
            }
            (table(&self.scopes, self.now))
            @if self.scopes_in_all > self.scopes.len() { p.note { "The last used of " (self.scopes_in_all) "." } }
        }
    }
}

const COLUMNS: [Column; 7] = [
    Column::Text("Scope"),
    Column::Text("Tenant"),
    Column::Number("Stored"),
    Column::Text("Quota"),
    Column::Number("Repositories"),
    Column::Number("Tags"),
    Column::Text("Last use"),
];

pub fn table(scopes: &[ScopeRow], now: Timestamp) -> Markup {
    let row = |row: &ScopeRow| {
        html! {
            th scope="row" { (name(&row.scope, row.text.as_deref())) }
            td { (row.scope.root()) }
            td.number { (show::bytes(row.bytes)) }
            td { @if let Some(max) = row.quota { (show::meter(row.bytes, max, "")) } @else { "none" } }
            td.number { (row.repositories) }
            td.number { (row.tags) }
            td { @if let Some(at) = row.last { (show::ago(at, now)) } @else { "–" } }
        }
    };
    let rows: Vec<Markup> = scopes.iter().map(row).collect();
    frame::table("Scopes", &COLUMNS, &rows)
}

/// A scope for people: its text where that is known, and the name that it has in the store.
pub fn name(scope: &Tenant, text: Option<&str>) -> Markup {
    let short = scope.short_scope().unwrap_or_default();
    html! {
        @match text {
            Some(text) => { (text) " " span.note title=(scope) { "(" (short) ")" } },
            None => span title=(scope) { (short) },
        }
    }
}
