//! The second of the two verbs: to write an object and acknowledge it.

use bytes::Bytes;

use super::lookup::Pin;
use super::service::Content;
use crate::deadline::{Deadline, SHORT};
use crate::error::{Error, Result};
use crate::hot::Slot;
use crate::layout;
use crate::objects::{Key, Meta};

/// Proof that an object was written durably, and stays for a grace period.
#[derive(Clone, Debug)]
pub struct Written {
    meta: Meta,
}

impl Written {
    /// Metadata of the object as it was written.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }
}

impl Content {
    /// Runs `write`, which makes the object `key` appear, for an answer that acknowledges it. Spares the object first,
    /// and looks it up after a write that took so long that the object may have been deleted again.
    pub async fn write(
        &self,
        key: &Key,
        deadline: Deadline,
        write: impl Future<Output = Result<Meta>>,
    ) -> Result<Written> {
        let pin = self.pin(deadline).await?;
        pin.spare(key).await?;
        let meta = self.written(key, write).await?;
        if pin.is_young() {
            return Ok(Written { meta });
        }
        // The parts of a large object may have taken long: the lookup gets a new deadline.
        let looked = self.pinned(deadline.restarted(), |pin| async move {
            pin.spare(key).await?;
            self.fetch_meta(key, pin.deadline()).await
        });
        looked.await?.map(|_| Written { meta }).ok_or(Error::Busy)
    }

    /// Writes a small object that may change, or that no client is told of.
    pub async fn put(&self, key: &Key, body: impl Into<Bytes>, deadline: Deadline) -> Result<Meta> {
        change(self, key, self.calls(deadline).put(key, body)).await
    }

    /// Remembers the object that `write` made, and reports a backend that has no space left, so that some is freed.
    async fn written(&self, key: &Key, write: impl Future<Output = Result<Meta>>) -> Result<Meta> {
        let ticket = self.presence().ticket(key);
        let meta = self.room().noticing(key, change(self, key, write).await)?;
        self.presence().insert(ticket, &meta);
        Ok(meta)
    }
}

/// Runs `write`, which makes the object `key` appear, unless another server has upgraded the store's format: every
/// write passes here.
async fn change(content: &Content, key: &Key, write: impl Future<Output = Result<Meta>>) -> Result<Meta> {
    content.format().may_change()?;
    let meta = write.await?;
    if content.verdicts().quarantine().end(key) {
        tracing::info!(%key, "a corrupt object has been written again");
        // A note that stays says nothing of the new version.
        if let Err(error) = content.delete(&[layout::quarantine(key)], Deadline::within(SHORT)).await {
            tracing::warn!(%key, %error, "cannot remove the quarantine note of a healthy object");
        }
    }
    Ok(meta)
}

impl Pin {
    /// Writes a small object that never changes under its key, within the answer that rests on this pin.
    pub async fn write(&self, key: &Key, body: Bytes) -> Result<Written> {
        self.spare(key).await?;
        self.write_spared(key, body).await
    }

    /// As [`Pin::write`], unless the object is known to exist and is not condemned: a second export of the same build
    /// writes nothing.
    pub async fn write_new(&self, key: &Key, body: Bytes) -> Result<()> {
        if self.spare(key).await? || !self.content().is_known(key) {
            self.write_spared(key, body).await?;
        }
        Ok(())
    }

    async fn write_spared(&self, key: &Key, body: Bytes) -> Result<Written> {
        let content = self.content();
        let put = async { content.calls(self.deadline()).put(key, body).await };
        Ok(Written { meta: content.written(key, put).await? })
    }

    /// Keeps the bytes of a written object in memory for the next reader, unless they are kept already.
    pub fn keep(&self, key: Key, bytes: &[u8]) {
        let (hot, slot) = (self.content().hot(), Slot::Whole(key));
        if !hot.has(&slot) {
            hot.keep_pushed(slot, bytes);
        }
    }
}
