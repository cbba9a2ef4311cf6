//! What a caller may do, and the proof that somebody checked it.

use std::marker::PhantomData;

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

/// A right on a repository, as a type: what a permit of it opens, the compiler knows.
pub trait Right: Clone + Send + Sync + 'static {
    /// The verb that a caller needs for it.
    const VERB: Verb;
}

/// The right to read.
#[derive(Clone, Copy, Debug)]
pub struct Pull;
/// The right to write, which includes to look at what is there.
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

/// The proof that `auth` admitted a caller to a repository with the right `R`. The house hands out what reads, writes or
/// deletes against nothing else.
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
    /// `parents` are read where `tenant` has nothing, the nearest first.
    pub fn issue(tenant: Tenant, parents: Vec<Tenant>, repo: RepoName) -> Permit<R> {
        Permit { tenant, parents, repo, right: PhantomData }
    }

    /// The tenant that is read first, and the only one that is written to.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// The tenants that are read where the first one has nothing.
    pub fn parents(&self) -> &[Tenant] {
        &self.parents
    }

    /// The repository that the permit is for.
    pub fn repo(&self) -> &RepoName {
        &self.repo
    }

    /// The right to read that each right includes.
    pub fn to_pull(self) -> Permit<Pull> {
        let Permit { tenant, parents, repo, .. } = self;
        Permit { tenant, parents, repo, right: PhantomData }
    }

    /// What the nearest parent may read by itself; nothing where there is none.
    pub fn of_parent(&self) -> Option<Permit<Pull>> {
        let (tenant, parents) = self.parents.split_first()?;
        let (tenant, parents, repo) = (tenant.clone(), parents.to_vec(), self.repo.clone());
        Some(Permit { tenant, parents, repo, right: PhantomData })
    }
}
