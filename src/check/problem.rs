//! Problems that an object can have.

use std::fmt;

use crate::names::Tenant;
use crate::objects::{Key, Version};

/// A problem with one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub key: Key,
    pub problem: Problem,
    /// The version of the object with the problem, if it matters.
    pub(super) version: Option<Version>,
}

impl Finding {
    pub(super) fn new(key: &Key, problem: Problem) -> Finding {
        Finding { key: key.clone(), problem, version: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("is not a key of this store")]
    UnknownKey,
    #[error("does not fit its digest")]
    WrongBytes,
    #[error("is in quarantine because its bytes are wrong: it counts as missing until it is pushed again")]
    Quarantined,
    #[error("cannot be read: {0}")]
    Unreadable(String),
    #[error("references {0}, which is missing")]
    Missing(Key),
    #[error("describes its manifest as {said}, but that is {is}")]
    TagDiffers { said: String, is: String },
    #[error("has a subject without the entry {0} among its referrers")]
    ReferrerMissing(Key),
    #[error("is the referrer entry of a manifest with another subject")]
    ReferrerDiffers,
    #[error("is not there: is this a store of larder?")]
    NoFormat,
    #[error("references {0} missing layers: views leave them out")]
    LayersGone(usize),
    #[error("is a stored view that references {0}, which is missing: the next request makes it again")]
    StaleHint(Key),
    #[error("is a stored view that cannot be read: the next request makes it again")]
    UnreadableHint,
    #[error("is a push of a missing tag, left by a crash or a delete")]
    Orphan,
    #[error("is a part that its upload does not list, left by a crash")]
    Leftover,
    #[error("is unfinished, left by a crash")]
    HalfWritten,
    #[error("is a quarantine note of an object that was written again or deleted")]
    StaleQuarantine,
    #[error("belongs to a repository that the configuration assigns to a tenant other than {0}: nobody can read it")]
    Unreachable(Tenant),
    #[error("belongs to a repository with a reserved name: it is not served, and can be moved to another name")]
    Reserved,
}

impl Problem {
    /// Stable name for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Problem::UnknownKey => "unknown_key",
            Problem::WrongBytes => "wrong_bytes",
            Problem::Quarantined => "quarantined",
            Problem::Unreadable(_) => "unreadable",
            Problem::Missing(_) => "missing",
            Problem::TagDiffers { .. } => "tag_differs",
            Problem::ReferrerMissing(_) => "referrer_missing",
            Problem::ReferrerDiffers => "referrer_differs",
            Problem::NoFormat => "no_format",
            Problem::LayersGone(_) => "layers_gone",
            Problem::StaleHint(_) => "stale_hint",
            Problem::UnreadableHint => "unreadable_hint",
            Problem::Orphan => "orphan",
            Problem::Leftover => "leftover",
            Problem::HalfWritten => "half_written",
            Problem::StaleQuarantine => "stale_quarantine",
            Problem::Unreachable(_) => "unreachable",
            Problem::Reserved => "reserved",
        }
    }

    /// Whether the problem is only informative: nothing is lost, and no client is served anything wrong.
    pub fn is_harmless(&self) -> bool {
        match self {
            Problem::UnknownKey
            | Problem::WrongBytes
            | Problem::Quarantined
            | Problem::Unreadable(_)
            | Problem::Missing(_)
            | Problem::TagDiffers { .. }
            | Problem::ReferrerDiffers
            | Problem::NoFormat => false,
            // States in which a crash leaves a push that was not acknowledged.
            Problem::ReferrerMissing(_)
            | Problem::LayersGone(_)
            | Problem::StaleHint(_)
            | Problem::UnreadableHint
            | Problem::Orphan
            | Problem::Leftover
            | Problem::HalfWritten
            | Problem::StaleQuarantine
            | Problem::Unreachable(_)
            | Problem::Reserved => true,
        }
    }

    /// Whether a check of the object alone can confirm the problem.
    pub(super) fn is_of_one_object(&self) -> bool {
        !matches!(
            self,
            Problem::NoFormat
                | Problem::Orphan
                | Problem::Leftover
                | Problem::HalfWritten
                | Problem::Unreachable(_)
                | Problem::Reserved
                | Problem::Quarantined
        )
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.problem)
    }
}
