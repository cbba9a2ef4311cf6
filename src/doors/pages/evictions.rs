//! Expired and evicted tags and layers, with the reasons.

use jiff::Timestamp;
use maud::{Markup, html};
use serde::Serialize;

use super::super::Doors;
use super::frame::Column;
use super::visibility::Visibility;
use super::{HtmlPage, frame, show};
use crate::events::Eviction;
use crate::names::{RepoName, Tag};

/// Rows on the page.
const ROWS: usize = 500;

#[derive(Serialize)]
pub struct Evictions {
    now: Timestamp,
    /// Of this server, since then.
    began: Timestamp,
    /// The newest first.
    evictions: Vec<Eviction>,
}

pub fn gather(doors: &Doors, visible: &Visibility<'_>) -> Evictions {
    let began = doors.metrics.recent.began;
    Evictions { now: Timestamp::now(), began, evictions: seen(doors, visible, ROWS) }
}

/// The last evictions that the caller may see.
pub fn seen(doors: &Doors, visible: &Visibility<'_>, most: usize) -> Vec<Eviction> {
    let seen = |eviction: &Eviction| match (eviction.repo.parse::<RepoName>(), eviction.tag.parse::<Tag>()) {
        (Ok(repo), Ok(tag)) => visible.can_see_tag(&eviction.tenant, &repo, &tag),
        _ => false,
    };
    doors.metrics.recent.evictions().into_iter().filter(seen).take(most).collect()
}

impl HtmlPage for Evictions {
    fn title(&self) -> String {
        "Evictions".to_string()
    }

    fn body(&self) -> Markup {
        html! {
            p {
                "Tags and layers that the collector of this server has expired by a policy or evicted, since the server began "
                (show::ago(self.began, self.now)) ". Unreferenced content is not listed."
            }
            (table(&self.evictions, self.now))
        }
    }
}

const COLUMNS: [Column; 5] =
    [Column::Text("When"), Column::Text("Of"), Column::Text("What"), Column::Number("Size"), Column::Text("Why")];

pub fn table(evictions: &[Eviction], now: Timestamp) -> Markup {
    let row = |eviction: &Eviction| {
        html! {
            td { (show::ago(eviction.at, now)) }
            th scope="row" {
                (eviction.repo) ":" (eviction.tag)
                @if let Some(scope) = eviction.tenant.short_scope() { " " span.note { "scope " (scope) } }
            }
            td {
                @if let Some(layer) = &eviction.layer { "layer " code { (show::short(layer)) } } @else { "the tag" }
            }
            td.number { @if eviction.bytes > 0 { (show::bytes(eviction.bytes)) } @else { "–" } }
            td { (eviction.reason) }
        }
    };
    let rows: Vec<Markup> = evictions.iter().map(row).collect();
    frame::table("Evictions", &COLUMNS, &rows)
}
