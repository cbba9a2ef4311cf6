//! Parsing, with the memory that it needs.

use futures::FutureExt;

use super::service::Caches;
use crate::error::Result;
use crate::names::Tenant;
use crate::refs::Repo;
use crate::turns::{Class, Turn};

/// Upper bound on the memory for parsing a manifest, as a multiple of its size.
const MANIFEST_FACTOR: u64 = 8;
/// Size in bytes up to which a manifest is parsed on the calling thread. A larger one is parsed on a blocking thread.
const AT_ONCE_BYTES: usize = 64 << 10;

impl Caches {
    /// Takes `bytes` of memory for parsing, for a client of the repository.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`](crate::error::Error::Busy) when there is none within the request's deadline.
    pub(super) async fn memory(&self, repo: &Repo, bytes: u64) -> Result<Turn<Tenant>> {
        self.memory_as(Class::of(repo.tenant()), repo, bytes).await
    }

    /// As [`Caches::memory`], for a display of the repository: builds go first.
    pub(super) async fn memory_to_look(&self, repo: &Repo, bytes: u64) -> Result<Turn<Tenant>> {
        self.memory_as(Class::Second, repo, bytes).await
    }

    async fn memory_as(&self, class: Class, repo: &Repo, bytes: u64) -> Result<Turn<Tenant>> {
        repo.deadline().bound(self.parsing().take(class, repo.tenant(), bytes).map(Ok)).await
    }

    /// Runs `parse`, which reads a manifest of `bytes` bytes, with memory for it, and on a thread where it delays no
    /// other request.
    pub(super) async fn parse_manifest<T: Send + 'static>(
        &self,
        repo: &Repo,
        bytes: usize,
        parse: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let _memory = self.memory(repo, bytes as u64 * MANIFEST_FACTOR).await?;
        match bytes {
            0..=AT_ONCE_BYTES => Ok(parse()),
            _ => Ok(tokio::task::spawn_blocking(parse).await?),
        }
    }
}
