//! What this process knows of uploads under way: their places, and sessions that were cancelled or are being changed.

use moka::sync::Cache;
use tokio::sync::{Mutex, MutexGuard};

use crate::names::{RepoName, Tenant, UploadId};
use crate::sync::{STRIPES, lru, stripe};
use crate::turns::{Class, Turn, Turns};

/// Uploads cancelled here that stay unknown.
const CANCELLED_MAX: u64 = 10_000;

/// An upload, by whose it is: whoever knows the id of another's can do nothing to it.
pub(super) type OwnUpload = (Tenant, RepoName, UploadId);

/// The uploads under way in this process.
pub struct Uploads {
    places: Turns<Tenant>,
    cancelled: Cache<OwnUpload, ()>,
    sessions: [Mutex<()>; STRIPES],
}

impl Uploads {
    /// `places`: uploads that send at the same time. Scopes have half of them, all together.
    pub(super) fn new(places: usize) -> Uploads {
        let places = places.max(1) as u64;
        Uploads {
            places: Turns::new(places, (places / 2).max(1)),
            cancelled: lru(CANCELLED_MAX),
            sessions: std::array::from_fn(|_| Mutex::new(())),
        }
    }

    /// A place among the uploads, when it is the tenant's turn.
    pub(super) async fn place(&self, tenant: &Tenant) -> Turn<Tenant> {
        self.places.take(Class::of(tenant), tenant.clone(), 1).await
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
