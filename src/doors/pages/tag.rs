//! One tag: what it serves, the pushes behind it, and its records and layers as graphs.

use http::StatusCode;
use jiff::Timestamp;
use maud::{Markup, html};
use serde::Serialize;

use crate::cache::outline::{CreatedAt, IMPORT_LIMIT_BYTES, Outline, OutlinedLayer, OutlinedRecord};
use crate::cache::{ImageLayer, InspectedImage, InspectedPush, Inspection, ServedKind, WITHOUT_MAX};
use crate::deadline::Deadline;
use crate::doors::Doors;
use crate::doors::kit::refusal::Refusal;
use crate::doors::pages::frame::Column;
use crate::doors::pages::graph;
use crate::doors::pages::graph::DrawnNode;
use crate::doors::pages::pending::{PendingDeletion, PendingDeletions};
use crate::doors::pages::visibility::Visibility;
use crate::doors::pages::{HtmlPage, PageError, frame, repos, show};
use crate::error::Error;
use crate::names::{RepoName, Tag, Tenant};
use crate::refs::inventory::TagEntry;

/// Rows of the table of layers.
const ROWS: usize = 500;

#[derive(Serialize)]
pub struct TagPage {
    now: Timestamp,
    tenant: Tenant,
    #[serde(flatten)]
    inspection: Inspection,
    #[serde(skip_serializing_if = "Option::is_none")]
    known: Option<TagEntry>,
    /// Its deletion, if it is condemned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_deletion: Option<PendingDeletion>,
    /// The caller of its last push, of those that this server remembers; for callers that may administer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pushed_by: Option<Box<str>>,
    /// Present if the tag is a cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    outline: Option<Outline>,
}

pub async fn gather(doors: &Doors, visible: &Visibility<'_>, repo: &str, tag: &str) -> Result<TagPage, PageError> {
    let name = format!("{repo}:{tag}");
    let repo: RepoName = repo.parse().map_err(|_| PageError::unknown(&name))?;
    let tag: Tag = tag.parse().map_err(|_| PageError::unknown(&name))?;
    let permit = visible.permit(&repo, &tag)?;
    let tenant = permit.tenant().clone();
    let repo = doors.store.repo(permit, Deadline::of_each_call());
    let failed = |error: Error| match Refusal::from(&error).status {
        StatusCode::NOT_FOUND => PageError::missing(visible.unknown_tag(repo.name(), &tag)),
        status => PageError::new(status, error),
    };
    let inspection = (*doors.store.caches().inspect(&repo, &tag).await.map_err(failed)?).clone();
    let outline = doors.store.caches().outline(&repo, &tag).await.map_err(failed)?;
    let known = doors.store.stock().look(&tenant, |repos| repos.get(repo.name())?.get(&tag).cloned());
    let last = doors.metrics.recent.last_export(&tenant, repo.name(), &tag).filter(|_| visible.is_whole());
    // Another replica may have taken a push since.
    let pushed_by = last.filter(|export| export.at >= inspection.pushed).and_then(|export| export.who);
    let last_use = known.as_ref().map_or(inspection.pushed, TagEntry::last);
    let pending_deletion = PendingDeletions::of(doors).get(&tenant, repo.name(), &tag, last_use);
    Ok(TagPage { now: Timestamp::now(), tenant, inspection, known, pending_deletion, pushed_by, outline })
}

const PUSH_COLUMNS: [Column; 6] = [
    Column::Text("Pushed"),
    Column::Number("Records"),
    Column::Number("Layers"),
    Column::Number("Size of layers"),
    Column::Number("Config"),
    Column::Text("Manifest"),
];

const IMAGE_COLUMNS: [Column; 4] =
    [Column::Text("Platform"), Column::Number("Layers"), Column::Number("Size of layers"), Column::Text("Manifest")];

const IMAGE_LAYER_COLUMNS: [Column; 2] = [Column::Text("Layer"), Column::Number("Size")];

const LAYER_COLUMNS: [Column; 4] =
    [Column::Text("Layer"), Column::Number("Size"), Column::Text("Beside the largest"), Column::Text("Age")];

impl HtmlPage for TagPage {
    fn title(&self) -> String {
        format!("{}:{}", self.inspection.repo, self.inspection.tag)
    }

    fn body(&self) -> Markup {
        html! {
            (self.facts())
            @if let Some(why) = &self.inspection.explanation {
                h2 { "Distance to the limits" }
                ul.state {
                    li { (show::meter(why.manifest_bytes as u64, IMPORT_LIMIT_BYTES, "that BuildKit imports of a manifest")) }
                    li { (show::meter(why.config_bytes as u64, IMPORT_LIMIT_BYTES, "that BuildKit imports of a config")) }
                    li {
                        (merged(why.pushes_out, why.pushes_in, "pushes")) ", "
                        (merged(why.records_out, why.records_in, "records")) ", "
                        (merged(why.layers_out, why.layers_in, "layers")) "."
                    }
                    @if !why.missing_layers.is_empty() {
                        li.refused { (why.missing_layers.len()) " layers are not in the store and left out." }
                    }
                }
            }
            @if !self.inspection.images.is_empty() {
                h2 { "Images" }
                (image_table(&self.inspection.images))
                @for image in &self.inspection.images {
                    h3 { "Layers of " (platform(image)) }
                    (image_layers(image))
                }
            }
            @if !self.inspection.pushes.is_empty() {
                h2 { "Pushes" }
                (self.pushes())
            }
            @if let Some(outline) = &self.outline {
                h2 { "Records" }
                p.note { "Build steps, each to the right of its inputs. Steps in bold have a result." }
                (graph::draw("Records of the cache", &self.records(outline)))
                @if outline.records_left_out > 0 { p.note { (outline.records_left_out) " more are not shown." } }
                h2 { "Layers" }
                (graph::draw("Layers of the cache", &self.layers(outline)))
                (self.layer_table(outline))
            }
        }
    }
}

impl TagPage {
    fn facts(&self) -> Markup {
        let (about, now) = (&self.inspection, self.now);
        html! {
            p {
                "In repository "
                @match about.repo.parse() { Ok(repo) => (repos::link(&repo, None)), Err(_) => (about.repo) }
                ", tenant " (self.tenant) ". Pushed " (show::ago(about.pushed, now))
                @if let Some(who) = &self.pushed_by { " by " (who) }
                @if let Some(used) = self.known.as_ref().and_then(|known| known.used) { ", used " (show::ago(used, now)) }
                "."
            }
            @if let Some(pending) = &self.pending_deletion { p { "State: " (pending.note()) "." } }
            p {
                "Serves " code { (about.served.digest.to_string()) }
                @if about.is_view { ", a view of its pushes." } @else { ", as it was pushed." }
            }
            @if let Some(kind) = about.kind.as_ref().filter(|kind| **kind != ServedKind::Cache) {
                p { "It is " (kind.to_string()) "." }
            }
            @if let Some(known) = &self.known {
                p {
                    "Names " (show::bytes(known.weight.bytes)) " of blobs"
                    @if let Some(shared) = known.shared {
                        ", of which " (show::bytes(shared)) " are shared with other tags"
                    }
                    "."
                }
            }
        }
    }

    fn pushes(&self) -> Markup {
        let row = |push: &InspectedPush| {
            let digest = push.manifest.to_string();
            html! {
                td { (show::ago(push.at, self.now)) }
                td.number { (push.records) }
                td.number { (push.layers) }
                td.number { (show::bytes(push.layer_bytes)) }
                td.number { (show::bytes(push.config_bytes)) }
                td {
                    code title=(digest) { (show::short(&digest)) }
                    @if let Some(error) = &push.error { " " (error) }
                    @if push.without_max { br; span.refused { (WITHOUT_MAX) } }
                }
            }
        };
        let rows: Vec<Markup> = self.inspection.pushes.iter().rev().map(row).collect();
        frame::table("Pushes", &PUSH_COLUMNS, &rows)
    }

    fn age(&self, created: CreatedAt) -> String {
        let at = created.timestamp();
        // Some builds date their results at the beginning of time.
        if at.as_second() <= 0 { "undated".to_string() } else { show::age(at, self.now) }
    }

    fn records(&self, outline: &Outline) -> Vec<DrawnNode> {
        let node = |record: &OutlinedRecord| {
            let newest = record.results.iter().max_by_key(|result| result.created);
            let below = match newest {
                Some(result) => {
                    let layers = result.layers.len();
                    format!("{layers} layers, {}, {}", show::bytes(result.bytes), self.age(result.created))
                }
                None => "key only".to_string(),
            };
            DrawnNode {
                title: show::short(&record.digest).to_string(),
                full: format!("{}: {} inputs, {} results", record.digest, record.inputs, record.results.len()),
                below,
                parents: record.links.clone(),
                strong: newest.is_some(),
            }
        };
        outline.records.iter().map(node).collect()
    }

    fn layers(&self, outline: &Outline) -> Vec<DrawnNode> {
        let node = |layer: &OutlinedLayer| {
            let age = layer.created.map_or("in between".to_string(), |created| self.age(created));
            let full = name(layer);
            DrawnNode {
                title: show::short(&full).to_string(),
                below: format!("{}, {age}", show::bytes(layer.bytes)),
                full,
                parents: layer.parent.into_iter().collect(),
                strong: layer.created.is_some(),
            }
        };
        outline.layers.iter().map(node).collect()
    }

    fn layer_table(&self, outline: &Outline) -> Markup {
        let mut layers: Vec<&OutlinedLayer> = outline.layers.iter().collect();
        layers.sort_by_key(|layer| (std::cmp::Reverse(layer.bytes), layer.blob));
        layers.dedup_by_key(|layer| layer.blob);
        let largest = layers.first().map_or(0, |layer| layer.bytes);
        let row = |layer: &&OutlinedLayer| {
            let full = name(layer);
            html! {
                th scope="row" { code title=(full) { (show::short(&full)) } }
                td.number { (show::bytes(layer.bytes)) }
                td {
                    svg.meter viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" focusable="false" {
                        rect.fill width=(show::percent(layer.bytes, largest)) height="6" {}
                    }
                }
                td { @if let Some(created) = layer.created { (self.age(created)) } @else { "–" } }
            }
        };
        let rows: Vec<Markup> = layers.iter().take(ROWS).map(row).collect();
        frame::table("Layers by size", &LAYER_COLUMNS, &rows)
    }
}

/// The platforms of an image.
fn platform(image: &InspectedImage) -> &str {
    image.platform.as_deref().unwrap_or("an unknown platform")
}

fn image_table(images: &[InspectedImage]) -> Markup {
    let row = |image: &InspectedImage| {
        let digest = image.manifest.to_string();
        html! {
            th scope="row" { (platform(image)) }
            td.number { (image.layers.len()) }
            td.number { (show::bytes(image.layer_bytes)) }
            td { code title=(digest) { (show::short(&digest)) } }
        }
    };
    frame::table("Images", &IMAGE_COLUMNS, &images.iter().map(row).collect::<Vec<_>>())
}

fn image_layers(image: &InspectedImage) -> Markup {
    let row = |layer: &ImageLayer| {
        let digest = layer.digest.to_string();
        html! {
            th scope="row" { code title=(digest) { (show::short(&digest)) } }
            td.number { (show::bytes(layer.bytes)) }
        }
    };
    let rows: Vec<Markup> = image.layers.iter().map(row).collect();
    frame::table(&format!("Layers of {}", platform(image)), &IMAGE_LAYER_COLUMNS, &rows)
}

/// A number of the view, and the sum of its pushes.
fn merged(out: usize, of: usize, what: &str) -> String {
    if out == of { format!("{out} {what}") } else { format!("{out} {what} ({of} before merging)") }
}

fn name(layer: &OutlinedLayer) -> String {
    layer.blob.map_or("unknown".to_string(), |blob| blob.to_string())
}
