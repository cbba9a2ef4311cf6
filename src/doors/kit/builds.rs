//! Imports and exports of builds, recognised by their requests.
//!
//! BuildKit imports a cache by its tag, its manifest and its config, and only an import asks for bytes of that type. It
//! exports one by asking for its layers, sending what is missing, and pushing the manifest to a tag, of which the house
//! tells. Which requests are of one build, `traceparent` says; without it there are counts, and no durations.

use http::{HeaderMap, StatusCode};

use crate::auth::Caller;
use crate::digest::Digest;
use crate::doors::Doors;
use crate::doors::kit::audit::WHO_BYTES_MAX;
use crate::doors::kit::logged;
use crate::doors::kit::origin::trace_id;
use crate::events::{BuildAction, BuildCaller, BuildId, Event};
use crate::names::Tag;
use crate::refs::{Repo, RepoWriter};

/// The part of a build that a request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Import,
    /// The first request of an import: what this tag serves.
    Lookup(Tag),
    /// The last request of an import: it reads this config.
    EndOfImport(Digest),
    Export,
}

/// An import that begins or ends with this request, as its answer will tell.
pub struct PendingImport {
    repo: Repo,
    part: Part,
    build: Option<BuildId>,
}

/// The build that a request is of, where it says so.
fn id(headers: &HeaderMap) -> Option<BuildId> {
    trace_id(headers).and_then(|id| u128::from_str_radix(&id, 16).ok()).map(BuildId)
}

/// The caller, for log lines and pages. Without rules no caller has a name.
fn who(doors: &Doors, caller: &Caller) -> Option<Box<str>> {
    let named = (!doors.gate.is_open()).then(|| caller.identity().to_string());
    named.map(|who| logged::text(&who, WHO_BYTES_MAX).into())
}

/// The sender of a request of a build.
pub fn caller(doors: &Doors, caller: &Caller, headers: &HeaderMap) -> BuildCaller {
    BuildCaller { who: who(doors, caller), build: id(headers) }
}

/// Takes note, before it is answered, of a request that is a part of a build: of some the answer tells more.
pub fn watch(doors: &Doors, repo: &Repo, part: Part, headers: &HeaderMap) -> Option<PendingImport> {
    let build = id(headers);
    if let Some(build) = build {
        let action = if part == Part::Export { BuildAction::Export } else { BuildAction::Import };
        doors.metrics.recent.begin(build, (repo.tenant(), repo.name()), action);
    }
    matches!(part, Part::Lookup(_) | Part::EndOfImport(_)).then(|| PendingImport { repo: repo.clone(), part, build })
}

/// Takes note of a blob that a client has sent.
pub fn received(doors: &Doors, to: &RepoWriter, blob: &Digest) {
    doors.metrics.recent.received(to.repo().tenant(), blob);
}

impl PendingImport {
    /// Tells of the import, where the answer to its request says how it went.
    pub fn on_response(self, doors: &Doors, from: &Caller, status: StatusCode) {
        let PendingImport { repo, part, build } = self;
        let by = || BuildCaller { who: who(doors, from), build };
        let (tenant, name) = (repo.tenant(), repo.name());
        match part {
            Part::Lookup(tag) if status == StatusCode::NOT_FOUND => {
                doors.events.emit(Event::ImportMissed { tenant, repo: name, tag: &tag, by: &by() });
            }
            Part::EndOfImport(config) if status.is_success() => {
                // What a parent serves has its tag there.
                let stock = doors.store.stock();
                let found = repo.each().find_map(|repo| stock.tag_with_config(repo.tenant(), repo.name(), &config));
                let (tag, layers) = found.unzip();
                doors.events.emit(Event::Imported { tenant, repo: name, tag: tag.as_ref(), layers, by: &by() });
            }
            _ => {}
        }
    }
}
