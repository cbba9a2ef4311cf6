//! `larder check`: does everything in the store fit together?

use std::process::ExitCode;

use anyhow::{anyhow, bail};
use clap::Args;
use larder::app::{self, App, Depth};
use larder::config::Config;
use serde_json::Value;

use super::lines::Server;
use super::show::{Progress, bar};
use larder::human::bytes;

/// Looks whether everything in the store fits together.
///
/// A store of files that a server has open is checked by that server; every other one is opened here.
#[derive(Args)]
#[command(after_help = "Exit status: 0 nothing is broken, 1 the store could not be checked, \
                        3 something is broken, 4 all that was broken has been repaired.")]
pub struct Check {
    /// Mend what can be mended without risk; see docs/operation.md.
    #[arg(long)]
    repair: bool,
    /// Read every blob and hash it.
    #[arg(long)]
    read_data: bool,
    /// Print JSON, a line for each thing that is told.
    #[arg(long)]
    json: bool,
}

const BROKEN: u8 = 3;
const REPAIRED: u8 = 4;

impl Check {
    pub async fn run(self, config: Config) -> anyhow::Result<ExitCode> {
        let depth = if self.read_data { Depth::Bytes } else { Depth::Names };
        let mut shown = Shown::new(self.json, self.read_data);
        match App::open_existing(config.clone()).await {
            Ok(app) => {
                let done = app.check(depth, self.repair, |event| shown.value(serde_json::to_value(event))).await;
                done.map_err(|error| anyhow!("cannot check the store: {error}"))?;
            }
            Err(error) if app::is_in_use(&error) => {
                let flag = |set: bool| if set { "true" } else { "false" };
                let query = [("read_data", flag(self.read_data)), ("repair", flag(self.repair))];
                let server = Server::of(&config).await?;
                server.order("/api/check", &query, |line| shown.value(Ok(line))).await?;
            }
            Err(error) => return Err(error),
        }
        shown.end()
    }
}

/// What a person or a program sees of a check.
struct Shown {
    json: bool,
    read_data: bool,
    progress: Progress,
    failed: Option<String>,
    /// What is broken, and how much of that has been repaired.
    done: Option<(u64, u64)>,
}

impl Shown {
    fn new(json: bool, read_data: bool) -> Shown {
        Shown { json, read_data, progress: Progress::new(json), failed: None, done: None }
    }

    fn value(&mut self, told: serde_json::Result<Value>) {
        let told = match told {
            Ok(told) => told,
            Err(error) => return self.failed = Some(error.to_string()),
        };
        if let Some(reason) = told["failed"].as_str() {
            self.failed = Some(reason.to_string());
        }
        let count = |name: &str| told["done"][name].as_u64().unwrap_or(0);
        if told["done"].is_object() {
            self.done = Some((count("broken"), count("repaired")));
        }
        if self.json {
            println!("{told}");
        } else if told["progress"].is_object() {
            self.progress.show(|| far(&told["progress"], self.read_data));
        } else if let Some(line) = line(&told) {
            self.progress.clear();
            println!("{line}");
        }
    }

    fn end(self) -> anyhow::Result<ExitCode> {
        self.progress.clear();
        match (self.failed, self.done) {
            (Some(reason), _) => bail!("cannot check the store: {reason}"),
            (None, None) => bail!("the check ended before its end"),
            (None, Some((0, _))) => Ok(ExitCode::SUCCESS),
            (None, Some((broken, repaired))) if repaired >= broken => Ok(ExitCode::from(REPAIRED)),
            (None, Some(_)) => Ok(ExitCode::from(BROKEN)),
        }
    }
}

/// What is shown while a check goes on.
fn far(progress: &Value, read_data: bool) -> String {
    let count = |name: &str| progress[name].as_u64().unwrap_or(0);
    let (is, of) = if read_data { ("bytes", "bytes_expected") } else { ("blobs", "blobs_expected") };
    let (is, of, objects) = (count(is), count(of), count("objects"));
    let read = if read_data { format!(", {} read", bytes(count("bytes"))) } else { String::new() };
    if of == 0 {
        return format!("{objects} objects{read}");
    }
    format!("{}  {objects} objects{read}", bar(is, of))
}

/// A line for people.
fn line(told: &Value) -> Option<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let (finding, done) = (&told["finding"], &told["done"]);
    if finding.is_object() {
        let kind = if finding["harmless"] == true { "note  " } else { "BROKEN" };
        let repaired = finding["repaired"].as_str().map(|what| format!(" ({what})")).unwrap_or_default();
        return Some(format!("{kind} {} {}{repaired}", text(&finding["key"]), text(&finding["message"])));
    }
    let count = |name: &str| done[name].as_u64().unwrap_or(0);
    done.is_object().then(|| {
        let read =
            if count("bytes") > 0 { format!(", {} of blobs read", bytes(count("bytes"))) } else { String::new() };
        let (broken, repaired) = (count("broken"), count("repaired"));
        let (notes, mended) = (count("notes"), count("notes_repaired"));
        let mended = if mended > 0 { format!(" ({mended} repaired)") } else { String::new() };
        format!("{} objects{read}: {broken} broken ({repaired} repaired), {notes} notes{mended}", count("objects"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn people_see_what_is_broken_and_what_was_done() {
        let finding = json!({ "finding": { "key": "t/a", "problem": "wrong_bytes", "harmless": false,
            "message": "does not fit its digest", "repaired": "put into quarantine" } });
        assert_eq!(line(&finding).unwrap(), "BROKEN t/a does not fit its digest (put into quarantine)");
        let done = json!({ "done": { "objects": 7, "bytes": 2048, "broken": 1, "repaired": 1,
            "notes": 2, "notes_repaired": 0 } });
        assert_eq!(line(&done).unwrap(), "7 objects, 2.0 KiB of blobs read: 1 broken (1 repaired), 2 notes");
        let done = json!({ "done": { "objects": 7, "broken": 1, "repaired": 0, "notes": 2, "notes_repaired": 2 } });
        assert_eq!(line(&done).unwrap(), "7 objects: 1 broken (0 repaired), 2 notes (2 repaired)");
        let progress = json!({ "objects": 9, "blobs": 5, "blobs_expected": 10, "bytes": 0, "bytes_expected": 0 });
        assert_eq!(far(&progress, false), "[###############               ]  50 %  9 objects");
        assert_eq!(far(&progress, true), "9 objects, 0 B read");
    }

    #[test]
    fn the_exit_status_tells_how_it_is() {
        let end = |told: &[Value]| {
            let mut shown = Shown { progress: Progress::off(), ..Shown::new(false, false) };
            told.iter().for_each(|told| shown.value(Ok(told.clone())));
            shown.end().map(|code| format!("{code:?}"))
        };
        let done = |broken: u64, repaired: u64| json!({ "done": { "broken": broken, "repaired": repaired, "notes": 9, "notes_repaired": 9 } });
        let code = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(end(&[done(0, 0)]).unwrap(), code(0));
        assert_eq!(end(&[done(2, 1)]).unwrap(), code(3));
        assert_eq!(end(&[done(2, 2)]).unwrap(), code(4));
        assert!(end(&[json!({ "progress": {} })]).is_err());
        assert!(end(&[json!({ "failed": "store is busy" })]).is_err());
    }
}
