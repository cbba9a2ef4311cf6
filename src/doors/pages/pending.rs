//! Tags that are condemned: when they are deleted, and what that frees.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use maud::{Markup, html};
use serde::Serialize;

use super::show;
use crate::doors::Doors;
use crate::human::minute;
use crate::lifetime::collect::Report;
use crate::names::{RepoName, Tag, Tenant};

/// A tag that is condemned, and that this server knows no use of since.
#[derive(Clone, Debug, Serialize)]
pub struct PendingDeletion {
    pub condemned: Timestamp,
    /// The first collection after that deletes the tag, unless it is used before.
    pub due: Timestamp,
    /// Bytes that go with it at most, where the last collection of this server has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Why, in words, from there too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Condemned tags of one page.
pub struct PendingDeletions<'d> {
    doors: &'d Doors,
    last: Option<Arc<Report>>,
    /// Positions of the decisions on tags in the last report, by tenant, repository and tag.
    decisions: HashMap<(String, String, String), usize>,
    disk_is_low: bool,
}

impl<'d> PendingDeletions<'d> {
    pub fn of(doors: &'d Doors) -> PendingDeletions<'d> {
        let last = doors.collector.last();
        let decisions = last.iter().flat_map(|last| last.decisions.iter().enumerate());
        let of_tags = decisions.filter(|(_, decision)| decision.layer.is_none());
        let named = of_tags.map(|(at, one)| ((one.tenant.clone(), one.repo.clone(), one.tag.clone()), at));
        PendingDeletions { doors, decisions: named.collect(), last, disk_is_low: doors.store.room().is_low() }
    }

    /// The pending deletion of a tag that was pushed or used last at this time.
    pub fn get(&self, tenant: &Tenant, repo: &RepoName, tag: &Tag, last_use: Timestamp) -> Option<PendingDeletion> {
        let since = self.doors.store.refs().condemned_since(tenant, repo, tag)?;
        let condemned = Timestamp::try_from(since).ok().filter(|since| *since >= last_use)?;
        let wait: Duration = self.doors.collector.wait(tenant, self.disk_is_low);
        let due = Timestamp::try_from(since.checked_add(wait).unwrap_or(SystemTime::now())).ok()?;
        let at = self.decisions.get(&(tenant.to_string(), repo.to_string(), tag.to_string()));
        let decision = at.zip(self.last.as_ref()).and_then(|(at, last)| last.decisions.get(*at));
        let (bytes, why) = decision.map(|decision| (decision.bytes, decision.why.clone())).unzip();
        // What was pushed in the last hours stays for a while without its tag, and is not among them.
        let bytes = bytes.filter(|bytes| *bytes > 0);
        Some(PendingDeletion { condemned, due, bytes, why })
    }
}

impl PendingDeletion {
    /// For people, beside or below the name of the tag.
    pub fn note(&self) -> Markup {
        html! {
            span.refused {
                "pending deletion"
                @if let Some(why) = &self.why { " (" (why) ")" }
                ": frees "
                @if let Some(bytes) = self.bytes { "up to " (show::bytes(bytes)) " " } @else { "space " }
                "after " (minute(self.due)) ", unless used again"
            }
        }
    }
}
