//! What builds do with caches, as their requests tell.
//!
//! BuildKit imports a cache by its tag, its manifest and its config, and only an import asks for bytes of that type. It
//! exports one by asking for its layers, sending what is missing, and pushing the manifest to a tag, of which the house
//! tells. Which requests are of one build, `traceparent` says; without it there are counts, and no durations.

use axum::response::Response;
use http::HeaderMap;

use crate::doors::Doors;
use crate::doors::kit::origin::trace_id;
use crate::events::{BuildAction, BuildId, Event, Events};
use crate::refs::Repo;

/// The part of a build that a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Import,
    /// The last request of an import.
    EndOfImport,
    Export,
}

/// An import that ends with this request, where it succeeds.
pub struct PendingImport {
    events: Events,
    repo: Repo,
    build: Option<BuildId>,
}

/// The build that a request is of, where it says so.
pub fn id(headers: &HeaderMap) -> Option<BuildId> {
    trace_id(headers).and_then(|id| u128::from_str_radix(&id, 16).ok()).map(BuildId)
}

/// Takes note, before it is answered, of a request that is a part of a build: what may end an import is to see the answer.
pub fn watch(doors: &Doors, repo: &Repo, part: Part, headers: &HeaderMap) -> Option<PendingImport> {
    let build = id(headers);
    if let Some(build) = build {
        let action = if part == Part::Export { BuildAction::Export } else { BuildAction::Import };
        doors.metrics.recent.begin(build, (repo.tenant(), repo.name()), action);
    }
    (part == Part::EndOfImport).then(|| PendingImport { events: doors.events.clone(), repo: repo.clone(), build })
}

impl PendingImport {
    /// Tells of the import, where its last request was answered with success.
    pub fn on_response<E>(self, answer: &Result<Response, E>) {
        if answer.as_ref().is_ok_and(|answer| answer.status().is_success()) {
            let PendingImport { events, repo, build } = self;
            events.emit(Event::Imported { tenant: repo.tenant(), repo: repo.name(), build });
        }
    }
}
