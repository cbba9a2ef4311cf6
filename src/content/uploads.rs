//! What this process knows of uploads under way: their places, and sessions that were cancelled or are being changed.

use moka::sync::Cache;
use std::sync::Arc;
use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};
use crate::names::{RepoName, Tenant, UploadId};
use crate::sync::{STRIPES, lru, stripe};

/// Uploads cancelled here that stay unknown.
const CANCELLED_MAX: u64 = 10_000;

/// An upload, by whose it is: whoever knows the id of another's can do nothing to it.
pub(super) type OwnUpload = (Tenant, RepoName, UploadId);

/// The uploads under way in this process.
pub struct Uploads {
    places: Arc<Semaphore>,
    cancelled: Cache<OwnUpload, ()>,
    sessions: [Mutex<()>; STRIPES],
}

impl Uploads {
    /// `places`: uploads that send at the same time.
    pub(super) fn new(places: usize) -> Uploads {
        Uploads {
            places: Arc::new(Semaphore::new(places)),
            cancelled: lru(CANCELLED_MAX),
            sessions: std::array::from_fn(|_| Mutex::new(())),
        }
    }

    /// A place among the uploads, when one is free.
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit> {
        self.places.clone().acquire_owned().await.map_err(|_| Error::Busy)
    }

    /// Whether the upload was cancelled at this server.
    pub(super) fn is_cancelled(&self, upload: &OwnUpload) -> bool {
        self.cancelled.contains_key(upload)
    }

    /// From now on the upload is unknown here.
    pub(super) fn cancel(&self, upload: OwnUpload) {
        self.cancelled.insert(upload, ());
    }

    /// The right to replace the state of a session, one caller at a time.
    pub(super) async fn alone(&self, id: &UploadId) -> MutexGuard<'_, ()> {
        self.sessions[stripe(id)].lock().await
    }
}
