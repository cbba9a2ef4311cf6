//! Collection: how long things stay, and what goes first.

use std::time::Duration;

use anyhow::bail;
use serde::Deserialize;

use super::{Ingredients, Pattern, Span};

/// Shortest grace and lease outside of tests: builds must end within them.
const SPAN_MIN: Duration = Duration::from_secs(3600);
/// Oldest list of what is condemned that an answer rests on, whatever the grace: a quarter of the shortest.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(15 * 60);
/// Longest time between two looks at what is condemned.
const POLL_MAX: Duration = Duration::from_secs(60);
/// The last use of a tag is noted once in this time, at most.
const USED_EVERY_MAX: Duration = Duration::from_secs(3600);
/// Parts of the grace that such a list may be old.
const SNAPSHOT_PARTS: u32 = 12;
/// Times of a bucket are whole seconds: differences of them may be off by so much.
pub const GRAIN: Duration = Duration::from_secs(2);
/// Looks at what is condemned within the time that one may be old.
const POLLS: u32 = 8;

/// Time of collections, and the times for which content stays.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CollectConfig {
    /// This server collects. All servers of a bucket may; one is enough.
    pub enabled: bool,
    /// Time between two collections.
    pub interval: Span,
    /// Time for which an object stays condemned. Twice the longest build is a good choice.
    pub grace: Span,
    /// Whatever a served tag named stays for so long after it was served, though the tag be replaced or deleted.
    pub lease: Span,
    /// An answer rests on a list of what is condemned that is at most so old. All servers of a bucket need the same.
    /// By default a twelfth of `grace`, at most 15 minutes.
    pub snapshot_age: Option<Span>,
    /// Objects that a collection looks at in a second, at most.
    pub objects_per_second: u32,
    /// Collect also where the bucket does not refuse requests that come late. Then one server only may collect.
    pub without_fence: bool,
    /// Allows spans of seconds. Builds that take longer than `grace` may fail.
    pub short_spans: bool,
    #[doc(hidden)]
    #[serde(skip)]
    pub ingredients: Ingredients,
}

impl Default for CollectConfig {
    fn default() -> Self {
        CollectConfig {
            enabled: true,
            interval: Span::minutes(30),
            grace: Span::hours(24),
            lease: Span::hours(24),
            snapshot_age: None,
            objects_per_second: 20_000,
            without_fence: false,
            short_spans: false,
            ingredients: Ingredients::default(),
        }
    }
}

impl CollectConfig {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if !self.short_spans && (self.grace.get() < SPAN_MIN || self.lease.get() < SPAN_MIN) {
            bail!("[collect] grace and lease must be at least 1h");
        }
        if self.snapshot_age() * 4 > self.grace.get() {
            bail!("[collect] snapshot_age must be at most a quarter of grace");
        }
        if self.objects_per_second == 0 {
            bail!("[collect] objects_per_second must be at least 1");
        }
        Ok(())
    }

    /// Oldest list of what is condemned that an answer rests on.
    pub fn snapshot_age(&self) -> Duration {
        let by_default = (self.grace.get() / SNAPSHOT_PARTS).min(SNAPSHOT_AGE_MAX);
        self.snapshot_age.map_or(by_default, Span::get)
    }

    /// Time between the publication of what is condemned and its deletion. Whatever is served rests on a list that is as
    /// young as `snapshot_age`: so what it named stays for the lease after that. `pressed`, room is needed soon.
    pub fn wait(&self, pressed: bool) -> Duration {
        let lease = if self.ingredients.lease() { self.lease.get() + self.snapshot_age() } else { Duration::ZERO };
        let wait = self.grace.get().max(lease);
        if pressed { wait.min(SPAN_MIN) } else { wait }
    }

    /// Shortest time between two notes of the last use of a tag.
    pub fn used_every(&self) -> Duration {
        (self.grace.get() / 8).min(USED_EVERY_MAX)
    }

    /// A push that is sent again counts as new by the time of its record: that is renewed when it is older than this.
    pub fn renewed_every(&self) -> Duration {
        self.snapshot_age()
    }

    /// What was used since then, before something was chosen to make room, may have been used by somebody who did not know of
    /// the choice: it is not chosen, and stays when it was.
    pub fn in_use(&self) -> Duration {
        self.snapshot_age() + self.renewed_every() + GRAIN
    }

    /// Time between two looks at what is condemned.
    pub fn poll(&self) -> Duration {
        (self.snapshot_age() / POLLS).min(POLL_MAX)
    }
}

/// Which tags of a repository stay. Of the rules of a repository, the first whose pattern matches a tag counts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetainConfig {
    /// `*` stands for any characters.
    pub tags: Pattern,
    /// Stays whatever happens.
    #[serde(default)]
    pub protected: bool,
    /// Goes when it was not used for so long.
    pub unused: Option<Span>,
    /// Goes when it was pushed so long ago.
    pub pushed: Option<Span>,
    /// Of the tags that match, so many that were pushed last stay.
    pub newest: Option<usize>,
}
