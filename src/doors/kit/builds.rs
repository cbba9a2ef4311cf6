//! What builds do with caches, as their requests tell.
//!
//! BuildKit imports a cache by its tag, its manifest and its config, and only an import asks for bytes of that type. It
//! exports one by asking for its layers, sending what is missing, and pushing the manifest to a tag. Which requests are
//! of one build, `traceparent` tells; without it there are counts, and no durations.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use axum::response::Response;
use http::HeaderMap;

use crate::doors::kit::origin::trace_id;
use crate::metrics::Metrics;
use crate::metrics::recent::{BuildAction, Event};
use crate::names::Tag;
use crate::refs::Repo;

/// A cache was pushed to these tags: told by the handler, with its answer.
#[derive(Clone)]
pub struct Exported(pub Vec<Tag>);

/// A request that may be the last one of an import or an export.
pub struct PendingAction {
    metrics: Arc<Metrics>,
    repo: Repo,
    trace: Option<u128>,
    action: BuildAction,
}

/// Takes note, before it is answered, of a request that is a part of `action`, perhaps its last one: what may end an
/// action is to see the answer.
pub fn watch(
    metrics: &Arc<Metrics>,
    repo: &Repo,
    (action, ends): (BuildAction, bool),
    headers: &HeaderMap,
) -> Option<PendingAction> {
    let trace = trace_id(headers).and_then(|id| u128::from_str_radix(&id, 16).ok());
    if let Some(trace) = trace {
        metrics.recent.begin(trace, place(repo), action);
    }
    ends.then(|| PendingAction { metrics: metrics.clone(), repo: repo.clone(), trace, action })
}

/// A repository, for telling what one build does in several.
fn place(repo: &Repo) -> u64 {
    BuildHasherDefault::<DefaultHasher>::new().hash_one((repo.tenant(), repo.name()))
}

impl PendingAction {
    /// Counts the action, where its last request was answered with success.
    pub fn on_response<E>(self, answer: &Result<Response, E>) {
        let Some(answer) = answer.as_ref().ok().filter(|answer| answer.status().is_success()) else { return };
        let tags = match (self.action, answer.extensions().get::<Exported>()) {
            (BuildAction::Import, _) => vec![None],
            (BuildAction::Export, Some(Exported(tags))) => tags.iter().cloned().map(Some).collect(),
            // A manifest that is no cache, or has no tag.
            (BuildAction::Export, None) => return,
        };
        let took = self.trace.and_then(|trace| self.metrics.recent.end(trace, place(&self.repo), self.action));
        let counted = self.metrics.tenants.of(self.repo.tenant());
        let (counter, histogram) = match self.action {
            BuildAction::Import => (&counted.imports, &self.metrics.import_seconds),
            BuildAction::Export => (&counted.exports, &self.metrics.export_seconds),
        };
        counter.inc_by(tags.len() as u64);
        let seconds = took.map(|took| took.as_secs_f64());
        seconds.into_iter().for_each(|seconds| histogram.observe(seconds));
        for tag in tags {
            self.metrics.recent.event(Event {
                at: jiff::Timestamp::now(),
                tenant: self.repo.tenant().clone(),
                repo: self.repo.name().clone(),
                tag,
                action: self.action,
                seconds,
            });
        }
    }
}
