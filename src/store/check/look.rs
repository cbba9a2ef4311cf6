//! A look at one object.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::layout::{self, Place, RepoItem, UploadItem};
use super::super::manifests::Parsed;
use super::super::patience::patiently;
use super::super::referrers::Referrer;
use super::super::tags::Pointer;
use super::super::{Result, format, uploads};
use super::Depth;
use super::problem::{Finding, Problem};
use crate::config::Config;
use crate::digest::{Digest, Hasher};
use crate::names::{RepoName, Tenant, UploadId};
use crate::objects::{self, Key, Meta, Objects, Read, Unfinished, Version};

/// What was begun so long ago is not under way any more.
const BEGUN_MAX: Duration = Duration::from_secs(24 * 3600);

/// The blobs of a tenant: 40 bytes for each, in the order of the listing.
#[derive(Default)]
pub(super) struct Blobs {
    short: Vec<([u8; 32], u64)>,
    long: HashMap<Digest, u64>,
}

impl Blobs {
    pub(super) fn add(&mut self, digest: Digest, size: u64) {
        match digest {
            Digest::Sha256(bytes) => self.short.push((bytes, size)),
            Digest::Sha512(_) => drop(self.long.insert(digest, size)),
        }
    }

    /// Bytes of a blob that was listed.
    fn size(&self, digest: &Digest) -> Option<u64> {
        match digest {
            Digest::Sha256(bytes) => {
                let at = self.short.binary_search_by(|(known, _)| known.cmp(bytes)).ok()?;
                self.short.get(at).map(|(_, size)| *size)
            }
            Digest::Sha512(_) => self.long.get(digest).copied(),
        }
    }
}

/// What a manifest was found to be.
#[derive(Clone, Copy)]
pub(super) struct Fact {
    media_type: &'static str,
    subject: Option<Digest>,
}

/// What the walk has seen, where there is one. What is not known is asked of the backend.
#[derive(Clone, Default)]
pub(super) struct Known {
    pub blobs: Option<Arc<Blobs>>,
    /// Manifests of the repository, and their bytes.
    pub manifests: Option<Arc<HashMap<Digest, u64>>>,
    pub facts: Arc<Mutex<HashMap<Digest, Fact>>>,
}

/// What every look needs.
#[derive(Clone, Copy)]
pub(super) struct Look<'a> {
    pub objects: &'a dyn Objects,
    pub config: &'a Config,
    pub depth: Depth,
    pub wrong: &'a HashMap<Key, Version>,
    pub bytes: &'a AtomicU64,
    pub now: SystemTime,
}

/// What of a view's hint is checked.
#[derive(Deserialize)]
struct Hint {
    needed: Vec<Digest>,
    view: Option<Served>,
}

#[derive(Deserialize)]
struct Served {
    digest: Digest,
}

impl Look<'_> {
    pub(super) fn reads_blobs(&self) -> bool {
        self.depth == Depth::Bytes
    }

    pub(super) async fn object(&self, meta: Meta, known: Known) -> Result<Vec<Finding>> {
        let key = &meta.key;
        match layout::parse(key.as_str()) {
            None => Ok(vec![Finding::new(key, Problem::UnknownKey)]),
            Some(Place::Format) => self.content(key, |bytes| format::is_format(bytes).map_err(text)).await,
            Some(Place::Blob { digest, .. }) => self.blob(key, &digest).await,
            Some(Place::Repo { tenant, repo, item }) => self.item(key, &tenant, &repo, item, &known).await,
            Some(Place::Quarantine(of)) => self.note(key, &of).await,
            Some(Place::Upload { tenant, id, item: UploadItem::State }) => {
                self.upload(&tenant, &id, Some(meta), Vec::new()).await
            }
            Some(Place::Upload { item: UploadItem::Part { .. }, .. }) => Ok(Vec::new()),
        }
    }

    async fn item(&self, key: &Key, tenant: &Tenant, repo: &RepoName, item: RepoItem, known: &Known) -> Result<Vec<Finding>> {
        let at = At { look: self, key, tenant, repo, known };
        match item {
            RepoItem::Manifest(digest) => at.manifest(&digest).await,
            RepoItem::Tag(_) => at.tag().await,
            RepoItem::Referrer { subject, manifest } => at.referrer(&subject, &manifest).await,
            RepoItem::Push(_, id) => {
                let mut found = self.content(key, |bytes| json::<IgnoredAny>(bytes).map(drop)).await?;
                found.extend(at.missing_manifest(&id.manifest).await?);
                Ok(found)
            }
            RepoItem::View(_) => at.hint().await,
            RepoItem::Used(_) => {
                let found = self.content(key, |bytes| json::<IgnoredAny>(bytes).map(drop)).await?;
                Ok(found.into_iter().map(|finding| Finding { problem: Problem::UnreadableHint, ..finding }).collect())
            }
        }
    }

    async fn read(&self, key: &Key) -> Result<Option<Bytes>> {
        Ok(self.read_with_version(key).await?.map(|(_, bytes)| bytes))
    }

    async fn read_with_version(&self, key: &Key) -> Result<Option<(Version, Bytes)>> {
        match patiently(|| self.objects.read(key, None)).await {
            Ok(Read::Fresh(meta, bytes)) => Ok(Some((meta.version, bytes))),
            // Gone since it was listed.
            Ok(Read::Same) | Err(objects::Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads an object and reports what cannot be made of it.
    async fn content(&self, key: &Key, parse: impl FnOnce(&[u8]) -> std::result::Result<(), Problem>) -> Result<Vec<Finding>> {
        let Some(bytes) = self.read(key).await? else { return Ok(Vec::new()) };
        Ok(parse(&bytes).err().map(|problem| Finding::new(key, problem)).into_iter().collect())
    }

    /// What is known of an object that is there and not noted as wrong.
    async fn head(&self, key: &Key) -> Result<Option<Meta>> {
        match patiently(|| self.objects.head(key)).await {
            Ok(meta) if self.wrong.get(key) == Some(&meta.version) => Ok(None),
            Ok(meta) => Ok(Some(meta)),
            Err(objects::Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes of a blob; nothing when it is not there.
    async fn size_of(&self, key: &Key, digest: &Digest, known: &Known) -> Result<Option<u64>> {
        if let Some(size) = known.blobs.as_ref().and_then(|blobs| blobs.size(digest))
            && !self.wrong.contains_key(key)
        {
            return Ok(Some(size));
        }
        Ok(self.head(key).await?.map(|meta| meta.size))
    }

    async fn blob(&self, key: &Key, digest: &Digest) -> Result<Vec<Finding>> {
        let (meta, mut bytes) = match self.objects.get(key, 0..u64::MAX).await {
            Ok(opened) => opened,
            Err(objects::Error::NotFound) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        if self.wrong.get(key) == Some(&meta.version) {
            // Said of its note already.
            return Ok(Vec::new());
        }
        let mut hasher = Hasher::new(digest.algorithm());
        while let Some(piece) = bytes.try_next().await? {
            self.bytes.fetch_add(piece.len() as u64, Relaxed);
            hasher = tokio::task::spawn_blocking(move || {
                hasher.update(&piece);
                hasher
            })
            .await?;
        }
        if hasher.finish() == *digest {
            return Ok(Vec::new());
        }
        Ok(vec![Finding { version: Some(meta.version), ..Finding::new(key, Problem::WrongBytes) }])
    }

    async fn note(&self, key: &Key, of: &Key) -> Result<Vec<Finding>> {
        match (patiently(|| self.objects.head(of)).await, self.wrong.get(of)) {
            (Ok(meta), Some(version)) if meta.version == *version => Ok(vec![Finding::new(of, Problem::Quarantined)]),
            (Ok(_), _) | (Err(objects::Error::NotFound), _) => Ok(vec![Finding::new(key, Problem::StaleQuarantine)]),
            (Err(error), _) => Err(error.into()),
        }
    }

    /// A chunked upload: its state, and the parts that there are.
    pub(super) async fn upload(
        &self,
        tenant: &Tenant,
        id: &UploadId,
        state: Option<Meta>,
        parts: Vec<Meta>,
    ) -> Result<Vec<Finding>> {
        let (mut found, mut named) = (Vec::new(), Vec::new());
        if let Some(state) = state
            && let Some(bytes) = self.read(&state.key).await?
        {
            match uploads::parts_of(&bytes, tenant, id) {
                Ok(keys) => named = keys,
                Err(error) => return Ok(vec![Finding::new(&state.key, text(error))]),
            }
            for key in named.iter().filter(|key| !parts.iter().any(|part| part.key == **key)) {
                // Sealed or cancelled meanwhile, both are gone.
                if self.head(key).await?.is_none() && self.head(&state.key).await?.is_some() {
                    found.push(Finding::new(&state.key, Problem::Missing(key.clone())));
                }
            }
        }
        let idle = self.config.limits.upload_idle.get();
        let strays = parts.iter().filter(|part| !named.contains(&part.key) && self.is_older(part.modified, idle));
        found.extend(strays.map(|part| Finding::new(&part.key, Problem::Leftover)));
        Ok(found)
    }

    pub(super) fn is_older(&self, at: SystemTime, age: Duration) -> bool {
        self.now.duration_since(at).is_ok_and(|old| old > age)
    }

    /// What the backend has begun and will not finish.
    pub(super) async fn unfinished(&self) -> Result<Vec<Finding>> {
        let left = self.objects.unfinished().await?.into_iter();
        let left = left.filter(|left: &Unfinished| self.is_older(left.since, BEGUN_MAX));
        Ok(left.map(|left| Finding::new(&Key::new(left.name), Problem::HalfWritten)).collect())
    }
}

/// A look at what is in a repository.
struct At<'a> {
    look: &'a Look<'a>,
    key: &'a Key,
    tenant: &'a Tenant,
    repo: &'a RepoName,
    known: &'a Known,
}

impl At<'_> {
    fn found(&self, problem: Problem) -> Vec<Finding> {
        vec![Finding::new(self.key, problem)]
    }

    async fn manifest(&self, digest: &Digest) -> Result<Vec<Finding>> {
        let Some((version, bytes)) = self.look.read_with_version(self.key).await? else { return Ok(Vec::new()) };
        if self.look.wrong.get(self.key) == Some(&version) {
            return Ok(Vec::new());
        }
        if super::super::hash(digest.algorithm(), bytes.clone()).await? != *digest {
            return Ok(vec![Finding { version: Some(version), ..Finding::new(self.key, Problem::WrongBytes) }]);
        }
        let parsed = match Parsed::parse(&bytes, None) {
            Ok(parsed) => parsed,
            Err(error) => return Ok(self.found(text(error))),
        };
        let fact = Fact { media_type: parsed.media_type, subject: parsed.subject };
        self.facts().insert(*digest, fact);
        let mut found = Vec::new();
        if let Some(subject) = &parsed.subject {
            let entry = layout::referrer(self.tenant, self.repo, subject, digest);
            if self.look.head(&entry).await?.is_none() {
                found.extend(self.found(Problem::ReferrerMissing(entry)));
            }
        }
        let rule = self.look.config.rule(self.repo);
        if rule.is_some_and(|rule| rule.sparse) && !parsed.cache {
            return Ok(found);
        }
        let views = parsed.cache && rule.is_none_or(|rule| rule.views);
        found.extend(self.blobs_of(&parsed, views).await?);
        for child in &parsed.children {
            found.extend(self.missing_manifest(child).await?);
        }
        Ok(found)
    }

    async fn blobs_of(&self, parsed: &Parsed, views: bool) -> Result<Vec<Finding>> {
        let (mut found, mut gone) = (Vec::new(), 0);
        for (digest, said) in parsed.blobs.iter().zip(&parsed.sizes) {
            let key = layout::blob(self.tenant, digest);
            match self.look.size_of(&key, digest, self.known).await? {
                // Evicted: what serves the tag leaves it out. Without its config a push is nothing.
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

    fn facts(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Fact>> {
        self.known.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn manifest_key(&self, digest: &Digest) -> Key {
        layout::manifest(self.tenant, self.repo, digest)
    }

    /// Bytes of a manifest of the repository; nothing when it is not there.
    async fn size_of_manifest(&self, digest: &Digest) -> Result<Option<u64>> {
        let key = self.manifest_key(digest);
        match self.known.manifests.as_ref().and_then(|known| known.get(digest)) {
            Some(size) if !self.look.wrong.contains_key(&key) => Ok(Some(*size)),
            _ => Ok(self.look.head(&key).await?.map(|meta| meta.size)),
        }
    }

    async fn missing_manifest(&self, digest: &Digest) -> Result<Vec<Finding>> {
        match self.size_of_manifest(digest).await? {
            Some(_) => Ok(Vec::new()),
            None => Ok(self.found(Problem::Missing(self.manifest_key(digest)))),
        }
    }

    /// What a manifest is; nothing when it cannot be told, or not be trusted.
    async fn fact(&self, digest: &Digest) -> Result<Option<Fact>> {
        let known = self.facts().get(digest).copied();
        if known.is_some() {
            return Ok(known);
        }
        let Some(bytes) = self.look.read(&self.manifest_key(digest)).await? else { return Ok(None) };
        let parsed = (Digest::of(digest.algorithm(), &bytes) == *digest).then(|| Parsed::parse(&bytes, None).ok()).flatten();
        Ok(parsed.map(|parsed| Fact { media_type: parsed.media_type, subject: parsed.subject }))
    }

    async fn tag(&self) -> Result<Vec<Finding>> {
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
        if said == is { Ok(Vec::new()) } else { Ok(self.found(Problem::TagDiffers { said: shown(said), is: shown(is) })) }
    }

    async fn referrer(&self, subject: &Digest, digest: &Digest) -> Result<Vec<Finding>> {
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

    async fn hint(&self) -> Result<Vec<Finding>> {
        let Some(bytes) = self.look.read(self.key).await? else { return Ok(Vec::new()) };
        let Ok(hint) = serde_json::from_slice::<Hint>(&bytes) else { return Ok(self.found(Problem::UnreadableHint)) };
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

fn json<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> std::result::Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(text)
}

fn text(error: impl fmt::Display) -> Problem {
    Problem::Unreadable(error.to_string())
}
