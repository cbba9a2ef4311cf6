//! Manifests: what they name, and putting, getting and deleting them.
//!
//! A manifest is stored and served exactly as pushed; it is parsed only for what it names. Its media type needs no
//! place of its own: it is what the manifest says of itself or, where it says nothing, what its shape says, and a push
//! whose `Content-Type` says otherwise is refused.

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

/// Small objects that a push to a tag may make.
const OBJECTS_OF_TAG: u64 = 3;

/// A manifest that is here.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub digest: Digest,
    pub media_type: String,
    pub bytes: Bytes,
}

/// What a manifest names was all here, when it was looked for.
pub struct Required {
    since: DeletionMark,
    /// Fingerprints of the keys under which it may be.
    keys: HashSet<u64>,
}

impl RepoWriter {
    /// Room for a manifest of `size` bytes with what goes with it: its entry among the referrers of its subject, and
    /// for each of so many tags a pointer, the note of its use and, of a cache, a push record.
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

    /// Refuses a manifest that names what is not here. Before the lock of references is taken: what a client names may
    /// be tens of thousands of objects.
    ///
    /// # Why nothing is named that goes in between
    ///
    /// *A caller of this server deletes it* by its digest, alone with the lock, and notes it before. Either he has the lock
    /// first: then [`RepoWriter::store_manifest`] finds it noted since the mark, which was taken before it was looked
    /// for, and looks again. Or the manifest is written first: then he finds it, and deletes nothing that it names.
    ///
    /// *A collector deletes it*, or another server's caller, who in a bucket only condemns. That takes no lock, here or there,
    /// and need not: what was looked for and the manifest rest on one pin, and the argument at the head of
    /// [`crate::lifetime::collect`] has its times from that alone. What the pin's snapshot had was spared; what it had
    /// not stays for W behind a list that came later, and the manifest is in the store X after the snapshot at the
    /// latest: the pointer is not written with a pin that has become too old, nor is the answer given.
    pub async fn require(&self, pin: &Pin, parsed: &ManifestContent) -> Result<Required> {
        let since = self.repo().refs().deletions().mark();
        let mut keys = HashSet::new();
        // Many layers are named several times: the empty one, for example.
        let mut seen = HashSet::new();
        let needed = self.named(parsed).filter(|(_, of)| seen.insert(of.first().cloned())).inspect(|(_, of)| {
            keys.extend(of.iter().map(|key| fingerprint(key.as_str())));
        });
        let needed: Vec<(Digest, Vec<Key>)> = needed.collect();
        look_for_all(pin, needed).await?;
        Ok(Required { since, keys })
    }

    /// Stores a manifest for an answer that rests on `pin`, as did looking for what is `required`: the bytes, then its
    /// entry among the referrers of its subject. Whoever calls it holds [`Refs::writing`](super::Refs::writing) until
    /// tags point to it.
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

    /// Looks again for what has been deleted since it was looked for.
    async fn look_again(&self, pin: &Pin, required: &Required, parsed: &ManifestContent) -> Result<()> {
        let deleted = self.repo().refs().deletions().since(required.since).ok_or(Error::Busy)?;
        let deleted: HashSet<u64> = deleted.into_iter().filter(|key| required.keys.contains(key)).collect();
        if deleted.is_empty() {
            return Ok(());
        }
        let is_deleted = |key: &Key| deleted.contains(&fingerprint(key.as_str()));
        look_for_all(pin, self.named(parsed).filter(|(_, keys)| keys.iter().any(is_deleted)).collect()).await
    }

    /// What a manifest must not name unless it is here, with the keys under which it may be.
    fn named(&self, parsed: &ManifestContent) -> impl Iterator<Item = (Digest, Vec<Key>)> {
        let repo = self.repo();
        // A cache that names what is not here fails the builds that import it: no policy allows that.
        let may_be_absent = repo.is_sparse() && !parsed.cache;
        let children = parsed.children.iter().map(|digest| (*digest, repo.manifest_keys(digest).collect()));
        let blobs = parsed.blobs.iter().map(|digest| (*digest, repo.blobs().blob_keys(digest).collect()));
        blobs.chain(children).filter(move |_| !may_be_absent)
    }
}

/// Refuses what is not all here, under one of its keys each.
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
    /// A manifest by its digest.
    ///
    /// # Errors
    ///
    /// [`Error::ManifestUnknown`] when it is not here, or names what was found corrupt.
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

    /// The bytes of a manifest of the chain; nothing when it is missing or damaged.
    pub async fn manifest_bytes(&self, digest: &Digest) -> Result<Option<Bytes>> {
        self.content().small_in(self.manifest_keys(digest), *digest, self.deadline()).await
    }

    /// Whether a manifest names a blob that is in quarantine: to serve it would fail the build that relies on it, where
    /// without it the build only has no cache, or asks for another image. Costs nothing when nothing is in quarantine.
    pub async fn names_wrong(&self, manifest: &[u8]) -> Result<bool> {
        let quarantine = self.content().verdicts().quarantine();
        if quarantine.is_empty() {
            return Ok(false);
        }
        let parsed = ManifestContent::parse(manifest, None)?;
        let is_noted = |digest: &&Digest| self.blobs().blob_keys(digest).any(|key| quarantine.has_key(&key));
        'blobs: for digest in parsed.blobs.iter().filter(is_noted) {
            for key in self.blobs().blob_keys(digest) {
                // Another server may have it anew.
                if self.content().meta(&key, self.deadline()).await?.is_some() {
                    continue 'blobs;
                }
            }
            return Ok(true);
        }
        Ok(false)
    }
}
