//! Parsing, with memory for it.

use futures::FutureExt;

use super::service::Caches;
use crate::error::Result;
use crate::names::Tenant;
use crate::refs::Repo;
use crate::turns::{Class, Turn};

/// What a manifest takes at most while it is parsed, in bytes for each of its own.
const MANIFEST_FACTOR: u64 = 8;
/// A manifest up to this is parsed at once, a larger one by a thread that may block. Bytes.
const AT_ONCE_BYTES: usize = 64 << 10;

impl Caches {
    /// So many bytes of memory to parse something, for a client of the repository.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`](crate::error::Error::Busy) when there was none within the deadline of the request.
    pub(super) async fn memory(&self, repo: &Repo, bytes: u64) -> Result<Turn<Tenant>> {
        self.memory_as(Class::of(repo.tenant()), repo, bytes).await
    }

    /// As [`Caches::memory`], for somebody who looks at the repository: whoever builds goes first.
    pub(super) async fn memory_to_look(&self, repo: &Repo, bytes: u64) -> Result<Turn<Tenant>> {
        self.memory_as(Class::Second, repo, bytes).await
    }

    async fn memory_as(&self, class: Class, repo: &Repo, bytes: u64) -> Result<Turn<Tenant>> {
        repo.deadline().bound(self.parsing().take(class, repo.tenant(), bytes).map(Ok)).await
    }

    /// Runs `parse`, which reads a manifest of so many bytes, with memory for it, and where it keeps no other request from
    /// being answered.
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
