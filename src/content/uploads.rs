//! Uploads in flight in this process: their slots, and sessions that were cancelled or are being changed.

use moka::sync::Cache;
use tokio::sync::{Mutex, MutexGuard};

use crate::names::{RepoName, Tenant, UploadId};
use crate::sync::{STRIPES, lru, stripe};
use crate::turns::{Class, Turn, Turns};

/// Maximum number of remembered cancelled uploads.
const CANCELLED_MAX: u64 = 10_000;

/// An upload with its owner: a caller that knows the id of another's upload can do nothing to it.
pub(super) type OwnUpload = (Tenant, RepoName, UploadId);

/// The uploads in flight in this process.
pub struct Uploads {
    places: Turns<Tenant>,
    cancelled: Cache<OwnUpload, ()>,
    sessions: [Mutex<()>; STRIPES],
}

impl Uploads {
    /// `places`: number of uploads that send at the same time. All scopes together have half of them.
    pub(super) fn new(places: usize) -> Uploads {
        let places = places.max(1) as u64;
        Uploads {
            places: Turns::new(places, (places / 2).max(1)),
            cancelled: lru(CANCELLED_MAX),
            sessions: std::array::from_fn(|_| Mutex::new(())),
        }
    }

    /// Waits for the tenant's turn, and takes an upload slot.
    pub(super) async fn place(&self, tenant: &Tenant) -> Turn<Tenant> {
        self.places.take(Class::of(tenant), tenant.clone(), 1).await
    }

    /// Whether the upload was cancelled at this server.
    pub(super) fn is_cancelled(&self, upload: &OwnUpload) -> bool {
        self.cancelled.contains_key(upload)
    }

    /// Cancels the upload: it is unknown here from now on.
    pub(super) fn cancel(&self, upload: OwnUpload) {
        self.cancelled.insert(upload, ());
    }

    /// Waits for the right to replace the state of a session: one caller at a time.
    pub(super) async fn alone(&self, id: &UploadId) -> MutexGuard<'_, ()> {
        self.sessions[stripe(id)].lock().await
    }
}
