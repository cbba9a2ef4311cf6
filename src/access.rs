//! What a caller may do, and the proof that somebody checked it.

use serde::{Deserialize, Serialize};

use crate::names::{RepoName, Tag, Tenant};

/// The kind of right that a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    Pull,
    Push,
    Delete,
    /// The whole installation: the catalog, collection, checks.
    Admin,
}

impl Verb {
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Pull => "pull",
            Verb::Push => "push",
            Verb::Delete => "delete",
            Verb::Admin => "admin",
        }
    }
}

/// Which tags of the repository a request reads or changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// None by name: content by digest, uploads.
    None,
    /// Each of these.
    Named(Vec<Tag>),
    /// Perhaps all: deleting content by digest.
    All,
}

/// A right that a request needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub repo: RepoName,
    pub verb: Verb,
    pub tags: Tags,
}

impl Access {
    /// A right on a repository, whatever its tags.
    pub fn to(repo: RepoName, verb: Verb) -> Access {
        Access { repo, verb, tags: Tags::None }
    }
}

/// The proof that `auth` admitted a caller to a repository. The store hands out a repository against nothing else.
///
/// Invariant: only `auth` calls [`Permit::issue`]; `tests/it/shape.rs` fails on any other caller.
#[derive(Clone, Debug)]
pub struct Permit {
    tenant: Tenant,
    parents: Vec<Tenant>,
    access: Access,
}

impl Permit {
    /// `parents` are read where `tenant` has nothing, the nearest first.
    pub fn issue(tenant: Tenant, parents: Vec<Tenant>, access: Access) -> Permit {
        Permit { tenant, parents, access }
    }

    /// Where everything is written, and looked for first.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    pub fn parents(&self) -> &[Tenant] {
        &self.parents
    }

    /// What the nearest parent may read by itself; nothing where there is none.
    pub fn of_parent(&self) -> Option<Permit> {
        let (tenant, parents) = self.parents.split_first()?;
        Some(Permit { tenant: tenant.clone(), parents: parents.to_vec(), access: self.access.clone() })
    }

    pub fn repo(&self) -> &RepoName {
        &self.access.repo
    }

    pub fn verb(&self) -> Verb {
        self.access.verb
    }
}
