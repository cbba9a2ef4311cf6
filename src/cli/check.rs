//! `larder check`: does everything in the store fit together?

use std::process::ExitCode;

use anyhow::{anyhow, bail};
use clap::Args;
use larder::app::{self, App, Depth};
use larder::check::{self, CheckEvent, Summary};
use larder::config::Config;

use super::lines::OpenServer;
use super::show::{ProgressLine, bar};
use larder::human::bytes;

/// Looks whether everything in the store fits together.
///
/// A store of files that a server has open is checked by that server; every other one is opened here.
#[derive(Args)]
#[command(after_help = "Exit status: 0 nothing is broken, 1 the store could not be checked, \
                        3 something is broken, 4 all that was broken has been repaired.")]
pub struct CheckCommand {
    /// Repair where that is safe; see docs/operation.md.
    #[arg(long)]
    repair: bool,
    /// Read every blob and hash it.
    #[arg(long)]
    read_data: bool,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
}

const BROKEN: u8 = 3;
const REPAIRED: u8 = 4;

impl CheckCommand {
    pub async fn run(self, config: Config) -> anyhow::Result<ExitCode> {
        let depth = if self.read_data { Depth::Bytes } else { Depth::Names };
        let mut shown = CheckOutput::new(self.json, self.read_data);
        match App::open_existing(config.clone()).await {
            Ok(app) => {
                let report = |event| {
                    shown.event(event);
                    std::future::ready(())
                };
                let done = app.check(depth, self.repair, report).await;
                done.map_err(|error| anyhow!("cannot check the store: {error}"))?;
            }
            Err(error) if app::is_in_use(&error) => {
                let flag = |set: bool| if set { "true" } else { "false" };
                let query = [("read_data", flag(self.read_data)), ("repair", flag(self.repair))];
                let server = OpenServer::of(&config).await?;
                server.order("/api/check", &query, String::new(), |event| shown.event(event)).await?;
            }
            Err(error) => return Err(error),
        }
        shown.end()
    }
}

/// Output of a check, for people or programs.
struct CheckOutput {
    json: bool,
    read_data: bool,
    progress: ProgressLine,
    failed: Option<String>,
    done: Option<Summary>,
}

impl CheckOutput {
    fn new(json: bool, read_data: bool) -> CheckOutput {
        CheckOutput { json, read_data, progress: ProgressLine::new(json), failed: None, done: None }
    }

    fn event(&mut self, event: CheckEvent) {
        match (&event, self.json) {
            (_, true) => println!("{}", serde_json::json!(event)),
            (CheckEvent::Progress(progress), false) => self.progress.show(|| far(progress, self.read_data)),
            (_, false) => {
                self.progress.clear();
                line(&event).iter().for_each(|line| println!("{line}"));
            }
        }
        match event {
            CheckEvent::Done(summary) => self.done = Some(summary),
            CheckEvent::Failed(reason) => self.failed = Some(reason),
            CheckEvent::Progress(_) | CheckEvent::Finding(_) => {}
        }
    }

    fn end(self) -> anyhow::Result<ExitCode> {
        self.progress.clear();
        match (self.failed, self.done) {
            (Some(reason), _) => bail!("cannot check the store: {reason}"),
            (None, None) => bail!("the check was aborted"),
            (None, Some(Summary { broken: 0, .. })) => Ok(ExitCode::SUCCESS),
            (None, Some(done)) if done.repaired >= done.broken => Ok(ExitCode::from(REPAIRED)),
            (None, Some(_)) => Ok(ExitCode::from(BROKEN)),
        }
    }
}

/// Output while a check runs.
fn far(progress: &check::CheckProgress, read_data: bool) -> String {
    let (is, of) = match read_data {
        true => (progress.bytes, progress.bytes_expected),
        false => (progress.blobs, progress.blobs_expected),
    };
    let read = if read_data { format!(", {} read", bytes(progress.bytes)) } else { String::new() };
    let bar = if of > 0 { format!("{}  ", bar(is, of)) } else { String::new() };
    format!("{bar}{} objects{read}", progress.objects)
}

/// A line for people.
fn line(event: &CheckEvent) -> Option<String> {
    match event {
        CheckEvent::Finding(told) => {
            let kind = if told.harmless { "note  " } else { "BROKEN" };
            let repaired = told.repaired.as_ref().map(|what| format!(" ({what})")).unwrap_or_default();
            Some(format!("{kind} {} {}{repaired}", told.key, told.message))
        }
        CheckEvent::Done(Summary { objects, bytes: read, broken, notes, repaired, notes_repaired }) => {
            let read = if *read > 0 { format!(", {} of blobs read", bytes(*read)) } else { String::new() };
            let mended = if *notes_repaired > 0 { format!(" ({notes_repaired} repaired)") } else { String::new() };
            Some(format!("{objects} objects{read}: {broken} broken ({repaired} repaired), {notes} notes{mended}"))
        }
        CheckEvent::Progress(_) | CheckEvent::Failed(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder::check::{CheckProgress, Told};

    #[test]
    fn people_see_what_is_broken_and_what_was_done() {
        let (key, message) = ("t/a".to_string(), "does not fit its digest".to_string());
        let repaired = Some("put into quarantine".into());
        let finding =
            CheckEvent::Finding(Told { key, problem: "wrong_bytes".into(), harmless: false, message, repaired });
        assert_eq!(line(&finding).unwrap(), "BROKEN t/a does not fit its digest (put into quarantine)");
        let done = Summary { objects: 7, bytes: 2048, broken: 1, repaired: 1, notes: 2, notes_repaired: 0 };
        let shown = line(&CheckEvent::Done(done)).unwrap();
        assert_eq!(shown, "7 objects, 2.0 KiB of blobs read: 1 broken (1 repaired), 2 notes");
        let done = Summary { bytes: 0, repaired: 0, notes_repaired: 2, ..done };
        assert_eq!(line(&CheckEvent::Done(done)).unwrap(), "7 objects: 1 broken (0 repaired), 2 notes (2 repaired)");
        let progress = CheckProgress { objects: 9, blobs: 5, blobs_expected: 10, bytes: 0, bytes_expected: 0 };
        assert_eq!(far(&progress, false), "[###############               ]  50 %  9 objects");
        assert_eq!(far(&progress, true), "9 objects, 0 B read");
    }

    #[test]
    fn the_exit_status_tells_how_it_is() {
        let end = |events: &[CheckEvent]| {
            let mut shown = CheckOutput { progress: super::ProgressLine::off(), ..CheckOutput::new(false, false) };
            events.iter().for_each(|event| shown.event(event.clone()));
            shown.end().map(|code| format!("{code:?}"))
        };
        let done = |broken, repaired| {
            CheckEvent::Done(Summary { broken, repaired, notes: 9, notes_repaired: 9, ..Summary::default() })
        };
        let code = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(end(&[done(0, 0)]).unwrap(), code(0));
        assert_eq!(end(&[done(2, 1)]).unwrap(), code(3));
        assert_eq!(end(&[done(2, 2)]).unwrap(), code(4));
        assert!(end(&[CheckEvent::Progress(CheckProgress::default())]).is_err());
        assert!(end(&[CheckEvent::Failed("store is busy".to_string())]).is_err());
    }

    #[test]
    fn a_server_of_another_version_is_understood() {
        let told = r#"{"done":{"objects":7,"broken":2,"repaired":1,"something_new":true}}"#;
        let Ok(CheckEvent::Done(done)) = serde_json::from_str(told) else { panic!("{told}") };
        assert_eq!((done.objects, done.broken, done.repaired, done.notes), (7, 2, 1, 0));
    }
}
