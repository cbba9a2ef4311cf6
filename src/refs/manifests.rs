//! Manifests: their references, and putting, getting and deleting them.
//!
//! A manifest is stored and served exactly as pushed; it is parsed only for its references. Its media type is not
//! stored beside it: the manifest states it or, if not, its shape determines it, and a push whose `Content-Type`
//! contradicts is refused.

use std::collections::HashSet;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::deletions::DeletionMark;
use super::referrers::Referrer;
use super::repo::{Repo, RepoWriter};
use crate::calls::{FAN_OUT, json};
use crate::capacity::Reservation;
use crate::capacity::usage::OBJECT_FLOOR;
use crate::content::Pin;
use crate::content::condemned::fingerprint;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::objects::Key;
use crate::oci::{ManifestContent, media_type_of};

/// Maximum number of small objects that a push to a tag makes.
const OBJECTS_OF_TAG: u64 = 3;

/// A stored manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub digest: Digest,
    pub media_type: String,
    pub bytes: Bytes,
}

/// Proof that all references of a manifest existed when they were looked up.
pub struct Required {
    since: DeletionMark,
    /// Fingerprints of the keys under which they may be.
    keys: HashSet<u64>,
}

impl RepoWriter {
    /// Reserves space for a manifest of `size` bytes and the objects that come with it: its entry among the referrers
    /// of its subject, and for each of `tags` tags a pointer, the note of its use and, for a cache, a push record.
    pub async fn reserve_manifest(
        &self,
        digest: &Digest,
        parsed: &ManifestContent,
        size: u64,
        tags: usize,
    ) -> Result<Reservation> {
        let referrer = match &parsed.subject {
            Some(_) => (json(&Referrer::of(digest, size, parsed))?.len() as u64).max(OBJECT_FLOOR),
            None => 0,
        };
        let bytes = size.max(OBJECT_FLOOR) + referrer + tags as u64 * OBJECTS_OF_TAG * OBJECT_FLOOR;
        self.repo().content().room().wait_for_records(self.repo().tenant(), bytes).await
    }

    /// Refuses a manifest with missing references. Called before the lock of references is taken: a manifest may have
    /// tens of thousands of references.
    ///
    /// # Why no reference is deleted in between
    ///
    /// *A caller of this server deletes the object* by its digest. The delete holds the lock exclusively, and is noted
    /// before. Either the delete has the lock first: then [`RepoWriter::store_manifest`] finds it noted since the mark,
    /// which was taken before the lookup, and looks again. Or the manifest is written first: then the delete finds it,
    /// and deletes nothing that it references.
    ///
    /// *A collector deletes the object*, or a caller of another server, who in a bucket only condemns it. That takes no
    /// lock, here or there, and need not: the lookups and the manifest use one pin, and the argument at the head of
    /// [`crate::lifetime::collect`] has its times from that alone. An object in the pin's snapshot was spared; one that
    /// was not in it stays for W after a list that came later, and the manifest is in the store X after the snapshot at
    /// the latest: with a pin that has become too old, neither the pointer is written nor the answer given.
    pub async fn require(&self, pin: &Pin, parsed: &ManifestContent) -> Result<Required> {
        let since = self.repo().refs().deletions().mark();
        let mut keys = HashSet::new();
        // Many layers are referenced several times: the empty one, for example.
        let mut seen = HashSet::new();
        let needed = self.named(parsed).filter(|(_, of)| seen.insert(of.first().cloned())).inspect(|(_, of)| {
            keys.extend(of.iter().map(|key| fingerprint(key.as_str())));
        });
        let needed: Vec<(Digest, Vec<Key>)> = needed.collect();
        look_for_all(pin, needed).await?;
        Ok(Required { since, keys })
    }

    /// Stores a manifest for an answer that uses `pin`, as the lookups of `required` did: the bytes, then its entry
    /// among the referrers of its subject. The caller holds [`Refs::writing`](super::Refs::writing) until tags point to
    /// it.
    pub async fn store_manifest(
        &self,
        pin: &Pin,
        required: &Required,
        digest: &Digest,
        parsed: &ManifestContent,
        bytes: &Bytes,
    ) -> Result<()> {
        let repo = self.repo();
        self.look_again(pin, required, parsed).await?;
        let key = repo.manifest_key(digest);
        pin.write_new(&key, bytes.clone()).await?;
        if let Some(subject) = &parsed.subject {
            self.put_referrer(pin, subject, digest, bytes.len() as u64, parsed).await?;
        }
        pin.keep(key, bytes);
        Ok(())
    }

    /// Looks up again the references that were deleted since the first lookup.
    async fn look_again(&self, pin: &Pin, required: &Required, parsed: &ManifestContent) -> Result<()> {
        let deleted = self.repo().refs().deletions().since(required.since).ok_or(Error::Busy)?;
        let deleted: HashSet<u64> = deleted.into_iter().filter(|key| required.keys.contains(key)).collect();
        if deleted.is_empty() {
            return Ok(());
        }
        let is_deleted = |key: &Key| deleted.contains(&fingerprint(key.as_str()));
        look_for_all(pin, self.named(parsed).filter(|(_, keys)| keys.iter().any(is_deleted)).collect()).await
    }

    /// The references of a manifest that must exist, each with the keys under which it may be.
    fn named(&self, parsed: &ManifestContent) -> impl Iterator<Item = (Digest, Vec<Key>)> {
        let repo = self.repo();
        // A cache with missing references fails the builds that import it: no policy allows that.
        let may_be_absent = repo.is_sparse() && !parsed.cache;
        let children = parsed.children.iter().map(|digest| (*digest, repo.manifest_keys(digest).collect()));
        let blobs = parsed.blobs.iter().map(|digest| (*digest, repo.blobs().blob_keys(digest).collect()));
        blobs.chain(children).filter(move |_| !may_be_absent)
    }
}

/// Fails unless each digest exists under one of its keys.
async fn look_for_all(pin: &Pin, needed: Vec<(Digest, Vec<Key>)>) -> Result<()> {
    let look = |(digest, keys): (Digest, Vec<Key>)| async move {
        Ok(pin.vouch_any(keys.into_iter()).await?.is_none().then_some(digest))
    };
    let missing: Vec<Digest> = stream::iter(needed.into_iter().map(look).collect::<Vec<_>>())
        .buffered(FAN_OUT)
        .try_filter_map(|missing: Option<Digest>| async move { Ok::<_, Error>(missing) })
        .try_collect()
        .await?;
    if missing.is_empty() { Ok(()) } else { Err(Error::ManifestBlobUnknown(missing)) }
}

impl Repo {
    /// Returns a manifest by its digest.
    ///
    /// # Errors
    ///
    /// [`Error::ManifestUnknown`] when it is missing, or references content that was found corrupt.
    pub async fn manifest(&self, pin: &Pin, digest: &Digest) -> Result<Manifest> {
        let unknown = || Error::ManifestUnknown(digest.to_string());
        let tombstones = self.content().tombstones();
        if tombstones.denies(&self.manifest_key(digest), pin.deadline()).await? {
            return Err(unknown());
        }
        pin.vouch_any(self.manifest_keys(digest)).await?.ok_or_else(unknown)?;
        let bytes = self.manifest_bytes(digest).await?.ok_or_else(unknown)?;
        let media_type = media_type_of(&bytes)?.to_string();
        if self.names_wrong(&bytes).await? {
            return Err(unknown());
        }
        Ok(Manifest { digest: *digest, media_type, bytes })
    }

    /// Returns the bytes of a manifest of the chain; nothing if it is missing or damaged.
    pub async fn manifest_bytes(&self, digest: &Digest) -> Result<Option<Bytes>> {
        self.content().small_in(self.manifest_keys(digest), *digest, self.deadline()).await
    }

    /// Whether a manifest references a blob in quarantine: to serve it would fail the build that relies on it. Without
    /// it the build has no cache, or asks for another image. Costs nothing when the quarantine is empty.
    pub async fn names_wrong(&self, manifest: &[u8]) -> Result<bool> {
        let quarantine = self.content().verdicts().quarantine();
        if quarantine.is_empty() {
            return Ok(false);
        }
        let parsed = ManifestContent::parse(manifest, None)?;
        let is_noted = |digest: &&Digest| self.blobs().blob_keys(digest).any(|key| quarantine.has_key(&key));
        'blobs: for digest in parsed.blobs.iter().filter(is_noted) {
            for key in self.blobs().blob_keys(digest) {
                // Another server may have written it again.
                if self.content().meta(&key, self.deadline()).await?.is_some() {
                    continue 'blobs;
                }
            }
            return Ok(true);
        }
        Ok(false)
    }
}
