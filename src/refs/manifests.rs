//! Manifests: what they name, and putting, getting and deleting them.
//!
//! A manifest is stored and served exactly as pushed; it is parsed only for what it names. Its media type needs no
//! place of its own: it is what the manifest says of itself or, where it says nothing, what its shape says, and a push
//! whose `Content-Type` says otherwise is refused.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::account::inventory::Weight;
use crate::buildkit::Push;
use crate::calls::FAN_OUT;
use crate::content::condemned::Snapshot;
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Result};
use crate::hot::Slot;
use crate::metrics::tenant::Asked;
use crate::names::{Reference, Tag};
use crate::objects::Key;
pub use crate::oci::{
    CACHE_CONFIG, DOCKER_LIST, DOCKER_MANIFEST, ManifestContent as Parsed, OCI_INDEX, OCI_MANIFEST, media_type_of,
};
use crate::refs::tags::Pointer;
use crate::store::Repo;

/// A manifest that is here.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub digest: Digest,
    pub media_type: String,
    pub bytes: Bytes,
}

/// What came of a push.
#[derive(Clone, Debug)]
pub struct Pushed {
    pub digest: Digest,
    pub subject: Option<Digest>,
    /// It is a cache manifest.
    pub cache: bool,
}

impl Repo {
    /// Stores a manifest, with the tags that shall point to it. `digest` is what the client says it is, when it says.
    pub async fn put_manifest(
        &self,
        digest: Option<Digest>,
        tags: &[Tag],
        content_type: Option<&str>,
        bytes: Bytes,
    ) -> Result<Pushed> {
        // All of it has come, however slowly.
        crate::deadline::anew();
        let algorithm = digest.map_or(Algorithm::Sha256, |digest| digest.algorithm());
        let actual = crate::digest::hash(algorithm, bytes.clone()).await?;
        if let Some(claimed) = digest {
            crate::content::blobs::fits(&claimed, actual)?;
        }
        let parsed = Parsed::parse(&bytes, content_type)?;
        if self.is_scope() {
            // The reserve is the tenants'.
            self.expect_room().await?;
        }
        let _shared = self.store.references.read().await;
        let (parsed, bytes) = (&parsed, &bytes);
        let store = |pin: Arc<Snapshot>| async move { self.store_manifest(&pin, actual, tags, parsed, bytes).await };
        self.store.condemned.resting(store).await?;
        Ok(Pushed { digest: actual, subject: parsed.subject, cache: parsed.cache })
    }

    /// Content, then record, then pointer.
    async fn store_manifest(
        &self,
        pin: &Snapshot,
        digest: Digest,
        tags: &[Tag],
        parsed: &Parsed,
        bytes: &Bytes,
    ) -> Result<()> {
        self.require(pin, parsed).await?;
        let (key, size) = (self.manifest_key(&digest), bytes.len() as u64);
        let pointer = Pointer::new(digest, parsed.media_type, size);
        if !self.store.config.collect.ingredients.content_before_pointer {
            self.point(pin, tags, &pointer, None).await?;
        }
        // What is known to be there is not written again: a build that exports the same twice is not to pay for it.
        let is_condemned = self.store.condemned.rely(pin, &key).await?;
        let is_known = self.store.presence.get(&key).is_some_and(|known| known.valid);
        if is_condemned || !is_known {
            self.noticing(self.store.put_content(&key, bytes.clone()).await)?;
        }
        if let Some(subject) = &parsed.subject {
            let referrer = crate::layout::referrer(self.tenant(), self.name(), subject, &digest);
            self.store.condemned.rely(pin, &referrer).await?;
            self.put_referrer(subject, &digest, size, parsed).await?;
        }
        if !self.store.hot.has(&Slot::Whole(key.clone())) {
            self.store.hot.keep_pushed(Slot::Whole(key), bytes);
        }
        let is_push = parsed.cache && !tags.is_empty() && self.has_views();
        let push = if is_push { Some(self.new_push(bytes).await?) } else { None };
        // Before the pointer: a view is made with it, and knows better.
        for tag in tags {
            let weight = Weight::of(parsed, size);
            self.store.stock.pushed(self.tenant(), self.name(), tag, &digest, parsed.cache && self.has_views(), weight);
        }
        self.point(pin, tags, &pointer, push.as_ref()).await
    }

    async fn point(&self, pin: &Snapshot, tags: &[Tag], pointer: &Pointer, push: Option<&Push>) -> Result<()> {
        for tag in tags {
            self.store.condemned.rely(pin, &self.tag_key(tag)).await?;
            match push {
                Some(push) => self.put_push(pin, tag, pointer.clone(), push).await?,
                None => self.put_plain(pin, tag, pointer.clone()).await?,
            }
        }
        Ok(())
    }

    /// Refuses a manifest that names what is not here.
    async fn require(&self, pin: &Snapshot, parsed: &Parsed) -> Result<()> {
        // A cache that names what is not here fails the builds that import it: no policy allows that.
        let sparse = self.store.config.rule(self.name()).is_some_and(|rule| rule.sparse);
        if sparse && !parsed.cache {
            return Ok(());
        }
        let children = parsed.children.iter().map(|digest| (*digest, self.manifest_keys(digest).collect()));
        let needed = parsed.blobs.iter().map(|digest| (*digest, self.blob_keys(digest).collect())).chain(children);
        // Many layers are named several times: the empty one, for example.
        let mut seen = HashSet::new();
        let needed = needed.filter(|(_, keys): &(_, Vec<Key>)| seen.insert(keys.first().cloned()));
        let look = |(digest, keys): (Digest, Vec<Key>)| {
            let store = self.store.clone();
            async move { Ok(store.found_in(pin, keys.into_iter()).await?.is_none().then_some(digest)) }
        };
        let missing: Vec<Digest> = stream::iter(needed.map(look).collect::<Vec<_>>())
            .buffered(FAN_OUT)
            .try_filter_map(|missing: Option<Digest>| async move { Ok::<_, Error>(missing) })
            .try_collect()
            .await?;
        if missing.is_empty() { Ok(()) } else { Err(Error::ManifestBlobUnknown(missing)) }
    }

    /// The manifest that a reference names.
    pub async fn manifest(&self, reference: &Reference) -> Result<Manifest> {
        let look = |pin: Arc<Snapshot>| async move { self.manifest_now(&pin, reference).await };
        let found = self.store.condemned.resting(look).await;
        let kind = match reference {
            Reference::Tag(_) => Asked::Tag,
            Reference::Digest(_) => Asked::Manifest,
        };
        match &found {
            Ok(_) => self.counted.asked(kind, true),
            Err(Error::ManifestUnknown(_)) => self.counted.asked(kind, false),
            Err(_) => {}
        }
        if let (Ok(_), Reference::Digest(digest)) = (&found, reference) {
            self.touch_digest(digest).await;
        }
        found
    }

    async fn manifest_now(&self, pin: &Arc<Snapshot>, reference: &Reference) -> Result<Manifest> {
        let unknown = || Error::ManifestUnknown(reference.to_string());
        match reference {
            Reference::Digest(digest) => {
                if self.store.is_deleted(&self.manifest_key(digest)).await? {
                    return Err(unknown());
                }
                self.store.found_in(pin, self.manifest_keys(digest)).await?.ok_or_else(unknown)?;
                let bytes = self.manifest_bytes(digest).await?.ok_or_else(unknown)?;
                let media_type = media_type_of(&bytes)?.to_string();
                if self.names_wrong(&bytes).await? {
                    return Err(unknown());
                }
                Ok(Manifest { digest: *digest, media_type, bytes })
            }
            Reference::Tag(tag) => {
                let served = self.served_now(pin, tag).await?.ok_or_else(unknown)?;
                let bytes = self.manifest_bytes(&served.digest).await?.ok_or_else(unknown)?;
                if self.names_wrong(&bytes).await? {
                    return Err(unknown());
                }
                Ok(Manifest { digest: served.digest, media_type: served.media_type, bytes })
            }
        }
    }

    pub(crate) async fn manifest_bytes(&self, digest: &Digest) -> Result<Option<Bytes>> {
        known(self.store.small_in(self.manifest_keys(digest), *digest).await)
    }
}

/// Content that may be missing.
pub(crate) fn known(read: Result<Bytes>) -> Result<Option<Bytes>> {
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::BlobUnknown(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
