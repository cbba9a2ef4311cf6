//! The first page: what is stored, what happens, what it saves.

use jiff::Timestamp;
use maud::{Markup, html};
use serde::Serialize;

use super::super::Doors;
use super::frame::Column;
use super::repos::{self, RepoRow, TagRow};
use super::scopes::{self, ScopeRow};
use super::visibility::Visibility;
use super::{HtmlPage, frame, history, show};
use crate::events::{BuildAction, Eviction};
use crate::metrics::recent::{Build, BuildLayers, Step};
use crate::metrics::tenant::Reading;
use crate::names::Tenant;
use crate::paste::BuilderRoute;

/// Rows of each kind. All there is, other pages have.
const ROWS: usize = 12;

const EVENT_COLUMNS: [Column; 6] = [
    Column::Text("What"),
    Column::Text("When"),
    Column::Text("Tag"),
    Column::Text("By"),
    Column::Number("Layers"),
    Column::Number("Took"),
];
/// Scheme and name of a server of which a client has not said how it reaches it.
const UNKNOWN_URL: (&str, &str) = ("http", "HOST:5000");
const TENANT_COLUMNS: [Column; 7] = [
    Column::Text("Tenant"),
    Column::Number("Stored"),
    Column::Number("Without sharing"),
    Column::Number("Repositories"),
    Column::Number("Tags"),
    Column::Text("Quota"),
    Column::Text("Counted"),
];

#[derive(Serialize)]
pub struct Overview {
    version: &'static str,
    /// Start of this server: counters and events are since then.
    began: Timestamp,
    now: Timestamp,
    /// For who may administer.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    whole: Option<OverviewTotals>,
    /// The largest.
    repositories: Vec<RepoRow>,
    repositories_in_all: usize,
    /// The last pushed or used.
    tags: Vec<TagRow>,
    tags_in_all: usize,
    /// The lines for a builder, by the address of this request: shown while the store is empty.
    #[serde(skip)]
    base_url: Option<String>,
    #[serde(skip)]
    closed: bool,
    /// The newest first.
    events: Vec<EventRow>,
    evictions: Vec<Eviction>,
}

/// An import or an export.
#[derive(Serialize)]
struct EventRow {
    #[serde(flatten)]
    build: Build,
    /// Of a scope, what the rule calls it: for who may administer.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    /// The page of its repository is the one that the caller sees: not where it happened in a scope, and they are in none.
    #[serde(skip)]
    has_page: bool,
}

/// Totals of all tenants, and of the server.
#[derive(Serialize)]
struct OverviewTotals {
    tenants: Vec<TenantRow>,
    /// The last used.
    scopes: Vec<ScopeRow>,
    scopes_in_all: usize,
    history: Vec<Step>,
    so_far: Reading,
    hot: HotRow,
    requests_in_flight: i64,
    collector: CollectorRow,
}

#[derive(Serialize)]
struct TenantRow {
    tenant: Tenant,
    repositories: u64,
    tags: u64,
    bytes: u64,
    /// Bytes that its tags would take without sharing.
    named_bytes: u64,
    condemned_bytes: u64,
    /// On their way, in bytes.
    arriving: u64,
    quota: Option<QuotaShown>,
    /// Time of the last full count.
    counted: Option<Timestamp>,
}

#[derive(Serialize)]
struct QuotaShown {
    max: u64,
    high: Option<u64>,
}

#[derive(Serialize)]
struct HotRow {
    bytes: i64,
    limit: i64,
}

#[derive(Serialize)]
struct CollectorRow {
    running: bool,
    last: Option<Timestamp>,
    /// Bytes that the last collection deleted and condemned.
    deleted_bytes: u64,
    condemned_bytes: u64,
    skipped: Option<String>,
}

pub fn gather(doors: &Doors, visible: &Visibility<'_>) -> Overview {
    let now = Timestamp::now();
    let found = repos::gather(doors, visible, &|_, _| true, ROWS);
    Overview {
        version: env!("CARGO_PKG_VERSION"),
        began: doors.metrics.recent.began,
        now,
        whole: visible.is_whole().then(|| OverviewTotals::gather(doors, visible, now)),
        repositories: found.repositories,
        repositories_in_all: found.repositories_in_all,
        tags: found.tags,
        tags_in_all: found.tags_in_all,
        base_url: visible.base_url(),
        closed: !doors.gate.is_open(),
        events: seen_events(doors, visible),
        evictions: super::evictions::seen(doors, visible, ROWS),
    }
}

impl OverviewTotals {
    fn gather(doors: &Doors, visible: &Visibility<'_>, now: Timestamp) -> OverviewTotals {
        let metrics = &doors.metrics;
        let last = doors.collector.last();
        let (scopes, scopes_in_all) = scopes::gather(doors, visible, ROWS);
        OverviewTotals {
            scopes,
            scopes_in_all,
            tenants: visible.tenants().iter().map(|tenant| tenant_row(doors, tenant)).collect(),
            history: metrics.recent.history(&metrics.tenants, |tenant| visible.tenants().contains(tenant), now),
            so_far: metrics.tenants.total(),
            hot: HotRow { bytes: metrics.hot_bytes.get(), limit: metrics.hot_limit_bytes.get() },
            // Without the request for this page.
            requests_in_flight: metrics.requests_in_flight.get().saturating_sub(1).max(0),
            collector: CollectorRow {
                running: metrics.collecting.get() > 0,
                last: last.as_ref().and_then(|last| last.began),
                deleted_bytes: last.as_ref().map_or(0, |last| last.deleted.bytes),
                condemned_bytes: last.as_ref().map_or(0, |last| last.condemned.bytes),
                skipped: last.and_then(|last| last.skipped.clone()),
            },
        }
    }
}

fn seen_events(doors: &Doors, visible: &Visibility<'_>) -> Vec<EventRow> {
    let seen = |event: &Build| match &event.tag {
        Some(tag) => visible.can_see_tag(&event.tenant, &event.repo, tag),
        // It may be of any.
        None => visible.can_see_all_of(&event.tenant, &event.repo),
    };
    let row = |mut build: Build| {
        let scope = doors.gate.scope_text(&build.tenant).filter(|_| visible.is_whole());
        // Who does what is for who may administer, as is the audit log.
        build.who = build.who.filter(|_| visible.is_whole());
        let has_page = visible.opens(&build.tenant, &build.repo);
        EventRow { scope: scope.map(|text| text.to_string()), has_page, build }
    };
    doors.metrics.recent.builds().into_iter().filter(seen).take(ROWS).map(row).collect()
}

fn tenant_row(doors: &Doors, tenant: &Tenant) -> TenantRow {
    let account = doors.store.usage().account(tenant);
    let quota = doors.config.quota(tenant);
    // As the stock has it, which knows what has come since the last count.
    let (repositories, tags) = doors
        .store
        .stock()
        .look(tenant, |repos| (repos.len() as u64, repos.values().map(|tags| tags.len() as u64).sum()));
    let counted = account.counted();
    TenantRow {
        tenant: tenant.clone(),
        repositories,
        tags,
        bytes: account.stored(),
        named_bytes: counted.map_or(0, |(_, named)| named),
        condemned_bytes: account.stored() - account.live(),
        arriving: account.arriving(),
        quota: quota.max.map(|max| QuotaShown { max, high: quota.high }),
        counted: counted.map(|(at, _)| at),
    }
}

impl HtmlPage for Overview {
    fn title(&self) -> String {
        "Overview".to_string()
    }

    fn body(&self) -> Markup {
        if self.is_empty() {
            return self.first_lines();
        }
        html! {
            @if let Some(whole) = &self.whole {
                (whole.facts(self.tags_in_all))
                p.note {
                    "Stored bytes are those of the store. All other numbers are of this server since its start, "
                    (show::ago(self.began, self.now)) "."
                }
                h2 { "Hits over time" }
                (history::picture(&whole.history, self.now))
                h2 { "Now" }
                (whole.state(self.now))
            }
            h2 { "Imports and exports" }
            (frame::table("Imports and exports", &EVENT_COLUMNS, &self.events()))
            @if let Some(whole) = &self.whole {
                h2 { "Tenants" }
                (whole.tenants(self.now))
                @if !whole.scopes.is_empty() {
                    h2 { "Scopes" }
                    (scopes::table(&whole.scopes, self.now))
                    @if whole.scopes_in_all > whole.scopes.len() {
                        p { a href="/scopes" { "All " (whole.scopes_in_all) " scopes" } }
                    }
                }
            }
            h2 { "Largest repositories" }
            (repos::repo_table(&self.repositories, self.now))
            @if self.repositories_in_all > self.repositories.len() {
                p { a href="/repositories" { "All " (self.repositories_in_all) " repositories" } }
            }
            h2 { "Last used tags" }
            (repos::tag_table(&self.tags, self.now))
            h2 { "Last evictions" }
            (super::evictions::table(&self.evictions, self.now))
            @if !self.evictions.is_empty() { p { a href="/evictions" { "More evictions" } } }
        }
    }
}

/// The layers of an import or an export, and which of them an export has brought.
fn layers(layers: &BuildLayers) -> Markup {
    html! {
        @match (layers.all, layers.new) {
            (Some(all), Some(new)) => { (all.layers) ", " (new.layers) " new (" (show::bytes(new.bytes)) ")" },
            (Some(all), None) => { (all.layers) " (" (show::bytes(all.bytes)) ")" },
            (None, _) => "–",
        }
    }
}

fn fact(name: &str, value: &str, about: &str) -> Markup {
    html! { div { dt { (name) } dd { strong { (value) } " " span.note { (about) } } } }
}

impl Overview {
    /// Whether there is nothing to show yet.
    fn is_empty(&self) -> bool {
        let has_scopes = self.whole.as_ref().is_some_and(|whole| whole.scopes_in_all > 0);
        self.repositories_in_all == 0 && self.events.is_empty() && self.evictions.is_empty() && !has_scopes
    }

    /// The lines for a builder that fill the cache.
    fn first_lines(&self) -> Markup {
        let (scheme, name) = self.base_url.as_deref().and_then(|url| url.split_once("://")).unwrap_or(UNKNOWN_URL);
        let route = BuilderRoute { name, plain: scheme == "http", closed: self.closed };
        let is_loopback = route.plain && show::is_loopback(name);
        let lines = if is_loopback { route.on_this_host() } else { route.configured() };
        html! {
            @if self.whole.is_some() {
                p { "Nothing has been pushed yet. Two lines let a builder import its cache from here and export it here:" }
            } @else {
                p { "Nothing that you may pull has been pushed yet. A builder that may push uses these lines:" }
            }
            pre tabindex="0" { @for line in &lines { code { (line) } "\n" } }
        }
    }

    fn events(&self) -> Vec<Markup> {
        let row = |event: &EventRow| {
            let build = &event.build;
            html! {
                td {
                    @match (build.action, build.found) {
                        (BuildAction::Import, Some(false)) => "import: no such tag",
                        (BuildAction::Import, _) => "import",
                        (BuildAction::Export, _) => "export",
                    }
                }
                td { (show::ago(build.at, self.now)) }
                th scope="row" {
                    @if event.has_page { (repos::link(&build.repo, build.tag.as_ref())) }
                    @else { (repos::name(&build.repo, build.tag.as_ref())) }
                    @if build.tenant.is_scope() {
                        br;
                        span.note { "scope " (scopes::name(&build.tenant, event.scope.as_deref())) }
                    }
                }
                td { @if let Some(who) = &build.who { (who) } @else { "–" } }
                td.number { (layers(&build.layers)) }
                td.number { @if let Some(seconds) = build.seconds { (show::seconds(seconds)) } @else { "–" } }
            }
        };
        self.events.iter().map(row).collect()
    }
}

impl OverviewTotals {
    fn facts(&self, tags: usize) -> Markup {
        let bytes: u64 = self.tenants.iter().map(|tenant| tenant.bytes).sum();
        let named: u64 = self.tenants.iter().map(|tenant| tenant.named_bytes).fold(0, u64::saturating_add);
        let (so_far, served): (&Reading, u64) = (&self.so_far, self.so_far.served.iter().sum());
        let percent = |percent: Option<f64>| percent.map_or("–".to_string(), |percent| format!("{percent:.0} %"));
        let hits = percent(so_far.hit_percent());
        let lookups = so_far.imports.saturating_add(so_far.import_misses);
        let imports = match lookups {
            0 => "–".to_string(),
            all => format!("{} of {all}", so_far.imports),
        };
        let missed = match so_far.import_misses {
            _ if lookups == 0 => "no build has imported yet".to_string(),
            0 => "imports found a cache".to_string(),
            missed => format!("imports found a cache; {missed} asked for a tag that does not exist"),
        };
        let saved = match so_far.present_percent() {
            None => "no build has exported yet".to_string(),
            there => format!("{} of the blobs of exports were there", percent(there)),
        };
        let hot = match served {
            0 => "nothing yet".to_string(),
            all => format!("{} % from memory", show::percent(so_far.served[0], all)),
        };
        let counted: Vec<&TenantRow> = self.tenants.iter().filter(|tenant| tenant.counted.is_some()).collect();
        let (shared, about) = match &counted[..] {
            [] => ("–".to_string(), "not counted yet"),
            _ => {
                (show::bytes(named.saturating_sub(counted.iter().map(|tenant| tenant.bytes).sum())), "as last counted")
            }
        };
        html! {
            dl.facts {
                (fact("Imports", &imports, &missed))
                (fact("Not sent again", &show::bytes(so_far.saved), &saved))
                (fact("Exports", &so_far.exports.to_string(), "caches pushed to tags"))
                (fact("Hits", &hits, "of what imports asked for was there"))
                (fact("Served", &show::bytes(served), &hot))
                (fact("Stored", &show::bytes(bytes), &format!("in {tags} tags")))
                (fact("Saved by sharing", &shared, about))
            }
        }
    }

    fn state(&self, now: Timestamp) -> Markup {
        let (held, limit) = (self.hot.bytes.max(0) as u64, self.hot.limit.max(0) as u64);
        let arriving: u64 = self.tenants.iter().map(|tenant| tenant.arriving).sum();
        let collector = &self.collector;
        html! {
            ul.state {
                li { (show::meter(held, limit, "in the hot layer")) }
                li { "Requests in flight: " (self.requests_in_flight) ". Being uploaded: " (show::bytes(arriving)) "." }
                li {
                    @match (&collector.skipped, collector.last) {
                        (Some(why), _) => { "Collection skipped: " (why) "." },
                        (None, _) if collector.running => { "The collector is running." },
                        (None, Some(at)) => {
                            "Collected " (show::ago(at, now)) ": " (show::bytes(collector.deleted_bytes)) " deleted, "
                            (show::bytes(collector.condemned_bytes)) " condemned."
                        },
                        (None, None) => { "Nothing has been collected yet." },
                    }
                }
            }
        }
    }

    fn tenants(&self, now: Timestamp) -> Markup {
        let row = |row: &TenantRow| {
            html! {
                th scope="row" { a href=(format!("/repositories?tenant={}", row.tenant)) { (row.tenant) } }
                td.number { (show::bytes(row.bytes)) }
                td.number { @if row.counted.is_some() { (show::bytes(row.named_bytes)) } @else { "–" } }
                td.number { (row.repositories) }
                td.number { (row.tags) }
                td { @if let Some(quota) = &row.quota { (show::meter(row.bytes, quota.max, "")) } @else { "none" } }
                td { @if let Some(at) = row.counted { (show::ago(at, now)) } @else { "not yet" } }
            }
        };
        let rows: Vec<Markup> = self.tenants.iter().map(row).collect();
        frame::table("Tenants", &TENANT_COLUMNS, &rows)
    }
}
