//! What a tenant holds: its blobs as they are listed. What manifests say of sizes is the word of whoever pushed them.

use crate::content::condemned::fingerprint;
use crate::digest::Digest;
use crate::objects::Meta;

/// The blobs of a tenant. 64 bytes each, and only where the tenant has a limit.
#[derive(Default)]
pub(super) struct BlobInventory {
    /// By id, once they are sorted.
    blobs: Vec<MarkedBlob>,
    /// Bytes of all that is no blob, as the account counts them: uploads under way, and what repositories have.
    pub others: u64,
}

/// One of them.
pub(super) struct MarkedBlob {
    /// The fingerprint of its key.
    pub id: u64,
    pub bytes: u64,
    name: Name,
    /// Old enough to go when nothing names it.
    pub is_old: bool,
    /// Something names it that no rule lets go.
    pub is_named: bool,
    /// It is not for a policy to choose.
    pub is_fixed: bool,
}

/// A digest, most of which are short.
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

    /// To be called when all are listed.
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
