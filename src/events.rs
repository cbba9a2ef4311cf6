//! Events. The code that does something emits its event, once, when it is durable; receivers have subscribed at the start.
//!
//! Subscribers are called one after another, directly. So nothing is queued, no event gets lost, and no lock of one is held
//! while another works; but the emitter waits for them. A subscriber never waits, never fails, and bounds its memory.
//!
//! Invariant: no event has a credential in it, and none is emitted for a single blob.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::names::{RepoName, Tag, Tenant};

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A manifest was pushed to tags, and all of them point to it.
    Pushed {
        tenant: &'a Tenant,
        repo: &'a RepoName,
        tags: &'a [Tag],
        /// It is the manifest of a cache.
        cache: bool,
        /// Of the manifest.
        bytes: u64,
        /// The layers that it references, each once, with their sizes in bytes.
        layers: &'a [(Digest, u64)],
        by: &'a BuildCaller,
    },
    /// A tag was asked for, and had a manifest.
    Served { tenant: &'a Tenant, repo: &'a RepoName, tag: &'a Tag, bytes: u64 },
    /// A tag was asked for that is not there, or not whole.
    Missed { tenant: &'a Tenant, repo: &'a RepoName, tag: &'a Tag },
    /// A tag was asked for as an import asks for it, and there is none.
    ImportMissed { tenant: &'a Tenant, repo: &'a RepoName, tag: &'a Tag, by: &'a BuildCaller },
    /// The config of a cache was read, which ends an import.
    Imported {
        tenant: &'a Tenant,
        repo: &'a RepoName,
        /// The tag that serves the cache. An import reads the config by its digest: without an inventory of the tag it is
        /// not known.
        tag: Option<&'a Tag>,
        /// The layers that the cache offers, where the tag is known.
        layers: Option<LayerSum>,
        by: &'a BuildCaller,
    },
    /// One collection has let these go by rules.
    Evicted {
        /// All of them, in sums.
        sums: &'a [EvictedSum],
        /// Which: the first of them, where there are very many.
        which: &'a [Eviction],
    },
    /// Something was not allowed.
    Refused(Refused<'a>),
    /// A request that changes something, takes a token or orders work was let in and answered with success.
    Written(AuditedRequest<'a>),
}

/// A refusal.
#[derive(Clone, Copy, Debug)]
pub enum Refused<'a> {
    /// An upload: the disk or the tenant is full.
    Upload { tenant: &'a Tenant },
    /// A request: its caller has no right to it, or what was sent cannot be taken.
    Request(AuditedRequest<'a>),
}

/// A request that changes something or was refused, and what came of it. The texts may be what a client has chosen.
#[derive(Clone, Copy, Debug)]
pub struct AuditedRequest<'a> {
    /// The caller, if known.
    pub who: Option<&'a str>,
    pub method: &'a str,
    /// Of bounded length, and without the id of an upload.
    pub path: &'a str,
    /// Name of the route in metrics.
    pub route: &'static str,
    pub status: u16,
    /// The reason of the refusal.
    pub reason: &'a str,
    /// Address of the client.
    pub address: Option<IpAddr>,
}

/// One build among all, as its requests say of themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BuildId(pub u128);

/// As in `traceparent`.
impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The sender of a build's requests, and the build.
#[derive(Clone, Debug, Default)]
pub struct BuildCaller {
    /// The caller, as log lines and pages show it: one line of bounded length. Absent if callers need no credentials.
    pub who: Option<Box<str>>,
    /// The build, if the builder names it.
    pub build: Option<BuildId>,
}

/// Layers, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerSum {
    pub layers: u64,
    pub bytes: u64,
}

impl LayerSum {
    /// One layer more.
    pub fn add(&mut self, bytes: u64) {
        self.layers += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// Action of a build on a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildAction {
    Import,
    Export,
}

/// Which kind of rule let something go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    Unused,
    Pushed,
    NotNewest,
    Room,
    /// The manifest that the tag belongs to is deleted.
    Subject,
}

/// Tags and layers of a tenant that a rule condemned, with the bytes that only they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvictedSum {
    pub tenant: Tenant,
    pub rule: Rule,
    pub count: u64,
    pub bytes: u64,
}

/// Something that was let go.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Eviction {
    pub at: Timestamp,
    pub tenant: Tenant,
    pub repo: String,
    pub tag: String,
    /// Of one layer, when not the whole tag went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    pub bytes: u64,
    /// In words.
    pub reason: String,
}

/// A receiver of events.
pub trait Subscriber: Send + Sync {
    /// Takes note of an event. In the middle of what a client waits for: it neither waits nor fails.
    fn on(&self, event: &Event<'_>);
}

/// The sender of events. Cheap to clone.
#[derive(Clone, Default)]
pub struct Events {
    subscribers: Arc<[Arc<dyn Subscriber>]>,
}

impl Events {
    /// Events for these subscribers, and for no others ever.
    pub fn to(subscribers: impl IntoIterator<Item = Arc<dyn Subscriber>>) -> Events {
        Events { subscribers: subscribers.into_iter().collect() }
    }

    /// Tells each subscriber.
    pub fn emit(&self, event: Event<'_>) {
        self.subscribers.iter().for_each(|subscriber| subscriber.on(&event));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[derive(Default)]
    struct Misses(AtomicUsize);

    impl Subscriber for Misses {
        fn on(&self, event: &Event<'_>) {
            if matches!(event, Event::Missed { .. }) {
                self.0.fetch_add(1, Relaxed);
            }
        }
    }

    #[test]
    fn each_subscriber_hears_of_each_event_once() {
        let (one, two) = (Arc::new(Misses::default()), Arc::new(Misses::default()));
        let events = Events::to([one.clone() as Arc<dyn Subscriber>, two.clone()]);
        let (tenant, repo, tag) = (Tenant::default_tenant(), "a".parse().unwrap(), "t".parse().unwrap());
        events.clone().emit(Event::Missed { tenant: &tenant, repo: &repo, tag: &tag });
        events.emit(Event::Served { tenant: &tenant, repo: &repo, tag: &tag, bytes: 1 });
        assert_eq!([&one, &two].map(|heard| heard.0.load(Relaxed)), [1, 1]);
        // Events without a subscriber are dropped.
        Events::default().emit(Event::Missed { tenant: &tenant, repo: &repo, tag: &tag });
    }
}
