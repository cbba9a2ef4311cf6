//! Checks whether the objects of a store fit together, reports those that do not, and repairs what can be repaired.
//!
//! One walk over all keys: a listing, one read for each manifest, record and pointer, and with `read_data` one for each
//! blob. The references of a manifest are looked up in the listing of blobs that came before, so that a bucket is not
//! asked for each: 40 bytes of memory for each blob, of one tenant at a time.
//!
//! The store may be in use. Each finding is checked again when the walk is done, this time by asking the backend for
//! everything: pushes and deletes during the walk are not reported.

mod in_repo;
mod look;
mod problem;
mod repair;
mod walk;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::future::{Future, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use futures::stream::FuturesOrdered;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::calls::FAN_OUT;
use crate::config::Config;
use crate::content::quarantine;
use crate::error::Result;
use crate::objects;
use crate::objects::{Key, Objects, Version};
use crate::refs::{Refs, listing};
use look::{Look, WalkFacts};
pub use problem::{Finding, Problem};
use walk::Walk;

/// Objects between two reports of progress.
const PROGRESS_EVERY: u64 = 1_000;
/// Blobs read at the same time: few, so that requests find the disk and a core free.
const READS: usize = 2;

/// Depth of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Whether every reference exists.
    Names,
    /// Also whether the bytes of every blob fit its digest: reads the whole store.
    Bytes,
}

/// Events of a check, as it runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckEvent {
    Progress(CheckProgress),
    Finding(Told),
    Done(Summary),
    /// The check could not continue.
    Failed(String),
}

/// Progress of a check.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckProgress {
    pub objects: u64,
    pub blobs: u64,
    /// Bytes of blobs read.
    pub bytes: u64,
    /// Expected number of blobs, if the server has counted them.
    pub blobs_expected: u64,
    pub bytes_expected: u64,
}

/// A finding in a report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    pub key: String,
    /// Kind of the problem, a stable name.
    pub problem: Cow<'static, str>,
    /// Whether the problem is only informative: nothing is lost, and no client is served anything wrong.
    pub harmless: bool,
    pub message: String,
    /// The repair that was made.
    pub repaired: Option<Cow<'static, str>>,
}

/// Result of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    pub objects: u64,
    /// Bytes of blobs read.
    pub bytes: u64,
    pub broken: u64,
    pub notes: u64,
    /// Number of broken objects that were repaired.
    pub repaired: u64,
    /// Number of harmless findings that were repaired.
    pub notes_repaired: u64,
}

/// Returns everything that is broken, in key order. Changes nothing.
pub async fn check(objects: &dyn Objects, config: &Config, depth: Depth) -> Result<Vec<Finding>> {
    let mut findings = all(objects, config, depth).await?;
    findings.retain(|finding| !finding.problem.is_harmless());
    Ok(findings)
}

/// Returns everything that is broken, and the harmless findings. Changes nothing.
pub async fn all(objects: &dyn Objects, config: &Config, depth: Depth) -> Result<Vec<Finding>> {
    let check = Check::new(objects, config, depth).await?;
    check.run(|_| ready(())).await
}

/// Checks the store and reports its findings; with `repair` it repairs what can be repaired. It waits for `report` each
/// time: a slow reader slows the check, and fills no memory.
pub async fn check_store<F: Future<Output = ()> + Send>(
    refs: &Refs,
    depth: Depth,
    repair: bool,
    mut report: impl FnMut(CheckEvent) -> F + Send,
) -> Result<Summary> {
    let accounts = refs.usage().accounts();
    let expected =
        |count: fn(&crate::capacity::usage::Account) -> u64| accounts.iter().map(|(_, account)| count(account)).sum();
    let (blobs_expected, bytes_expected) = (expected(|account| account.blobs()), expected(|account| account.stored()));
    let check = Check::new(&**refs.objects(), refs.config(), depth).await?;
    let findings = check
        .run(|progress| report(CheckEvent::Progress(CheckProgress { blobs_expected, bytes_expected, ..progress })))
        .await?;
    let mut summary = Summary { objects: check.objects_seen(), bytes: check.bytes.load(Relaxed), ..Summary::default() };
    for finding in findings {
        let repaired = if repair { repair::repair(refs, &check.look(), &finding).await? } else { None };
        let (found, mended) = match finding.problem.is_harmless() {
            true => (&mut summary.notes, &mut summary.notes_repaired),
            false => (&mut summary.broken, &mut summary.repaired),
        };
        *found += 1;
        *mended += u64::from(repaired.is_some());
        report(CheckEvent::Finding(Told {
            key: finding.key.to_string(),
            problem: finding.problem.name().into(),
            harmless: finding.problem.is_harmless(),
            message: finding.problem.to_string(),
            repaired: repaired.map(Into::into),
        }))
        .await;
    }
    report(CheckEvent::Done(summary)).await;
    Ok(summary)
}

struct Check<'a> {
    objects: &'a dyn Objects,
    config: &'a Config,
    depth: Depth,
    /// Versions in quarantine, which count as missing.
    wrong: Arc<HashMap<Key, Version>>,
    seen: AtomicU64,
    bytes: AtomicU64,
    now: SystemTime,
}

impl<'a> Check<'a> {
    async fn new(objects: &'a dyn Objects, config: &'a Config, depth: Depth) -> Result<Check<'a>> {
        let notes = quarantine::notes(objects).await?.into_iter();
        let wrong = Arc::new(notes.map(|(key, note)| (key, Version(note.version.into()))).collect());
        let (seen, bytes, now) = (AtomicU64::new(0), AtomicU64::new(0), SystemTime::now());
        Ok(Check { objects, config, depth, wrong, seen, bytes, now })
    }

    fn look(&self) -> Look<'_> {
        Look {
            objects: self.objects,
            config: self.config,
            depth: self.depth,
            wrong: &self.wrong,
            bytes: &self.bytes,
            now: self.now,
        }
    }

    fn objects_seen(&self) -> u64 {
        self.seen.load(Relaxed)
    }

    async fn run<F: Future<Output = ()> + Send>(
        &self,
        mut report: impl FnMut(CheckProgress) -> F + Send,
    ) -> Result<Vec<Finding>> {
        let (mut walk, mut jobs) = (Walk::new(self.look()), FuturesOrdered::new());
        let at_once = if self.depth == Depth::Bytes { READS } else { FAN_OUT };
        let mut listed = listing::walk(self.objects, "");
        let (mut found, mut ended, mut progress) = (Vec::new(), false, CheckProgress::default());
        loop {
            while jobs.len() < at_once && !ended {
                match listed.try_next().await? {
                    Some((place, meta)) => {
                        progress.objects += 1;
                        if progress.objects.is_multiple_of(PROGRESS_EVERY) {
                            let (blobs, bytes) = (walk.blobs(), self.bytes.load(Relaxed));
                            report(CheckProgress { blobs, bytes, ..progress }).await;
                        }
                        jobs.extend(walk.next(place, meta));
                    }
                    None => {
                        ended = true;
                        jobs.extend(walk.end());
                    }
                }
            }
            match jobs.next().await {
                Some(findings) => found.extend(findings?),
                None if ended => break,
                None => {}
            }
        }
        drop(jobs);
        self.seen.store(progress.objects, Relaxed);
        report(CheckProgress { blobs: walk.blobs(), bytes: self.bytes.load(Relaxed), ..progress }).await;
        self.confirm(found).await
    }

    /// Returns the findings that still hold, each once.
    async fn confirm(&self, found: Vec<Finding>) -> Result<Vec<Finding>> {
        let (mut said, mut confirmed) = (HashSet::new(), Vec::new());
        for finding in found {
            if !said.insert((finding.key.clone(), finding.problem.to_string())) {
                continue;
            }
            if finding.problem.is_of_one_object() {
                match self.objects.head(&finding.key).await {
                    Ok(meta) => {
                        let again = self.look().object(meta, WalkFacts::default()).await?;
                        let again = again.into_iter().find(|again| again.problem == finding.problem);
                        confirmed.extend(again);
                    }
                    Err(objects::Error::NotFound) => {}
                    Err(error) => return Err(error.into()),
                }
            } else {
                confirmed.push(finding);
            }
        }
        confirmed.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(confirmed)
    }
}
