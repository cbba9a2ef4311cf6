//! What builds do with caches, as their requests tell.
//!
//! BuildKit imports a cache by its tag, its manifest and its config, and only an import asks for bytes of that type. It
//! exports one by asking for its layers, sending what is missing, and pushing the manifest to a tag. Which requests are
//! of one build, `traceparent` tells; without it there are counts, and no durations.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use axum::response::Response;
use http::header::ACCEPT;
use http::{HeaderMap, Method};

use crate::doors::observe::trace_id;
use crate::doors::registry::error::OciError;
use crate::doors::registry::header;
use crate::doors::registry::route::Route;
use crate::metrics::Metrics;
use crate::metrics::recent::{Deed, Event};
use crate::names::Tag;
use crate::refs::Repo;
use crate::refs::manifests::CACHE_CONFIG;

/// A cache was pushed to these tags: told by the handler, with its answer.
#[derive(Clone)]
pub struct Exported(pub Vec<Tag>);

/// A request that may be the last one of an import or an export.
pub struct Ending {
    metrics: Arc<Metrics>,
    repo: Repo,
    trace: Option<u128>,
    deed: Deed,
}

/// Takes note of a request before it is answered. What may end a deed is to see the answer.
pub fn watch(
    metrics: &Arc<Metrics>,
    repo: &Repo,
    route: &Route,
    method: &Method,
    headers: &HeaderMap,
) -> Option<Ending> {
    let (deed, ends) = part(route, method, headers)?;
    let trace = trace_id(headers).and_then(|id| u128::from_str_radix(&id, 16).ok());
    if let Some(trace) = trace {
        metrics.recent.begin(trace, place(repo), deed);
    }
    ends.then(|| Ending { metrics: metrics.clone(), repo: repo.clone(), trace, deed })
}

/// What a request is a part of, and whether it is the last part.
fn part(route: &Route, method: &Method, headers: &HeaderMap) -> Option<(Deed, bool)> {
    match route {
        Route::ReadManifest { .. } => Some((Deed::Import, false)),
        Route::ReadBlob { .. } if method == Method::HEAD => Some((Deed::Export, false)),
        Route::ReadBlob { .. } => {
            let imports = header(headers, ACCEPT).is_some_and(|accept| accept.contains(CACHE_CONFIG));
            imports.then_some((Deed::Import, true))
        }
        Route::BeginUpload { .. } | Route::SealUpload { .. } => Some((Deed::Export, false)),
        Route::PutManifest { .. } => Some((Deed::Export, true)),
        _ => None,
    }
}

/// A repository, for telling what one build does in several.
fn place(repo: &Repo) -> u64 {
    BuildHasherDefault::<DefaultHasher>::new().hash_one((repo.tenant(), repo.name()))
}

impl Ending {
    pub fn see(self, answer: &Result<Response, OciError>) {
        let Some(answer) = answer.as_ref().ok().filter(|answer| answer.status().is_success()) else { return };
        let tags = match (self.deed, answer.extensions().get::<Exported>()) {
            (Deed::Import, _) => vec![None],
            (Deed::Export, Some(Exported(tags))) => tags.iter().cloned().map(Some).collect(),
            // A manifest that is no cache, or has no tag.
            (Deed::Export, None) => return,
        };
        let took = self.trace.and_then(|trace| self.metrics.recent.end(trace, place(&self.repo), self.deed));
        let counted = self.metrics.tenants.of(self.repo.tenant());
        let (counter, histogram) = match self.deed {
            Deed::Import => (&counted.imports, &self.metrics.import_seconds),
            Deed::Export => (&counted.exports, &self.metrics.export_seconds),
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
                deed: self.deed,
                seconds,
            });
        }
    }
}
