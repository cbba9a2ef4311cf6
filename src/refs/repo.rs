//! One repository, as a caller may use it.

use super::service::Refs;
use crate::access::{Delete, Permit, Pull, Push};
use crate::content::{Content, Eraser, Reader, Writer};
use crate::deadline::Deadline;
use crate::digest::Digest;
use crate::error::Result;
use crate::layout;
use crate::names::{RepoName, Tag, Tenant};
use crate::objects::Key;

/// Reads a repository, in the tenants of its chain.
#[derive(Clone)]
pub struct Repo {
    refs: Refs,
    reader: Reader,
}

/// Writes to a repository.
#[derive(Clone)]
pub struct RepoWriter {
    repo: Repo,
    writer: Writer,
}

/// Deletes from a repository.
#[derive(Clone)]
pub struct RepoEraser {
    repo: Repo,
    eraser: Eraser,
}

impl Refs {
    /// A handle that reads the permit's repository.
    pub fn repo(&self, permit: Permit<Pull>, deadline: Deadline) -> Repo {
        Repo { refs: self.clone(), reader: self.content().reader(permit, deadline) }
    }

    /// A handle that writes to the permit's repository.
    pub fn writer(&self, permit: Permit<Push>, deadline: Deadline) -> Result<RepoWriter> {
        let writer = self.content().writer(permit, deadline)?;
        Ok(RepoWriter { repo: Repo { refs: self.clone(), reader: writer.reader().clone() }, writer })
    }

    /// A handle that deletes from the permit's repository.
    pub fn eraser(&self, permit: Permit<Delete>, deadline: Deadline) -> Result<RepoEraser> {
        let eraser = self.content().eraser(permit, deadline)?;
        Ok(RepoEraser { repo: Repo { refs: self.clone(), reader: eraser.reader().clone() }, eraser })
    }
}

impl Repo {
    pub(super) fn of(refs: Refs, reader: Reader) -> Repo {
        Repo { refs, reader }
    }

    /// The references of the store.
    pub fn refs(&self) -> &Refs {
        &self.refs
    }

    /// The content of the store.
    pub fn content(&self) -> &Content {
        self.refs.content()
    }

    /// The blobs that the repository reads.
    pub fn blobs(&self) -> &Reader {
        &self.reader
    }

    /// The tenant that is read first.
    pub fn tenant(&self) -> &Tenant {
        self.reader.tenant()
    }

    /// The name of the repository.
    pub fn name(&self) -> &RepoName {
        self.reader.repo()
    }

    /// The moment until which the caller waits.
    pub fn deadline(&self) -> Deadline {
        self.reader.deadline()
    }

    /// The same repository for a caller who waits until `deadline`.
    #[must_use]
    pub fn until(&self, deadline: Deadline) -> Repo {
        Repo { refs: self.refs.clone(), reader: self.reader.until(deadline) }
    }

    /// The same repository for work that goes on when its request has given up: each call has the whole time.
    #[must_use]
    pub fn until_each_call(&self) -> Repo {
        self.until(Deadline::of_each_call())
    }

    /// Whether cache tags of the repository serve views.
    pub fn has_views(&self) -> bool {
        self.content().config().with_rule(self.name(), |rule| rule.is_none_or(|rule| rule.views))
    }

    /// Whether manifests may name content that is not here.
    pub fn is_sparse(&self) -> bool {
        self.content().config().with_rule(self.name(), |rule| rule.is_some_and(|rule| rule.sparse))
    }

    /// The key of a manifest of this tenant.
    pub fn manifest_key(&self, digest: &Digest) -> Key {
        layout::manifest(self.tenant(), self.name(), digest)
    }

    /// The key of the pointer of a tag.
    pub fn tag_key(&self, tag: &Tag) -> Key {
        layout::tag(self.tenant(), self.name(), tag)
    }
}

impl RepoWriter {
    /// The repository, to read.
    pub fn repo(&self) -> &Repo {
        &self.repo
    }

    /// The blobs that the repository writes.
    pub fn blobs(&self) -> &Writer {
        &self.writer
    }

    /// The same repository for a caller who waits until `deadline`.
    #[must_use]
    pub fn until(&self, deadline: Deadline) -> RepoWriter {
        RepoWriter { repo: self.repo.until(deadline), writer: self.writer.until(deadline) }
    }
}

impl RepoEraser {
    /// The repository, to read.
    pub fn repo(&self) -> &Repo {
        &self.repo
    }

    /// The blobs that the repository may delete.
    pub fn blobs(&self) -> &Eraser {
        &self.eraser
    }
}
