//! The blobs of a tenant, with their listed sizes: sizes in manifests are only claims of the clients that pushed them.

use crate::content::condemned::fingerprint;
use crate::digest::Digest;
use crate::objects::Meta;

/// The blobs of a tenant, 64 bytes each; only for tenants with a limit.
#[derive(Default)]
pub(super) struct BlobInventory {
    /// Sorted by id, after [`BlobInventory::sort`].
    blobs: Vec<MarkedBlob>,
    /// Bytes of all other objects, as the account counts them: unfinished uploads, and the objects of repositories.
    pub others: u64,
}

/// One blob of a tenant.
pub(super) struct MarkedBlob {
    /// The fingerprint of its key.
    pub id: u64,
    pub bytes: u64,
    name: Name,
    /// Old enough to be condemned if unreferenced.
    pub is_old: bool,
    /// Referenced by a root that stays.
    pub is_named: bool,
    /// Excluded from eviction.
    pub is_fixed: bool,
}

/// A digest. Most are SHA-256, which is stored inline.
enum Name {
    Sha256([u8; 32]),
    Long(Box<Digest>),
}

impl MarkedBlob {
    pub fn digest(&self) -> Digest {
        match &self.name {
            Name::Sha256(hash) => Digest::Sha256(*hash),
            Name::Long(digest) => **digest,
        }
    }
}

impl BlobInventory {
    pub fn add(&mut self, meta: &Meta, digest: Digest, is_old: bool) {
        let name = match digest {
            Digest::Sha256(hash) => Name::Sha256(hash),
            long => Name::Long(Box::new(long)),
        };
        let id = fingerprint(meta.key.as_str());
        self.blobs.push(MarkedBlob { id, bytes: meta.size, name, is_old, is_named: false, is_fixed: false });
    }

    /// Sorts by id. Called after the last `add`.
    pub fn sort(&mut self) {
        self.blobs.sort_unstable_by_key(|blob| blob.id);
    }

    pub fn get(&self, id: u64) -> Option<&MarkedBlob> {
        self.blobs.binary_search_by_key(&id, |blob| blob.id).ok().and_then(|at| self.blobs.get(at))
    }

    pub fn get_mut(&mut self, id: u64) -> Option<&mut MarkedBlob> {
        self.blobs.binary_search_by_key(&id, |blob| blob.id).ok().and_then(|at| self.blobs.get_mut(at))
    }

    pub fn iter(&self) -> impl Iterator<Item = &MarkedBlob> {
        self.blobs.iter()
    }
}
