//! What a caller may do, and the proof that somebody checked it.

use crate::names::{RepoName, Tenant};

/// The kind of right that a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    Pull,
    Push,
    Delete,
    /// The whole installation: the catalog, collection, checks.
    Admin,
}

/// A right that a request needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub repo: RepoName,
    pub verb: Verb,
}

/// The proof that `auth` admitted a caller to a repository. The store hands out a repository against nothing else.
///
/// Invariant: only `auth` calls [`Permit::issue`]; `tests/it/shape.rs` fails on any other caller.
#[derive(Clone, Debug)]
pub struct Permit {
    tenant: Tenant,
    access: Access,
}

impl Permit {
    pub fn issue(tenant: Tenant, access: Access) -> Permit {
        Permit { tenant, access }
    }

    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    pub fn repo(&self) -> &RepoName {
        &self.access.repo
    }

    pub fn verb(&self) -> Verb {
        self.access.verb
    }
}
