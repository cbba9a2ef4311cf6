//! Makes a view: loads the pushes of a tag, unites them, and stores the result before any client is told of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use tokio::time::Instant;

use super::load::NotLoaded;
use super::memory::VIEW_BYTES;
use super::service::Caches;
use crate::buildkit::{BOUNDS, CacheManifest, Explanation, Push, View, ViewOutcome, view};
use crate::calls::FAN_OUT;
use crate::content::Pin;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::names::Tag;
use crate::oci::{ManifestContent, OCI_MANIFEST, media_type_of};
use crate::refs::Repo;
use crate::refs::inventory::Weight;
use crate::refs::pointer::Pointer;
use crate::refs::pushes::{LivePush, PushId};
use crate::refs::stored_view::{Served, StoredView, VIEW_ALGORITHM_VERSION};

/// Pushes loaded at the same time for one view.
const LOADS: usize = 4;

impl Caches {
    /// Makes the view of these pushes and stores it.
    pub(super) async fn make(
        &self,
        pin: &Pin,
        repo: &Repo,
        tag: &Tag,
        pointer: &Pointer,
        live: &[LivePush],
        at_hand: Option<(PushId, Arc<Push>)>,
    ) -> Result<StoredView> {
        let began = Instant::now();
        // Memory for the push at hand has been taken already.
        let _memory = match &at_hand {
            Some(_) => None,
            None => Some(self.memory(repo, self.memory_of(repo, live).await?).await?),
        };
        let made = self.united(pin, repo, live, at_hand).await?;
        let (mut needed, mut weight, mut is_stored) = (None, None, true);
        let (config, view) = match made.view {
            Some((View { outcome: ViewOutcome::Merged(merged), explanation }, _)) => {
                let served = Served {
                    media_type: OCI_MANIFEST.to_string(),
                    digest: Digest::sha256(&merged.manifest),
                    size: merged.manifest.len() as u64,
                };
                let parsed = ManifestContent::parse(&merged.manifest, None).ok();
                self.report(repo, tag, &explanation, began);
                let (config, manifest) = ((merged.config_digest, merged.config), (served.digest, merged.manifest));
                match repo.put_view_content(pin, config, manifest).await {
                    Ok(()) => {
                        weight = parsed.as_ref().map(|parsed| Weight::of(parsed, served.size));
                        needed = Some(parsed.map(|parsed| parsed.blobs).unwrap_or_default());
                        (Some(merged.config_digest), Some(served))
                    }
                    // No client could read the view by its digest. The newest push is served as it was sent, until the
                    // tag is pushed to again; no record tells other servers that nothing better exists.
                    Err(refused @ (Error::Full | Error::LeftBehind { .. })) => {
                        tracing::warn!(repo = %repo.name(), %tag, error = %refused, "cannot store a view");
                        is_stored = false;
                        let newest = made.pushes.last().filter(|(_, push)| is_whole(push, &made.present));
                        as_sent(repo, pointer, newest.ok_or(refused)?).await?
                    }
                    Err(error) => return Err(error),
                }
            }
            Some((View { outcome: ViewOutcome::Unchanged(index), .. }, first)) => {
                match made.pushes.get(first + index) {
                    Some(push) => as_sent(repo, pointer, push).await?,
                    None => (None, None),
                }
            }
            // The last push is the best that can be served.
            None => (None, None),
        };
        if let Some(weight) = weight {
            self.refs().stock().viewed(repo.tenant(), repo.name(), tag, live.len(), weight);
        }
        let stored = StoredView {
            rules: VIEW_ALGORITHM_VERSION,
            pushes: live.iter().map(|push| push.id).collect(),
            needed: needed.unwrap_or(made.present),
            config,
            missing: made.missing,
            missing_manifests: made.missing_manifests,
            newest: live.iter().map(|push| push.at).max().and_then(|at| at.try_into().ok()),
            evicted: made.evicted,
            view,
        };
        // A single push that is served as it is: to find that out again costs no more than to read a stored view.
        if is_stored && (stored.view.is_some() || live.len() > 1) {
            repo.put_stored_view(tag, &stored).await?;
        }
        Ok(stored)
    }

    /// Memory in bytes for a view of these pushes. The newest is part of the view, however large.
    pub(super) async fn memory_of(&self, repo: &Repo, live: &[LivePush]) -> Result<u64> {
        let Some(newest) = live.last() else { return Ok(VIEW_BYTES) };
        let Some(bytes) = repo.manifest_bytes(&newest.id.manifest).await? else { return Ok(VIEW_BYTES) };
        // Many requests may ask at once, and none has the memory of a view yet.
        let length = bytes.len();
        let detected = self.parse_manifest(repo, length, move || CacheManifest::detect(&bytes)).await?;
        let Ok(Some(manifest)) = detected else { return Ok(VIEW_BYTES) };
        Ok(self.push_of(repo, manifest).await?.map_or(VIEW_BYTES, |push| VIEW_BYTES.max(push.memory())))
    }

    /// Loads the pushes of a tag, the newest first and as many as the memory allows, and unites them. The caller has
    /// memory for a view, or for the push at hand if that is the only one.
    pub(super) async fn united(
        &self,
        pin: &Pin,
        repo: &Repo,
        live: &[LivePush],
        at_hand: Option<(PushId, Arc<Push>)>,
    ) -> Result<United> {
        let at_hand = at_hand.as_ref();
        // Several are loaded at a time, but one is parsed at a time, because parsing is paid from the caller's memory.
        let one_parses = &tokio::sync::Mutex::new(());
        let loads = live.iter().rev().map(|push| async move {
            if at_hand.is_some_and(|(id, _)| *id == push.id) {
                return Ok::<_, Error>((push.id, None));
            }
            let Some(bytes) = repo.manifest_bytes(&push.id.manifest).await? else {
                return Ok((push.id, Some(Err(NotLoaded::ManifestGone))));
            };
            let parsing = one_parses.lock().await;
            let manifest = self.read_manifest(bytes).await?;
            drop(parsing);
            let found = match manifest {
                Ok(manifest) => self.push_of(repo, manifest).await?,
                Err(why) => Err(why),
            };
            Ok((push.id, Some(found)))
        });
        let mut loads = stream::iter(loads.collect::<Vec<_>>()).buffered(LOADS);
        let (mut pushes, mut missing, mut missing_manifests) = (Vec::new(), Vec::new(), Vec::new());
        let mut memory = 0;
        while let Some((id, found)) = loads.try_next().await? {
            match found {
                None => pushes.extend(at_hand.cloned()),
                Some(Ok(push)) => {
                    memory += push.memory();
                    if memory > VIEW_BYTES && !pushes.is_empty() {
                        tracing::warn!(repo = %repo.name(), loaded = pushes.len(), "older pushes left out: too large to merge");
                        break;
                    }
                    pushes.push((id, push.parse().await?));
                }
                Some(Err(NotLoaded::ConfigGone(digest))) => missing.push(digest),
                Some(Err(NotLoaded::ManifestGone)) => missing_manifests.push(id.manifest),
                Some(Err(NotLoaded::Malformed(reason))) => {
                    tracing::warn!(push = %id.manifest, reason, "cannot read a push: the view leaves it out");
                }
            }
        }
        drop(loads);
        pushes.reverse();
        let when: HashMap<PushId, SystemTime> = live.iter().map(|push| (push.id, push.at)).collect();
        let mut named = BTreeMap::<Digest, Option<SystemTime>>::new();
        for (id, push) in &pushes {
            for layer in &push.manifest.layers {
                let last = named.entry(layer.digest).or_default();
                *last = (*last).max(when.get(id).copied());
            }
        }
        let present = present(pin, repo, &named).await?;
        missing.extend(named.keys().filter(|digest| !present.contains(*digest)));
        let is_evicted =
            |digest: &Digest| repo.blobs().blob_keys(digest).any(|key| pin.snapshot().evicted(&key).is_some());
        let evicted = named.iter().filter(|(digest, _)| is_evicted(digest));
        let evicted = evicted.filter_map(|(digest, last)| Some((*digest, (*last)?.try_into().ok()?))).collect();
        missing.sort_unstable();
        let (ids, pushes): (Vec<PushId>, Vec<Arc<Push>>) = pushes.into_iter().unzip();
        let making = tokio::task::spawn_blocking(move || {
            let view = view_of(&pushes, &|digest: &Digest| present.contains(digest));
            (view, pushes, present)
        });
        let (view, pushes, present) = making.await?;
        let mut present: Vec<Digest> = present.into_iter().collect();
        present.sort_unstable();
        Ok(United { view, pushes: ids.into_iter().zip(pushes).collect(), present, missing, missing_manifests, evicted })
    }

    fn report(&self, repo: &Repo, tag: &Tag, explanation: &Explanation, began: Instant) {
        let metrics = self.refs().metrics();
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
            repo = %repo.name(),
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
}

/// The config of a push that is served byte for byte, and the served manifest: none if the pointer references it
/// already.
async fn as_sent(
    repo: &Repo,
    pointer: &Pointer,
    (id, push): &(PushId, Arc<Push>),
) -> Result<(Option<Digest>, Option<Served>)> {
    let config = Some(push.manifest.config.digest);
    if pointer.push.is_none_or(|push| push.identity == id.identity) {
        return Ok((config, None));
    }
    let Some(bytes) = repo.manifest_bytes(&id.manifest).await? else { return Ok((config, None)) };
    let media_type = media_type_of(&bytes)?.to_string();
    Ok((config, Some(Served { media_type, digest: id.manifest, size: bytes.len() as u64 })))
}

/// Whether a push can be imported as it was sent, given the layers that can be served, in order.
fn is_whole(push: &Push, present: &[Digest]) -> bool {
    let has_layers = push.manifest.layers.iter().all(|layer| present.binary_search(&layer.digest).is_ok());
    has_layers && push.config.is_ok()
}

/// Returns the layers that can be served, given the last push time of each.
async fn present(pin: &Pin, repo: &Repo, layers: &BTreeMap<Digest, Option<SystemTime>>) -> Result<HashSet<Digest>> {
    let looks = layers.iter().map(|(digest, pushed)| async move {
        Ok::<_, Error>(pin.may_name_any(repo.blobs().blob_keys(digest), *pushed).await?.then_some(*digest))
    });
    let found = stream::iter(looks.collect::<Vec<_>>()).buffer_unordered(FAN_OUT);
    found.try_filter_map(|found| async move { Ok(found) }).try_collect().await
}

/// The union of a tag's pushes, with the content that it lacks.
pub(super) struct United {
    /// The view, and the index of the first push that it was made from.
    pub view: Option<(View, usize)>,
    /// The pushes that could be loaded, oldest first.
    pub pushes: Vec<(PushId, Arc<Push>)>,
    /// Layers of the pushes that the store has.
    present: Vec<Digest>,
    missing: Vec<Digest>,
    missing_manifests: Vec<Digest>,
    evicted: Vec<(Digest, Timestamp)>,
}

/// The view of all pushes. If they cannot be united, the view of the newest alone is still better than nothing.
fn view_of(pushes: &[Arc<Push>], present: &dyn Fn(&Digest) -> bool) -> Option<(View, usize)> {
    match view(pushes, present, &BOUNDS) {
        Ok(all) => Some((all, 0)),
        Err(reason) => {
            tracing::warn!(pushes = pushes.len(), %reason, "cannot merge the pushes of a tag: its newest is served alone");
            let newest = pushes.len().checked_sub(1)?;
            Some((view(&pushes[newest..], present, &BOUNDS).ok()?, newest))
        }
    }
}
