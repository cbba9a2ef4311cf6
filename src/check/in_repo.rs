//! A look at what is in a repository: what it names, and what is said of it.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};

use serde::Deserialize;

use crate::check::look::{Look, ManifestFact, WalkFacts, json, text};
use crate::check::problem::{Finding, Problem};
use crate::digest::Digest;
use crate::error::Result;
use crate::layout;
use crate::layout::EntryName;
use crate::names::{RepoName, Tenant};
use crate::objects::Key;
use crate::oci::ManifestContent;
use crate::refs::entries::{EntryBlob, EntryRecord};
use crate::refs::pointer::Pointer;
use crate::refs::referrers::Referrer;

/// What of a view's hint is checked.
#[derive(Deserialize)]
struct StoredViewFacts {
    needed: Vec<Digest>,
    view: Option<ServedDigest>,
}

#[derive(Deserialize)]
struct ServedDigest {
    digest: Digest,
}

/// A look at what is in a repository.
pub(super) struct At<'a> {
    pub look: &'a Look<'a>,
    pub key: &'a Key,
    pub tenant: &'a Tenant,
    pub repo: &'a RepoName,
    pub known: &'a WalkFacts,
}

impl At<'_> {
    fn found(&self, problem: Problem) -> Vec<Finding> {
        vec![Finding::new(self.key, problem)]
    }

    pub(super) async fn manifest(&self, digest: &Digest) -> Result<Vec<Finding>> {
        let Some((version, bytes)) = self.look.read_with_version(self.key).await? else { return Ok(Vec::new()) };
        if self.look.wrong.get(self.key) == Some(&version) {
            return Ok(Vec::new());
        }
        if crate::digest::hash(digest.algorithm(), bytes.clone()).await? != *digest {
            return Ok(vec![Finding { version: Some(version), ..Finding::new(self.key, Problem::WrongBytes) }]);
        }
        let parsed = match ManifestContent::parse(&bytes, None) {
            Ok(parsed) => parsed,
            Err(error) => return Ok(self.found(text(error))),
        };
        let fact = ManifestFact { media_type: parsed.media_type, subject: parsed.subject };
        self.facts().insert(*digest, fact);
        let mut found = Vec::new();
        if let Some(subject) = &parsed.subject {
            let entry = layout::referrer(self.tenant, self.repo, subject, digest);
            if self.look.head(&entry).await?.is_none() {
                found.extend(self.found(Problem::ReferrerMissing(entry)));
            }
        }
        let (sparse, views) = self
            .look
            .config
            .with_rule(self.repo, |rule| (rule.is_some_and(|rule| rule.sparse), rule.is_none_or(|rule| rule.views)));
        if sparse && !parsed.cache {
            return Ok(found);
        }
        let views = parsed.cache && views;
        found.extend(self.blobs_of(&parsed, views).await?);
        for child in &parsed.children {
            found.extend(self.missing_manifest(child).await?);
        }
        Ok(found)
    }

    /// What a scope names may be its parents', which may let it go: the key does not say who they are.
    async fn blobs_of(&self, parsed: &ManifestContent, views: bool) -> Result<Vec<Finding>> {
        let (mut found, mut gone) = (Vec::new(), 0);
        for (digest, said) in parsed.blobs.iter().zip(&parsed.sizes) {
            let key = layout::blob(self.tenant, digest);
            match self.look.size_of(&key, digest, self.known).await? {
                // Evicted: what serves the tag leaves it out. Without its config a push is nothing.
                None if self.tenant.is_scope() => {}
                None if views && parsed.config != Some(*digest) => gone += 1,
                None => found.extend(self.found(Problem::Missing(key))),
                // The manifest lies, or the blob was cut: its bytes tell.
                Some(size) if size != *said && !self.look.reads_blobs() => {
                    found.extend(self.look.blob(&key, digest).await?);
                }
                Some(_) => {}
            }
        }
        if gone > 0 {
            found.extend(self.found(Problem::LayersGone(gone)));
        }
        Ok(found)
    }

    fn facts(&self) -> MutexGuard<'_, HashMap<Digest, ManifestFact>> {
        self.known.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn manifest_key(&self, digest: &Digest) -> Key {
        layout::manifest(self.tenant, self.repo, digest)
    }

    /// Bytes of a manifest of the repository; nothing when it is not there.
    async fn size_of_manifest(&self, digest: &Digest) -> Result<Option<u64>> {
        match self.known.manifests.as_ref().and_then(|known| known.get(digest)) {
            Some(size) => Ok(Some(*size)),
            None => Ok(self.look.head(&self.manifest_key(digest)).await?.map(|meta| meta.size)),
        }
    }

    pub(super) async fn missing_manifest(&self, digest: &Digest) -> Result<Vec<Finding>> {
        match self.size_of_manifest(digest).await? {
            None if self.tenant.is_scope() => Ok(Vec::new()),
            Some(_) => Ok(Vec::new()),
            None => Ok(self.found(Problem::Missing(self.manifest_key(digest)))),
        }
    }

    /// What a manifest is; nothing when it cannot be told, or not be trusted.
    async fn fact(&self, digest: &Digest) -> Result<Option<ManifestFact>> {
        let known = self.facts().get(digest).copied();
        if known.is_some() {
            return Ok(known);
        }
        let Some(bytes) = self.look.read(&self.manifest_key(digest)).await? else { return Ok(None) };
        let parsed = (Digest::of(digest.algorithm(), &bytes) == *digest)
            .then(|| ManifestContent::parse(&bytes, None).ok())
            .flatten();
        Ok(parsed.map(|parsed| ManifestFact { media_type: parsed.media_type, subject: parsed.subject }))
    }

    pub(super) async fn tag(&self) -> Result<Vec<Finding>> {
        let Some(bytes) = self.look.read(self.key).await? else { return Ok(Vec::new()) };
        let pointer: Pointer = match json(&bytes) {
            Ok(pointer) => pointer,
            Err(problem) => return Ok(self.found(problem)),
        };
        let missing = self.missing_manifest(&pointer.digest).await?;
        if !missing.is_empty() {
            return Ok(missing);
        }
        let Some(fact) = self.fact(&pointer.digest).await? else { return Ok(Vec::new()) };
        let size = self.size_of_manifest(&pointer.digest).await?.unwrap_or(pointer.size);
        let (said, is) = ((&*pointer.media_type, pointer.size), (fact.media_type, size));
        let shown = |(media_type, size): (&str, u64)| format!("{media_type} of {size} bytes");
        if said == is {
            Ok(Vec::new())
        } else {
            Ok(self.found(Problem::TagDiffers { said: shown(said), is: shown(is) }))
        }
    }

    pub(super) async fn referrer(&self, subject: &Digest, digest: &Digest) -> Result<Vec<Finding>> {
        let Some(bytes) = self.look.read(self.key).await? else { return Ok(Vec::new()) };
        let referrer: Referrer = match json(&bytes) {
            Ok(referrer) => referrer,
            Err(problem) => return Ok(self.found(problem)),
        };
        let missing = self.missing_manifest(digest).await?;
        if !missing.is_empty() {
            return Ok(missing);
        }
        let fact = self.fact(digest).await?;
        let fits = referrer.digest == *digest && fact.is_none_or(|fact| fact.subject == Some(*subject));
        Ok(if fits { Vec::new() } else { self.found(Problem::ReferrerDiffers) })
    }

    /// The record of an entry.
    pub(super) async fn entry(&self, name: &EntryName) -> Result<Vec<Finding>> {
        let Some(bytes) = self.look.read(self.key).await? else { return Ok(Vec::new()) };
        let record: EntryRecord = match json(&bytes) {
            Ok(record) => record,
            Err(problem) => return Ok(self.found(problem)),
        };
        if !name.is_of(&record.key) {
            return Ok(self.found(text("it belongs to another key")));
        }
        let mut found = Vec::new();
        for EntryBlob { digest, size: said } in &record.blobs {
            let key = layout::blob(self.tenant, digest);
            match self.look.size_of(&key, digest, self.known).await? {
                None => found.extend(self.found(Problem::Missing(key))),
                Some(size) if size != *said && !self.look.reads_blobs() => {
                    found.extend(self.look.blob(&key, digest).await?);
                }
                Some(_) => {}
            }
        }
        Ok(found)
    }

    pub(super) async fn hint(&self) -> Result<Vec<Finding>> {
        let Some(bytes) = self.look.read(self.key).await? else { return Ok(Vec::new()) };
        let Ok(hint) = serde_json::from_slice::<StoredViewFacts>(&bytes) else {
            return Ok(self.found(Problem::UnreadableHint));
        };
        if self.tenant.is_scope() {
            return Ok(Vec::new());
        }
        if let Some(view) = &hint.view
            && self.size_of_manifest(&view.digest).await?.is_none()
        {
            return Ok(self.found(Problem::StaleHint(self.manifest_key(&view.digest))));
        }
        for digest in &hint.needed {
            let key = layout::blob(self.tenant, digest);
            if self.look.size_of(&key, digest, self.known).await?.is_none() {
                return Ok(self.found(Problem::StaleHint(key)));
            }
        }
        Ok(Vec::new())
    }
}
