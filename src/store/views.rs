//! What a cache tag serves: the view of its pushes, made when it is asked for and kept until something it rests on
//! changes.
//!
//! A view rests on two things: the pushes, which the tag's pointer proves unchanged, and which of their layers are in
//! the store, which is looked at for every answer. So a layer that was lost costs the next build a step, not its life,
//! and one that came back is served again.
//!
//! Manifest and config of a view are stored like any other content, before the view is announced: every server can serve
//! what another announced.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use super::layout::PushId;
use super::manifests::OCI_MANIFEST;
use super::pushes::LivePush;
use super::tags::Pointer;
use super::{Error, FAN_OUT, Repo, Result, layout};
use crate::buildkit::{Explanation, IMPORT_LIMIT_BYTES, Outcome, Push, View, view};
use crate::digest::Digest;
use crate::names::Tag;
use crate::objects::{self, Key, Read, Version, When};

/// Memory for what is known of views.
const VIEWS_BYTES_MAX: u64 = 64 << 20;
/// Tags whose views are made at once, at most; the others wait.
const MAKERS: usize = 64;

/// The views that this server has made or found.
pub struct Views {
    known: Cache<Key, Arc<Known>>,
    /// One maker for a tag at a time: what the others wait for, they find made.
    makers: [tokio::sync::Mutex<()>; MAKERS],
}

impl Default for Views {
    fn default() -> Self {
        let known = Cache::builder()
            .max_capacity(VIEWS_BYTES_MAX)
            .weigher(|_: &Key, known: &Arc<Known>| known.weight())
            .build();
        Views { known, makers: std::array::from_fn(|_| tokio::sync::Mutex::new(())) }
    }
}

/// A view, and what it was made of.
struct Known {
    /// The pointer that was read before the pushes were listed.
    version: Version,
    hint: Hint,
}

/// Content of `views/<tag>`: a server that has not seen the tag need not make its view again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hint {
    /// Oldest first.
    pushes: Vec<PushId>,
    /// Layers that the view names.
    layers: Vec<Digest>,
    /// Layers that pushes name and the store did not have.
    missing: Vec<Digest>,
    /// What is served; nothing when it is the newest push as it was sent.
    view: Option<Served>,
}

/// What a tag serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    pub media_type: String,
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
}

impl Served {
    fn pushed(pointer: &Pointer) -> Served {
        Served { media_type: pointer.media_type.clone(), digest: pointer.digest, size: pointer.size }
    }
}

impl Known {
    fn weight(&self) -> u32 {
        let entries = self.hint.pushes.len() * 2 + self.hint.layers.len() + self.hint.missing.len();
        u32::try_from(256 + entries * size_of::<Digest>()).unwrap_or(u32::MAX)
    }
}

impl Repo {
    /// What a tag serves now.
    pub async fn served(&self, tag: &Tag) -> Result<Option<Served>> {
        let key = self.tag_key(tag);
        let Some((version, pointer)) = self.store.pointer(&key).await? else { return Ok(None) };
        if pointer.push.is_none() || !self.has_views() {
            return Ok(Some(Served::pushed(&pointer)));
        }
        let known = match self.store.views.known.get(&key) {
            Some(known) if known.version == version && self.holds(&known.hint).await? => known,
            _ => {
                let _turn = self.store.views.makers[stripe(&key)].lock().await;
                self.make_known(tag, &key).await?
            }
        };
        self.touch(tag).await;
        Ok(Some(known.hint.view.clone().unwrap_or_else(|| Served::pushed(&pointer))))
    }

    /// The digest of the view that a tag is known to serve, when that is not the digest of a push.
    pub(super) async fn known_view(&self, tag: &Tag) -> Result<Option<Digest>> {
        Ok(self.hint(tag).await?.and_then(|hint| hint.view).map(|view| view.digest))
    }

    /// Makes the view, unless another request has just done so or the hint in the store still holds.
    async fn make_known(&self, tag: &Tag, key: &Key) -> Result<Arc<Known>> {
        // The pointer is read before the pushes are listed: a push that the list misses comes with a newer pointer.
        let Some((version, pointer)) = self.store.pointer(key).await? else {
            return Err(Error::ManifestUnknown(tag.to_string()));
        };
        if let Some(known) = self.store.views.known.get(key)
            && known.version == version
            && self.holds(&known.hint).await?
        {
            return Ok(known);
        }
        let live = self.pushes_behind(tag, &pointer).await?;
        let hint = match self.hint(tag).await? {
            Some(hint) if hint.is_of(&live) && self.holds(&hint).await? => hint,
            _ => self.make(tag, &live).await?,
        };
        let known = Arc::new(Known { version, hint });
        self.store.views.known.insert(key.clone(), known.clone());
        Ok(known)
    }

    async fn hint(&self, tag: &Tag) -> Result<Option<Hint>> {
        match self.store.objects.read(&layout::view(self.tenant(), self.name(), tag), None).await {
            Ok(Read::Fresh(_, bytes)) => Ok(serde_json::from_slice(&bytes).ok()),
            Ok(Read::Same) | Err(objects::Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the store has what the view needs, and still lacks what it was made without.
    async fn holds(&self, hint: &Hint) -> Result<bool> {
        let own = hint.view.as_ref().map(|view| self.manifest_key(&view.digest));
        let needed = hint.layers.iter().map(|digest| self.blob_key(digest)).chain(own).map(|key| (key, true));
        let missing = hint.missing.iter().map(|digest| (self.blob_key(digest), false));
        let looks = needed.chain(missing).map(|(key, expected)| {
            let store = self.store.clone();
            async move { Ok::<_, Error>(store.head(&key).await?.is_some() == expected) }
        });
        let mut looks = stream::iter(looks.collect::<Vec<_>>()).buffered(FAN_OUT);
        while let Some(as_expected) = looks.try_next().await? {
            if !as_expected {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes the view of these pushes and stores it.
    async fn make(&self, tag: &Tag, live: &[LivePush]) -> Result<Hint> {
        let began = Instant::now();
        let made = self.united(live).await?;
        let (view, layers) = match made.view {
            Some(View { outcome: Outcome::Merged(merged), explanation }) => {
                let digest = Digest::sha256(&merged.manifest);
                let size = merged.manifest.len() as u64;
                let layers = layers_of(&merged.manifest);
                self.report(tag, &explanation, began);
                self.store_view(digest, merged.manifest, merged.config_digest, merged.config).await?;
                (Some(Served { media_type: OCI_MANIFEST.to_string(), digest, size }), layers)
            }
            // As it was pushed; or there is nothing better to serve than what was pushed last.
            Some(View { outcome: Outcome::Unchanged(_), .. }) | None => (None, made.layers),
        };
        let hint = Hint { pushes: live.iter().map(|push| push.id).collect(), layers, missing: made.missing, view };
        let body = serde_json::to_vec(&hint).map_err(|error| Error::Internal(error.to_string().into()))?;
        // Without it, another server makes the same view again.
        let key = layout::view(self.tenant(), self.name(), tag);
        if let Err(error) = self.store.objects.put(&key, body.into(), When::Always).await {
            tracing::warn!(%key, %error, "view is not hinted");
        }
        Ok(hint)
    }

    /// Loads the pushes of a tag and unites them.
    async fn united(&self, live: &[LivePush]) -> Result<United> {
        let loads = live.iter().map(|push| {
            let (repo, manifest) = (self.clone(), push.id.manifest);
            async move {
                match repo.manifest_bytes(&manifest).await? {
                    Some(bytes) => repo.push_of(&bytes).await,
                    None => Ok(None),
                }
            }
        });
        let loaded: Vec<Option<Push>> = stream::iter(loads.collect::<Vec<_>>()).buffered(FAN_OUT).try_collect().await?;
        let pushes: Vec<Push> = loaded.into_iter().flatten().collect();
        let named: HashSet<Digest> =
            pushes.iter().flat_map(|push| &push.manifest.layers).map(|layer| layer.digest).collect();
        let present = self.present(named.iter().copied()).await?;
        let mut missing: Vec<Digest> = named.difference(&present).copied().collect();
        missing.sort_unstable();
        let mut layers: Vec<Digest> = named.intersection(&present).copied().collect();
        layers.sort_unstable();
        let view = tokio::task::spawn_blocking(move || {
            let is_present = |digest: &Digest| present.contains(digest);
            let all = view(&pushes, &is_present);
            // More than can be united: the newest push alone is still better than nothing.
            all.or_else(|refused| {
                tracing::warn!(pushes = pushes.len(), reason = %refused, "pushes are not united");
                view(&pushes[pushes.len().saturating_sub(1)..], &is_present)
            })
            .ok()
        })
        .await?;
        Ok(United { view, layers, missing })
    }

    /// Which of these blobs the store has.
    async fn present(&self, digests: impl Iterator<Item = Digest>) -> Result<HashSet<Digest>> {
        let looks = digests.map(|digest| {
            let (store, key) = (self.store.clone(), self.blob_key(&digest));
            async move { Ok::<_, Error>(store.head(&key).await?.map(|_| digest)) }
        });
        let found = stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(FAN_OUT);
        found.try_filter_map(|found| async move { Ok(found) }).try_collect().await
    }

    /// Content before pointer, here as everywhere: the config, then the manifest that names it.
    async fn store_view(&self, digest: Digest, manifest: Bytes, config: Digest, bytes: Bytes) -> Result<()> {
        for (key, bytes) in [(self.blob_key(&config), bytes), (self.manifest_key(&digest), manifest)] {
            self.store.objects.put(&key, bytes.clone(), When::Always).await?;
            self.store.hot.insert(key, bytes);
        }
        Ok(())
    }

    fn report(&self, tag: &Tag, explanation: &Explanation, began: Instant) {
        let metrics = &self.store.metrics;
        metrics.views_made.inc();
        metrics.view_seconds.observe(began.elapsed().as_secs_f64());
        metrics.view_pushes.inc_by(explanation.pushes_out as u64);
        metrics.view_records.inc_by(explanation.records_out as u64);
        metrics.view_layers.inc_by(explanation.layers_out as u64);
        metrics.view_layers_missing.inc_by(explanation.missing_layers.len() as u64);
        let trimmed = explanation.trimmed_records + explanation.trimmed_results + explanation.trimmed_pushes.len();
        if trimmed > 0 {
            metrics.views_trimmed.inc();
        }
        tracing::info!(
            repo = %self.name(),
            %tag,
            pushes = explanation.pushes_out,
            records = explanation.records_out,
            layers = explanation.layers_out,
            layers_missing = explanation.missing_layers.len(),
            trimmed,
            micros = began.elapsed().as_micros() as u64,
            "view made"
        );
    }

    /// What a tag is made of, made anew so that it can be explained.
    pub async fn inspect(&self, tag: &Tag) -> Result<Inspection> {
        let unknown = || Error::ManifestUnknown(tag.to_string());
        let pointer = self.tag(tag).await?.ok_or_else(unknown)?;
        let served = self.served(tag).await?.ok_or_else(unknown)?;
        let live = if pointer.push.is_some() { self.pushes_behind(tag, &pointer).await? } else { Vec::new() };
        let mut pushes = Vec::new();
        for push in &live {
            let bytes = self.manifest_bytes(&push.id.manifest).await?;
            let loaded = match &bytes {
                Some(bytes) => self.push_of(bytes).await?,
                None => None,
            };
            pushes.push(InspectedPush::of(push, bytes.map_or(0, |bytes| bytes.len()), loaded));
        }
        let explanation = if pointer.push.is_some() && self.has_views() {
            self.united(&live).await?.view.map(|view| view.explanation)
        } else {
            None
        };
        let limit_bytes = explanation.is_some().then_some(IMPORT_LIMIT_BYTES);
        Ok(Inspection {
            repo: self.name().to_string(),
            tag: tag.to_string(),
            pushed: pointer.pushed,
            is_view: served.digest != pointer.digest,
            served,
            pushes,
            limit_bytes,
            explanation,
        })
    }
}

struct United {
    view: Option<View>,
    /// Layers of the pushes that the store has.
    layers: Vec<Digest>,
    missing: Vec<Digest>,
}

impl Hint {
    fn is_of(&self, live: &[LivePush]) -> bool {
        self.pushes.iter().eq(live.iter().map(|push| &push.id))
    }
}

fn layers_of(manifest: &[u8]) -> Vec<Digest> {
    let parsed = super::manifests::Parsed::parse(manifest, None);
    parsed.map(|parsed| parsed.blobs).unwrap_or_default()
}

fn stripe(key: &Key) -> usize {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::new().hash_one(key) as usize % MAKERS
}

/// What a tag is made of, for people.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    pub repo: String,
    pub tag: String,
    /// When it was pushed last.
    pub pushed: jiff::Timestamp,
    pub served: Served,
    /// What is served is not what was pushed last.
    pub is_view: bool,
    /// Oldest first.
    pub pushes: Vec<InspectedPush>,
    /// What BuildKit imports at most, for manifest and config each.
    pub limit_bytes: Option<u64>,
    pub explanation: Option<Explanation>,
}

/// One push of a cache tag.
#[derive(Clone, Debug, Serialize)]
pub struct InspectedPush {
    pub manifest: Digest,
    pub at: jiff::Timestamp,
    pub manifest_bytes: usize,
    pub config_bytes: u64,
    /// Sum of the layers, each counted once.
    pub layer_bytes: u64,
    pub records: usize,
    pub layers: usize,
    /// Why the push is not part of the view.
    pub error: Option<String>,
}

impl InspectedPush {
    fn of(live: &LivePush, manifest_bytes: usize, push: Option<Push>) -> InspectedPush {
        let at = jiff::Timestamp::try_from(live.at).unwrap_or_default();
        let empty = InspectedPush {
            manifest: live.id.manifest,
            at,
            manifest_bytes,
            config_bytes: 0,
            layer_bytes: 0,
            records: 0,
            layers: 0,
            error: Some("the pushed content is gone".to_string()),
        };
        let Some(push) = push else { return empty };
        let mut layers: Vec<_> = push.manifest.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
        layers.sort_unstable();
        layers.dedup();
        InspectedPush {
            config_bytes: push.manifest.config.size,
            layer_bytes: layers.iter().map(|(_, size)| size).sum(),
            records: push.config.as_ref().map_or(0, |config| config.records.len()),
            layers: layers.len(),
            error: push.config.err().map(|error| error.to_string()),
            ..empty
        }
    }
}
