//! Inspection: the contents of a tag, for display.

use std::sync::Arc;

use futures::FutureExt;

use super::found::{InspectedPush, Inspection};
use super::image::images;
use super::kind::{Alone, ServedKind, alone};
use super::service::Caches;
use crate::buildkit::IMPORT_LIMIT_BYTES;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::names::Tag;
use crate::refs::Repo;

/// Manifests of an index that are read to tell its kind.
const CHILDREN_MAX: usize = 8;

impl Caches {
    /// Inspects a tag. Its view is made again for the explanation; the result is kept until the tag or its view
    /// changes.
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
        let kind = if is_cache { ServedKind::Cache } else { self.kind_of(repo, &served.digest).await? };
        let images = match kind {
            ServedKind::Image | ServedKind::ImageIndex => images(self, repo, &served.digest).await?,
            _ => Vec::new(),
        };
        let explanation = united.and_then(|united| united.view).map(|(view, _)| view.explanation);
        let explanation = explanation.filter(|_| repo.has_views());
        let limit_bytes = explanation.is_some().then_some(IMPORT_LIMIT_BYTES);
        let found = Arc::new(Inspection {
            repo: repo.name().to_string(),
            tag: tag.to_string(),
            pushed: pointer.pushed,
            is_view: served.digest != pointer.digest,
            served,
            kind: Some(kind),
            pushes,
            images,
            limit_bytes,
            explanation,
        });
        self.views().insert_inspected(key, version.clone(), found.clone());
        Ok(found)
    }
}

impl Caches {
    /// The kind of a manifest. For an index, its first few manifests decide.
    pub(super) async fn kind_of(&self, repo: &Repo, digest: &Digest) -> Result<ServedKind> {
        let children = match self.alone(repo, digest).await? {
            Some(Alone::Kind(kind)) => return Ok(kind),
            Some(Alone::IndexOf(children)) => children,
            None => return Ok(ServedKind::Artifact(None)),
        };
        let mut caches = 0;
        for child in children.iter().take(CHILDREN_MAX) {
            match self.alone(repo, child).await? {
                Some(Alone::Kind(ServedKind::Cache)) => caches += 1,
                // The child may be stored elsewhere.
                None => {}
                Some(_) => return Ok(ServedKind::ImageIndex),
            }
        }
        Ok(if caches > 0 { ServedKind::CacheIndex } else { ServedKind::ImageIndex })
    }

    async fn alone(&self, repo: &Repo, digest: &Digest) -> Result<Option<Alone>> {
        let Some(bytes) = repo.manifest_bytes(digest).await? else { return Ok(None) };
        self.parse_manifest(repo, bytes.len(), move || alone(&bytes)).await.map(Some)
    }
}
