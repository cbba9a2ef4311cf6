//! Rights of a caller to content: separate handles for reading, writing and deleting.

use std::sync::Arc;

use super::service::Content;
use crate::access::{Delete, Permit, Pull, Push};
use crate::deadline::Deadline;
use crate::digest::Digest;
use crate::error::Result;
use crate::layout;
use crate::metrics::tenant::TenantMetrics;
use crate::names::{RepoName, Tenant};
use crate::objects::Key;

/// Reads content in the tenants of a chain: the permit's own tenant, then its parents, the nearest first.
#[derive(Clone)]
pub struct Reader {
    content: Content,
    permit: Permit<Pull>,
    counted: Arc<TenantMetrics>,
    deadline: Deadline,
}

/// Writes content to the permit's tenant, and reads in its chain.
#[derive(Clone)]
pub struct Writer {
    reader: Reader,
}

/// Deletes content of the permit's tenant, and reads in its chain.
#[derive(Clone)]
pub struct Eraser {
    reader: Reader,
}

impl Content {
    /// Returns a handle that reads.
    pub fn reader(&self, permit: Permit<Pull>, deadline: Deadline) -> Reader {
        let counted = self.metrics().tenants.of(permit.tenant());
        Reader { content: self.clone(), permit, counted, deadline }
    }

    /// Returns a handle that writes.
    ///
    /// # Errors
    ///
    /// [`Error::LeftBehind`](crate::error::Error::LeftBehind) when another server has upgraded the store's format.
    pub fn writer(&self, permit: Permit<Push>, deadline: Deadline) -> Result<Writer> {
        self.format().may_change()?;
        Ok(Writer { reader: self.reader(permit.to_pull(), deadline) })
    }

    /// Returns a handle that deletes.
    ///
    /// # Errors
    ///
    /// As those of [`Content::writer`].
    pub fn eraser(&self, permit: Permit<Delete>, deadline: Deadline) -> Result<Eraser> {
        self.format().may_change()?;
        Ok(Eraser { reader: self.reader(permit.to_pull(), deadline) })
    }
}

impl Reader {
    /// The content that the handle reads.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The tenant that is read first.
    pub fn tenant(&self) -> &Tenant {
        self.permit.tenant()
    }

    /// The repository that the permit is for.
    pub fn repo(&self) -> &RepoName {
        self.permit.repo()
    }

    /// The caller's deadline.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// The same handle with another deadline.
    #[must_use]
    pub fn until(&self, deadline: Deadline) -> Reader {
        Reader { deadline, ..self.clone() }
    }

    /// The counters of the tenant.
    pub fn counted(&self) -> &Arc<TenantMetrics> {
        &self.counted
    }

    /// Whether the tenant is a scope, which reads its parents' content as well.
    pub fn is_scope(&self) -> bool {
        !self.permit.parents().is_empty()
    }

    /// The tenants whose content is read, in this order.
    pub fn chain(&self) -> impl Iterator<Item = &Tenant> {
        std::iter::once(self.tenant()).chain(self.permit.parents())
    }

    /// The handle of the nearest parent.
    pub fn parent(&self) -> Option<Reader> {
        Some(self.content.reader(self.permit.of_parent()?, self.deadline))
    }

    /// The key of a blob of the tenant.
    pub(super) fn blob_key(&self, digest: &Digest) -> Key {
        layout::blob(self.tenant(), digest)
    }

    /// The keys under which a blob may be, in the order of the chain.
    pub fn blob_keys(&self, digest: &Digest) -> impl Iterator<Item = Key> {
        self.chain().map(|tenant| layout::blob(tenant, digest))
    }
}

impl Writer {
    /// The handle for reading that each right to write includes.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The same handle with another deadline.
    #[must_use]
    pub fn until(&self, deadline: Deadline) -> Writer {
        Writer { reader: self.reader.until(deadline) }
    }
}

impl Eraser {
    /// The handle for reading that each right to delete includes.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The key of a blob of the tenant.
    pub fn blob_key(&self, digest: &Digest) -> Key {
        self.reader.blob_key(digest)
    }
}
