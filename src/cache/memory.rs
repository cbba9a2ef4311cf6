//! Memory for what is parsed. A config of some megabytes takes many times as much once it is parsed, and whoever may push
//! may have one parsed: so all that parses takes its memory out of one budget, by turns, and waits for it holding nothing.
//!
//! Invariant: nobody waits for this memory while holding some of it, or a place that another needs to give some back.

use futures::FutureExt;

use super::service::Caches;
use crate::error::Result;
use crate::names::Tenant;
use crate::refs::Repo;
use crate::turns::{Class, Turn, Turns};

/// All that is parsed at once, in bytes: two views and some pushes, or the largest config alone. Scopes and onlookers have
/// half of it.
const PARSED_BYTES: u64 = 128 << 20;
/// What one view takes: the pushes that it is made of. Of pushes that come to more, the newest are united. Bytes.
pub(super) const VIEW_BYTES: u64 = 48 << 20;
/// What a manifest takes at most while it is parsed, in bytes for each of its own.
const MANIFEST_FACTOR: u64 = 8;
/// A manifest up to this is parsed at once, a larger one by a thread that may block. Bytes.
const AT_ONCE_BYTES: usize = 64 << 10;

/// The budget of one server.
pub(super) struct ParseMemory {
    turns: Turns<Tenant>,
}

impl Default for ParseMemory {
    fn default() -> Self {
        ParseMemory { turns: Turns::new(PARSED_BYTES, PARSED_BYTES / 2) }
    }
}

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
        let taking = self.parsing().turns.take(class, repo.tenant().clone(), bytes);
        repo.deadline().bound(taking.map(Ok)).await
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
