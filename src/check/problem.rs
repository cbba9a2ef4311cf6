//! What can be wrong with an object.

use std::fmt;

use crate::names::Tenant;
use crate::objects::{Key, Version};

/// An object with which something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub key: Key,
    pub problem: Problem,
    /// The version of the object that was found so, where that matters.
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
    #[error("is in quarantine since its bytes were found wrong: it counts as missing until it is pushed again")]
    Quarantined,
    #[error("cannot be read: {0}")]
    Unreadable(String),
    #[error("names {0}, which is not there")]
    Missing(Key),
    #[error("says of its manifest that it is {said}, but it is {is}")]
    TagDiffers { said: String, is: String },
    #[error("has a subject, but no entry {0} among its referrers")]
    ReferrerMissing(Key),
    #[error("is the entry of a manifest that does not have this subject")]
    ReferrerDiffers,
    #[error("is not there: is this a store of larder?")]
    NoFormat,
    #[error("names {0} layers that are not there: views leave them out")]
    LayersGone(usize),
    #[error("is a hint that names {0}, which is not there: it is made anew when the tag is asked for")]
    StaleHint(Key),
    #[error("is a hint that cannot be read: it is made anew when the tag is asked for")]
    UnreadableHint,
    #[error("is a push of a tag that is not there: what a crash or a delete left")]
    Orphan,
    #[error("is a part of an upload that does not count it: what a crash left")]
    Leftover,
    #[error("was begun and neither finished nor removed: what a crash left")]
    HalfWritten,
    #[error("is a note of an object that has been written anew, or is gone")]
    StaleQuarantine,
    #[error("is of a repository that is not tenant {0}'s by the configuration: nobody can read it")]
    Unreachable(Tenant),
    #[error("is of a repository whose name is reserved: it is not served, and can be moved to another name")]
    Reserved,
}

impl Problem {
    /// A name for programs. They do not change.
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

    /// Only worth knowing: nothing is lost, and nobody is served anything wrong.
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
            // As a crash leaves a push that was not acknowledged.
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

    /// A look at the object alone finds it, or not any more.
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
