//! Background jobs and their results.

use jiff::Timestamp;
use maud::{Markup, html};
use serde::Serialize;

use super::frame::Column;
use super::visibility::Visibility;
use super::{HtmlPage, PageError, frame, show};
use crate::doors::Doors;
use crate::human::span;
use crate::jobs::{Ending, Run, Status};

/// The background jobs of one server.
#[derive(Serialize)]
pub struct JobsPage {
    now: Timestamp,
    jobs: Vec<Status>,
}

const COLUMNS: [Column; 7] = [
    Column::Text("Job"),
    Column::Text("Runs"),
    Column::Text("State"),
    Column::Text("Last result"),
    Column::Number("Took"),
    Column::Number("Runs so far"),
    Column::Number("Failed"),
];

/// For who may administer: results name tenants and content.
pub fn gather(doors: &Doors, visible: &Visibility<'_>) -> Result<JobsPage, PageError> {
    visible.expect_whole("jobs are shown to callers that may administer")?;
    Ok(JobsPage { now: Timestamp::now(), jobs: doors.jobs.all() })
}

impl HtmlPage for JobsPage {
    fn title(&self) -> String {
        "Jobs".to_string()
    }

    fn body(&self) -> Markup {
        let rows: Vec<Markup> = self.jobs.iter().map(|job| row(job, self.now)).collect();
        html! {
            p { "Background jobs of this server, since its start." }
            (frame::table("Jobs", &COLUMNS, &rows))
        }
    }
}

fn row(job: &Status, now: Timestamp) -> Markup {
    html! {
        th scope="row" { (job.name) br; span.note { (job.what) } }
        td { (wakes(job)) }
        td {
            @if job.running { "running for " } @else { "idle for " } (show::age(job.since, now))
            @if let Some(next) = job.next { ", next in " (show::age(now, next)) }
        }
        td { @if let Some(last) = &job.last { (result(last, now)) } @else { "none yet" } }
        td.number { @if let Some(last) = &job.last { (show::seconds(last.seconds)) } @else { "–" } }
        td.number { (job.runs) }
        td.number { (job.failures) }
    }
}

fn result(last: &Run, now: Timestamp) -> Markup {
    html! {
        @if last.result == Ending::Ok { "ok" } @else { strong { (last.result.as_str()) } }
        ", " (show::ago(last.ended, now))
        @if !last.text.is_empty() { ": " (last.text) }
    }
}

/// The trigger of a job, in words.
fn wakes(job: &Status) -> String {
    let every = job.every_seconds.map(|every| format!("every {}", span(every.ceil() as u64)));
    let notified = job.notified_by.as_ref().map(|by| format!("when {by}"));
    every.into_iter().chain(notified).collect::<Vec<_>>().join(", or ")
}
