//! The layers of all pushes: every blob once, every chain of blobs once.

use std::borrow::Cow;
use std::collections::HashMap;

use jiff::Timestamp;

use super::config::{CacheConfig, Stack};
use super::manifest::{CacheManifest, Descriptor};
use super::{CREATED_AT, DIFF_ID, DISTRIBUTION_SOURCE};
use crate::digest::Digest;

/// A chain of layers from the bottom to this one: an index into [`Layers::chains`].
pub type ChainId = u32;
/// The unpacked content of a chain, whatever its compression: equal for chains of equal diff IDs.
pub type ContentId = u32;

pub struct Layers<'a> {
    pub blobs: Vec<LayerBlob<'a>>,
    /// Chains, parents before children.
    pub chains: Vec<Chain>,
    by_digest: HashMap<Digest, u32>,
    by_link: HashMap<u64, ChainId>,
    diff_ids: HashMap<&'a str, u32>,
    contents: HashMap<u64, ContentId>,
}

pub struct LayerBlob<'a> {
    pub descriptor: Cow<'a, Descriptor>,
    pub state: BlobState,
    diff_id: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobState {
    /// A layer that can be served and loaded, with the number of its diff ID.
    Usable(u32),
    /// Not in the store.
    Missing,
    /// Without the annotation that BuildKit needs to load it: a record that references it would be rebuilt.
    NoDiffId,
}

pub struct Chain {
    pub parent: Option<ChainId>,
    pub blob: u32,
    pub content: ContentId,
}

impl<'a> Layers<'a> {
    /// Collects the blobs of these manifests, oldest first, and asks once for each whether it is `present`. Foreign
    /// layers count as present: clients get them elsewhere.
    pub fn collect(manifests: impl Iterator<Item = &'a CacheManifest>, present: &dyn Fn(&Digest) -> bool) -> Self {
        let descriptors: Vec<_> = manifests.flat_map(|manifest| &manifest.layers).collect();
        let mut layers = Layers {
            blobs: Vec::with_capacity(descriptors.len()),
            chains: Vec::with_capacity(descriptors.len()),
            by_digest: HashMap::with_capacity(descriptors.len()),
            by_link: HashMap::with_capacity(descriptors.len()),
            diff_ids: HashMap::with_capacity(descriptors.len()),
            contents: HashMap::with_capacity(descriptors.len()),
        };
        descriptors.into_iter().for_each(|descriptor| layers.add(descriptor));
        for LayerBlob { descriptor, state, diff_id } in &mut layers.blobs {
            let next = layers.diff_ids.len() as u32;
            *state = match *diff_id {
                _ if descriptor.urls.is_empty() && !present(&descriptor.digest) => BlobState::Missing,
                Some(diff_id) => BlobState::Usable(*layers.diff_ids.entry(diff_id).or_insert(next)),
                None => BlobState::NoDiffId,
            };
        }
        layers
    }

    fn add(&mut self, descriptor: &'a Descriptor) {
        let next = self.blobs.len() as u32;
        let index = *self.by_digest.entry(descriptor.digest).or_insert(next);
        if index == next {
            let descriptor = without_sources(descriptor);
            self.blobs.push(LayerBlob { descriptor, state: BlobState::Missing, diff_id: None });
        }
        let blob = &mut self.blobs[index as usize];
        if *blob.descriptor != *descriptor {
            merge(&mut blob.descriptor, descriptor);
        }
        blob.diff_id = descriptor.annotations.get(DIFF_ID).map(String::as_str).or(blob.diff_id);
    }

    /// The chains of one push's results, which [`PushLayers::chain`] returns.
    pub fn of_push<'l>(&'l mut self, manifest: &CacheManifest, config: &'l CacheConfig) -> PushLayers<'l, 'a> {
        let mut named = vec![false; self.blobs.len()];
        for descriptor in &manifest.layers {
            if let Some(&blob) = self.by_digest.get(&descriptor.digest) {
                named[blob as usize] = true;
            }
        }
        PushLayers { known: vec![None; config.layers.len()], layers: self, config, named }
    }

    fn link(&mut self, parent: Option<ChainId>, blob: u32) -> Option<ChainId> {
        let BlobState::Usable(diff_id) = self.blobs[blob as usize].state else { return None };
        if let Some(&chain) = self.by_link.get(&on_top(parent, blob)) {
            return Some(chain);
        }
        let below = parent.map(|parent| self.chains[parent as usize].content);
        let next = self.contents.len() as ContentId;
        let content = *self.contents.entry(on_top(below, diff_id)).or_insert(next);
        let chain = self.chains.len() as ChainId;
        self.chains.push(Chain { parent, blob, content });
        self.by_link.insert(on_top(parent, blob), chain);
        Some(chain)
    }
}

/// One number for a layer and the chain below it.
fn on_top(below: Option<u32>, layer: u32) -> u64 {
    below.map_or(0, |below| u64::from(below) + 1) << 32 | u64::from(layer)
}

fn is_source(annotation: &str) -> bool {
    annotation.starts_with(DISTRIBUTION_SOURCE)
}

fn without_sources(descriptor: &Descriptor) -> Cow<'_, Descriptor> {
    let mut descriptor = Cow::Borrowed(descriptor);
    if descriptor.annotations.keys().any(|key| is_source(key)) {
        descriptor.to_mut().annotations.retain(|key, _| !is_source(key));
    }
    descriptor
}

/// Merges descriptors of one blob: the newer push wins, except that the earliest creation time stays, so that a
/// re-export with a new time for an old layer does not change the view.
fn merge(known: &mut Cow<Descriptor>, newer: &Descriptor) {
    let known = known.to_mut();
    known.media_type.clone_from(&newer.media_type);
    known.size = newer.size;
    known.urls.clone_from(&newer.urls);
    for (key, value) in newer.annotations.iter().filter(|(key, _)| !is_source(key)) {
        match known.annotations.get_mut(key) {
            Some(old) if key == CREATED_AT && age(old) <= age(value) => {}
            Some(old) => old.clone_from(value),
            None => drop(known.annotations.insert(key.clone(), value.clone())),
        }
    }
}

/// Sort key of a creation time; texts that are no time come last.
fn age(text: &str) -> (Timestamp, &str) {
    match text.parse() {
        Ok(instant) => (instant, ""),
        Err(_) => (Timestamp::MAX, text),
    }
}

/// The layers of one push, resolved to chains.
pub struct PushLayers<'l, 'a> {
    layers: &'l mut Layers<'a>,
    config: &'l CacheConfig,
    /// For each blob whether this push's manifest contains it. The importer does not find others.
    named: Vec<bool>,
    /// For each layer of the config its chain, once resolved; the inner `None` is a chain with a layer that cannot be
    /// used.
    known: Vec<Option<Option<ChainId>>>,
}

impl PushLayers<'_, '_> {
    /// The chain of a result, or `None` if one of its layers cannot be served and loaded, or it has none.
    pub fn chain(&mut self, stack: &Stack) -> Option<(ChainId, ContentId)> {
        let chain = match stack {
            Stack::Top(top) => self.resolve(*top),
            Stack::Listed(listed) => {
                listed.iter().try_fold(None, |below, &layer| Some(Some(self.link(below, layer)?))).flatten()
            }
        }?;
        Some((chain, self.layers.chains[chain as usize].content))
    }

    fn resolve(&mut self, top: u32) -> Option<ChainId> {
        let mut unresolved = Vec::new();
        let mut at = Some(top);
        let mut below = Some(None);
        while let Some(layer) = at {
            if let Some(known) = self.known[layer as usize] {
                below = known.map(Some);
                break;
            }
            unresolved.push(layer);
            at = self.config.layers[layer as usize].parent;
        }
        for layer in unresolved.into_iter().rev() {
            let chain = below.and_then(|below| self.link(below, layer));
            self.known[layer as usize] = Some(chain);
            below = chain.map(Some);
        }
        below.flatten()
    }

    fn link(&mut self, below: Option<ChainId>, layer: u32) -> Option<ChainId> {
        let digest = self.config.layers[layer as usize].blob?;
        let blob = *self.layers.by_digest.get(&digest)?;
        if !self.named[blob as usize] {
            return None;
        }
        self.layers.link(below, blob)
    }
}
