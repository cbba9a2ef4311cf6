//! Repairs of the findings of a check.
//!
//! Invariant: a repair never deletes content that might be in use. Wrong bytes are noted, not moved (see
//! [`crate::content::quarantine`]); an object with missing references is deleted only if it is old, because a push
//! writes content before references, and if it still has the problem while no other request writes references. That is
//! certain on files, which have one owner; in a bucket, other servers write too, and a tag that one of them overwrites
//! in the moment between the last look and the delete is lost with it.

use std::time::Duration;

use bytes::Bytes;

use crate::calls::{Calls, json};
use crate::check::look::{IN_FLIGHT, Look, WalkFacts};
use crate::check::problem::{Finding, Problem};
use crate::deadline::Deadline;
use crate::digest::Digest;
use crate::error::Result;
use crate::layout;
use crate::layout::{Place, RepoItem};
use crate::objects::{Key, Meta};
use crate::oci::ManifestContent;
use crate::refs::Refs;
use crate::refs::pointer::Pointer;
use crate::refs::referrers::Referrer;

/// Repairs a finding, if that is possible. Returns what was done.
pub(super) async fn repair(refs: &Refs, look: &Look<'_>, finding: &Finding) -> Result<Option<&'static str>> {
    let key = &finding.key;
    let repair = Repair { refs, look, finding };
    match (&finding.problem, layout::parse(key.as_str())) {
        (Problem::WrongBytes, _) => repair.quarantine().await,
        (
            Problem::Missing(_) | Problem::Unreadable(_),
            Some(Place::Repo { item: RepoItem::Tag(tag), tenant, repo }),
        ) => {
            // The tag still serves its other pushes.
            let others = layout::pushes_prefix(&tenant, &repo, &tag);
            if refs.content().calls(Deadline::of_each_call()).list(&others).await?.is_empty() {
                repair.withdraw().await
            } else {
                Ok(None)
            }
        }
        (
            Problem::Missing(_) | Problem::Unreadable(_) | Problem::ReferrerDiffers,
            Some(Place::Repo { item: RepoItem::Push(..) | RepoItem::Referrer { .. } | RepoItem::Entry(..), .. }),
        ) => repair.withdraw().await,
        (Problem::TagDiffers { .. }, Some(Place::Repo { tenant, repo, .. })) => {
            let _alone = refs.alone().await;
            let Some((_, bytes)) = repair.read(key).await? else { return Ok(None) };
            let Ok(mut pointer) = serde_json::from_slice::<Pointer>(&bytes) else { return Ok(None) };
            let manifest = repair.read(&layout::manifest(&tenant, &repo, &pointer.digest)).await?;
            let fits = |bytes: &Bytes| Digest::of(pointer.digest.algorithm(), bytes) == pointer.digest;
            let Some((_, manifest)) = manifest.filter(|(_, bytes)| fits(bytes)) else { return Ok(None) };
            pointer.media_type = ManifestContent::parse(&manifest, None)?.media_type.to_string();
            pointer.size = manifest.len() as u64;
            repair.write(key, &pointer).await
        }
        (Problem::ReferrerMissing(entry), Some(Place::Repo { item: RepoItem::Manifest(digest), .. })) => {
            let _alone = refs.alone().await;
            let Some((_, bytes)) = repair.read(key).await? else { return Ok(None) };
            let parsed = ManifestContent::parse(&bytes, None)?;
            repair.write(entry, &Referrer::of(&digest, bytes.len() as u64, &parsed)).await
        }
        (Problem::Orphan, Some(Place::Repo { item: RepoItem::Push(tag, _), tenant, repo })) => {
            let _alone = refs.alone().await;
            let is_orphan = refs
                .content()
                .calls(Deadline::of_each_call())
                .head(&layout::tag(&tenant, &repo, &tag))
                .await?
                .is_none();
            if is_orphan { repair.delete_old(IN_FLIGHT).await } else { Ok(None) }
        }
        (Problem::Leftover, _) => repair.delete_old(refs.config().limits.upload_idle.get()).await,
        (Problem::StaleQuarantine, _) => repair.delete().await,
        // To be pushed again, or deleted by an operator who knows what it is.
        _ => Ok(None),
    }
}

struct Repair<'a> {
    refs: &'a Refs,
    look: &'a Look<'a>,
    finding: &'a Finding,
}

impl Repair<'_> {
    async fn read(&self, key: &Key) -> Result<Option<(Meta, Bytes)>> {
        Calls::of(&**self.refs.objects()).read(key).await
    }

    async fn head(&self) -> Result<Option<Meta>> {
        Calls::of(&**self.refs.objects()).head(&self.finding.key).await
    }

    async fn quarantine(&self) -> Result<Option<&'static str>> {
        match self.head().await? {
            Some(meta) if self.finding.version.as_ref() == Some(&meta.version) => {
                self.refs.content().record(&meta, false).await;
                self.refs.content().forget(&meta.key);
                Ok(Some("put into quarantine"))
            }
            _ => Ok(None),
        }
    }

    /// Deletes a reference that is old and still has the problem.
    async fn withdraw(&self) -> Result<Option<&'static str>> {
        let _alone = self.refs.alone().await;
        let Some(meta) = self.head().await? else { return Ok(None) };
        let again = self.look.object(meta, WalkFacts::default()).await?;
        if again.iter().any(|again| again.problem == self.finding.problem) {
            self.delete_old(IN_FLIGHT).await
        } else {
            Ok(None)
        }
    }

    async fn delete_old(&self, age: Duration) -> Result<Option<&'static str>> {
        match self.head().await? {
            Some(meta) if self.look.is_older(meta.modified, age) => self.delete().await,
            _ => Ok(None),
        }
    }

    async fn delete(&self) -> Result<Option<&'static str>> {
        let key = &self.finding.key;
        tracing::warn!(%key, problem = %self.finding.problem, "check deletes an object");
        self.refs.content().delete(std::slice::from_ref(key), Deadline::of_each_call()).await?;
        self.refs.pointers().forget(key);
        Ok(Some("deleted"))
    }

    async fn write(&self, key: &Key, content: &impl serde::Serialize) -> Result<Option<&'static str>> {
        self.refs.content().put(key, json(content)?, Deadline::of_each_call()).await?;
        self.refs.pointers().forget(key);
        Ok(Some("written again"))
    }
}
