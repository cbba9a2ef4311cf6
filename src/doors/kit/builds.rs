//! What builds do with caches, as their requests tell.
//!
//! BuildKit imports a cache by its tag, its manifest and its config, and only an import asks for bytes of that type. It
//! exports one by asking for its layers, sending what is missing, and pushing the manifest to a tag, of which the house
//! tells. Which requests are of one build, `traceparent` says; without it there are counts, and no durations.

use axum::response::Response;
use http::HeaderMap;

use crate::auth::Caller;
use crate::digest::Digest;
use crate::doors::Doors;
use crate::doors::kit::audit::WHO_BYTES_MAX;
use crate::doors::kit::logged;
use crate::doors::kit::origin::trace_id;
use crate::events::{BuildAction, BuildCaller, BuildId, Event};
use crate::refs::{Repo, RepoWriter};

/// The part of a build that a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Import,
    /// The last request of an import: it reads this config.
    EndOfImport {
        config: Digest,
    },
    Export,
}

/// An import that ends with this request, where it succeeds.
pub struct PendingImport {
    doors: Doors,
    repo: Repo,
    config: Digest,
    by: BuildCaller,
}

/// The build that a request is of, where it says so.
fn id(headers: &HeaderMap) -> Option<BuildId> {
    trace_id(headers).and_then(|id| u128::from_str_radix(&id, 16).ok()).map(BuildId)
}

/// Who sends a request of a build.
pub fn caller(doors: &Doors, caller: &Caller, headers: &HeaderMap) -> BuildCaller {
    // Where everybody may everything there is nobody to name.
    let named = (!doors.gate.is_open()).then(|| caller.identity().to_string());
    let who = named.map(|who| logged::text(&who, WHO_BYTES_MAX).into());
    BuildCaller { who, build: id(headers) }
}

/// Takes note, before it is answered, of a request that is a part of a build: what may end an import is to see the answer.
pub fn watch(doors: &Doors, from: &Caller, repo: &Repo, part: Part, headers: &HeaderMap) -> Option<PendingImport> {
    if let Some(build) = id(headers) {
        let action = if part == Part::Export { BuildAction::Export } else { BuildAction::Import };
        doors.metrics.recent.begin(build, (repo.tenant(), repo.name()), action);
    }
    match part {
        Part::EndOfImport { config } => {
            let by = caller(doors, from, headers);
            Some(PendingImport { doors: doors.clone(), repo: repo.clone(), config, by })
        }
        Part::Import | Part::Export => None,
    }
}

/// Takes note of a blob that a client has sent.
pub fn received(doors: &Doors, to: &RepoWriter, blob: &Digest) {
    doors.metrics.recent.received(to.repo().tenant(), blob);
}

impl PendingImport {
    /// Tells of the import, where its last request was answered with success.
    pub fn on_response<E>(self, answer: &Result<Response, E>) {
        if !answer.as_ref().is_ok_and(|answer| answer.status().is_success()) {
            return;
        }
        let PendingImport { doors, repo, config, by } = self;
        // What a parent serves has its tag there.
        let stock = doors.store.stock();
        let found = repo.each().find_map(|repo| stock.tag_with_config(repo.tenant(), repo.name(), &config));
        let (tag, layers) = found.unzip();
        let (tenant, repo, tag, by) = (repo.tenant(), repo.name(), tag.as_ref(), &by);
        doors.events.emit(Event::Imported { tenant, repo, tag, layers, by });
    }
}
