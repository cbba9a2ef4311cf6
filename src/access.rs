//! Rights of callers, and the proof that one was checked.

use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

use crate::names::{RepoName, Tag, Tenant};

/// Kind of right that a request needs.
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

/// Tags of the repository that a request reads or changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// No tag: content by digest, uploads.
    None,
    /// These tags.
    Named(Vec<Tag>),
    /// Possibly all tags: deleting content by digest.
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

/// A right on a repository, as a type: the compiler knows what a permit of it allows.
pub trait Right: Clone + Send + Sync + 'static {
    /// The verb that a caller needs for this right.
    const VERB: Verb;
}

/// The right to read.
#[derive(Clone, Copy, Debug)]
pub struct Pull;
/// The right to write, which includes the right to read.
#[derive(Clone, Copy, Debug)]
pub struct Push;
/// The right to delete.
#[derive(Clone, Copy, Debug)]
pub struct Delete;

impl Right for Pull {
    const VERB: Verb = Verb::Pull;
}

impl Right for Push {
    const VERB: Verb = Verb::Push;
}

impl Right for Delete {
    const VERB: Verb = Verb::Delete;
}

/// The proof that `auth` admitted a caller to a repository with the right `R`. Handles that read, write or delete are
/// made of permits only.
///
/// Invariant: only `auth` calls [`Permit::issue`]; `tests/it/shape.rs` fails on any other caller.
/// Invariant: a permit of one right yields none of another but [`Pull`], and of a parent nothing but [`Pull`].
#[derive(Clone, Debug)]
pub struct Permit<R> {
    tenant: Tenant,
    parents: Vec<Tenant>,
    repo: RepoName,
    right: PhantomData<R>,
}

impl<R> Permit<R> {
    /// Issues a permit. `parents` are read for content that `tenant` does not have, the nearest first.
    pub fn issue(tenant: Tenant, parents: Vec<Tenant>, repo: RepoName) -> Permit<R> {
        Permit { tenant, parents, repo, right: PhantomData }
    }

    /// The tenant that is read first, and to which all writes go.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// The tenants that are read for content that the first one does not have.
    pub fn parents(&self) -> &[Tenant] {
        &self.parents
    }

    /// The repository of the permit.
    pub fn repo(&self) -> &RepoName {
        &self.repo
    }

    /// The right to read that each right includes.
    pub fn to_pull(self) -> Permit<Pull> {
        let Permit { tenant, parents, repo, .. } = self;
        Permit { tenant, parents, repo, right: PhantomData }
    }

    /// The permit to read as the nearest parent; nothing if there is none.
    pub fn of_parent(&self) -> Option<Permit<Pull>> {
        let (tenant, parents) = self.parents.split_first()?;
        let (tenant, parents, repo) = (tenant.clone(), parents.to_vec(), self.repo.clone());
        Some(Permit { tenant, parents, repo, right: PhantomData })
    }
}
