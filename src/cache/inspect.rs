//! What a tag is made of, for people.

use std::sync::Arc;

use futures::FutureExt;
use serde::{Deserialize, Serialize};

use super::service::Caches;
use crate::buildkit::{Explanation, IMPORT_LIMIT_BYTES, Push};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::names::Tag;
use crate::refs::Repo;
use crate::refs::pushes::LivePush;
use crate::refs::stored_view::Served;

impl Caches {
    /// What a tag is made of. Made anew so that it can be explained, and kept until the tag or what it serves changes.
    pub async fn inspect(&self, repo: &Repo, tag: &Tag) -> Result<Arc<Inspection>> {
        let unknown = || Error::ManifestUnknown(tag.to_string());
        let Some(sources) = repo.tag_sources(tag).await? else {
            let parent = repo.parent().ok_or_else(unknown)?;
            return Box::pin(self.inspect(&parent, tag)).await;
        };
        let pointer = &sources.at.pointer;
        let served = self.shown(repo, tag).await?.ok_or_else(unknown)?;
        let (key, version) = (repo.tag_key(tag), &sources.at.version);
        let _turn = repo.deadline().bound(self.views().look_turn(&key).lock().map(Ok)).await?;
        if let Some(known) = self.views().inspected(&key, version, &served.digest) {
            return Ok(known);
        }
        let is_cache = pointer.push.is_some();
        let live = if is_cache { sources.pushes(repo, tag).await? } else { Vec::new() };
        let pin = repo.content().pin(repo.deadline()).await?;
        let memory = self.memory_to_look(repo, self.memory_of(repo, &live).await?).await?;
        let united = if is_cache { Some(self.united(&pin, repo, &live, None).await?) } else { None };
        let loaded = united.as_ref().map_or(&[][..], |united| &united.pushes);
        let pushes = live.iter().map(|push| {
            let found = loaded.iter().find(|(id, _)| *id == push.id);
            InspectedPush::of(push, found.map(|(_, push)| &**push))
        });
        let pushes = pushes.collect();
        drop(memory);
        let explanation = united.and_then(|united| united.view).map(|(view, _)| view.explanation);
        let explanation = explanation.filter(|_| repo.has_views());
        let limit_bytes = explanation.is_some().then_some(IMPORT_LIMIT_BYTES);
        let found = Arc::new(Inspection {
            repo: repo.name().to_string(),
            tag: tag.to_string(),
            pushed: pointer.pushed,
            is_view: served.digest != pointer.digest,
            served,
            pushes,
            limit_bytes,
            explanation,
        });
        self.views().insert_inspected(key, version.clone(), found.clone());
        Ok(found)
    }
}

/// What a tag is made of, for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InspectedPush {
    pub manifest: Digest,
    pub at: jiff::Timestamp,
    pub manifest_bytes: u64,
    pub config_bytes: u64,
    /// Sum of the layers, each counted once.
    pub layer_bytes: u64,
    pub records: usize,
    pub layers: usize,
    /// Why the push is not part of the view.
    pub error: Option<String>,
}

impl InspectedPush {
    fn of(live: &LivePush, push: Option<&Push>) -> InspectedPush {
        let at = jiff::Timestamp::try_from(live.at).unwrap_or_default();
        let empty = InspectedPush {
            manifest: live.id.manifest,
            at,
            manifest_bytes: 0,
            config_bytes: 0,
            layer_bytes: 0,
            records: 0,
            layers: 0,
            error: Some("it is gone, or more than can be united".to_string()),
        };
        let Some(push) = push else { return empty };
        let mut layers: Vec<_> = push.manifest.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
        layers.sort_unstable();
        layers.dedup();
        InspectedPush {
            manifest_bytes: push.manifest.bytes,
            config_bytes: push.manifest.config.size,
            layer_bytes: layers.iter().fold(0, |sum, (_, size)| size.saturating_add(sum)),
            records: push.config.as_ref().map_or(0, |config| config.records.len()),
            layers: layers.len(),
            error: push.config.as_ref().err().map(|error| error.to_string()),
            ..empty
        }
    }
}
