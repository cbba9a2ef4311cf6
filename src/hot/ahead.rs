//! Read-ahead: while a reader is at one chunk, the next ones are fetched.
//!
//! The one chunk that a reader is at is fetched in any case; all others are paid from one budget for all readers. A
//! share of the budget is held until the reader has reached the chunk: otherwise chunks of many readers would evict
//! each other before they are read. A reader that has stopped loses its shares after a while; its chunks are then kept
//! or not like any others.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::Either;
use futures::stream::{self, BoxStream};
use tokio::task::JoinError;

use super::flights::Owned;
use super::{Hot, HotPiece, Slot};
use crate::objects::{Key, Version};

/// Chunks of one reader that are in flight or not read yet, the current one included.
const WINDOW: usize = 8;
/// Time for which a share is held for a reader that does not come.
const HELD_MAX: Duration = Duration::from_secs(10);

struct AheadReader<E, G> {
    hot: Arc<Hot<E>>,
    key: Key,
    version: Version,
    at: u64,
    end: u64,
    /// The chunks from `at` on that have been requested, each with the task that fetches it, if this reader started
    /// one.
    ahead: VecDeque<Option<Owned<()>>>,
    fetch: G,
}

impl<E: Clone + Send + Sync + From<JoinError> + 'static> Hot<E> {
    /// Returns the chunks `range` of one version of an object, in order, each with whether it was in memory. Others are
    /// fetched by `fetch`, given their index.
    pub fn chunks<F>(
        self: &Arc<Self>,
        key: Key,
        version: Version,
        range: Range<u64>,
        fetch: impl Fn(u64) -> F + Clone + Send + Sync + 'static,
    ) -> BoxStream<'static, Result<(HotPiece, bool), E>>
    where
        F: Future<Output = Result<HotPiece, E>> + Send + 'static,
    {
        let (hot, ahead) = (self.clone(), VecDeque::new());
        let reader = AheadReader { hot, key, version, at: range.start, end: range.end, ahead, fetch };
        let chunks = stream::unfold(Some(reader), |reader| async {
            let mut reader = reader.filter(|reader| reader.at < reader.end)?;
            let next = reader.next().await;
            // Nothing follows an error.
            let rest = next.is_ok().then_some(reader);
            Some((next, rest))
        });
        chunks.boxed()
    }
}

impl<E, G, F> AheadReader<E, G>
where
    E: Clone + Send + Sync + From<JoinError> + 'static,
    G: Fn(u64) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<HotPiece, E>> + Send + 'static,
{
    fn slot(&self, index: u64) -> Slot {
        Slot::Chunk(self.key.clone(), self.version.clone(), index)
    }

    async fn next(&mut self) -> Result<(HotPiece, bool), E> {
        let (index, fetch) = (self.at, self.fetch.clone());
        let first = self.hot.join(&self.slot(index), move || fetch(index));
        // A chunk that this reader had fetched ahead was not in memory before either.
        let was_here = matches!(first, Either::Left(_)) && !matches!(self.ahead.front(), Some(Some(_)));
        if self.ahead.is_empty() {
            self.ahead.push_back(None);
        }
        self.look_ahead();
        let piece = first.await?;
        self.ahead.pop_front();
        self.at += 1;
        Ok((piece, was_here))
    }

    fn look_ahead(&mut self) {
        while self.ahead.len() < WINDOW {
            let index = self.at + self.ahead.len() as u64;
            if index >= self.end {
                return;
            }
            let slot = self.slot(index);
            if self.hot.has(&slot) || self.hot.is_coming(&slot) {
                self.ahead.push_back(None);
                continue;
            }
            let Some(place) = self.hot.place_ahead() else { return };
            let (fetch, hot) = (self.fetch.clone(), self.hot.clone());
            self.ahead.push_back(Some(Owned::spawn(async move {
                // The reader that reaches the chunk finds the error by itself.
                let _ = hot.join(&slot, move || fetch(index)).await;
                drop(hot);
                tokio::time::sleep(HELD_MAX).await;
                drop(place);
            })));
        }
    }
}
