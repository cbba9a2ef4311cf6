//! Checks of one object.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::calls::Calls;
use crate::check::Depth;
use crate::check::in_repo::At;
use crate::check::problem::{Finding, Problem};
use crate::config::Config;
use crate::content::{condemned, staging};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::layout;
use crate::layout::{BatchItem, EntryItem, Place, RepoItem, UploadItem};
use crate::meta::format;
use crate::names::{RepoName, Tenant, UploadId};
use crate::objects;
use crate::objects::{Key, Meta, Objects, Unfinished, Version};

/// Age from which an unfinished write is not in flight any more.
const BEGUN_MAX: Duration = Duration::from_secs(24 * 3600);
/// Age up to which an object may be of a push in flight.
pub(super) const IN_FLIGHT: Duration = Duration::from_secs(3600);

/// The sizes of a tenant's blobs, in the order of the listing: 40 bytes of memory for each.
#[derive(Default)]
pub(super) struct BlobSizes {
    short: Vec<([u8; 32], u64)>,
    long: HashMap<Digest, u64>,
}

impl BlobSizes {
    pub(super) fn add(&mut self, digest: Digest, size: u64) {
        match digest {
            Digest::Sha256(bytes) => self.short.push((bytes, size)),
            Digest::Sha512(_) => drop(self.long.insert(digest, size)),
        }
    }

    /// Size in bytes of a listed blob.
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

/// Facts about a manifest.
#[derive(Clone, Copy)]
pub(super) struct ManifestFact {
    pub media_type: &'static str,
    pub subject: Option<Digest>,
}

/// Facts that the walk has collected, if there is one. The backend is asked for others.
#[derive(Clone, Default)]
pub(super) struct WalkFacts {
    pub blobs: Option<Arc<BlobSizes>>,
    /// Manifests of the repository, with their sizes in bytes.
    pub manifests: Option<Arc<HashMap<Digest, u64>>>,
    pub facts: Arc<Mutex<HashMap<Digest, ManifestFact>>>,
}

/// Data that every check of an object needs.
#[derive(Clone, Copy)]
pub(super) struct Look<'a> {
    pub objects: &'a dyn Objects,
    pub config: &'a Config,
    pub depth: Depth,
    pub wrong: &'a HashMap<Key, Version>,
    pub bytes: &'a AtomicU64,
    pub now: SystemTime,
}

impl Look<'_> {
    pub(super) fn reads_blobs(&self) -> bool {
        self.depth == Depth::Bytes
    }

    pub(super) async fn object(&self, meta: Meta, known: WalkFacts) -> Result<Vec<Finding>> {
        let key = &meta.key;
        match layout::parse(key.as_str()) {
            None => Ok(vec![Finding::new(key, Problem::UnknownKey)]),
            Some(Place::Format) => self.content(key, |bytes| format::is_format(bytes).map_err(text)).await,
            Some(Place::Blob { digest, .. }) => self.blob(key, &digest).await,
            Some(Place::Repo { tenant, repo, item }) => self.item(key, &tenant, &repo, item, &known).await,
            Some(Place::Quarantine(of)) => self.note(key, &of).await,
            Some(Place::Condemned { batch, item: BatchItem::List }) => {
                // A batch that was cleared since has no list any more. A list that cannot be read stops every answer.
                match condemned::read_list(Calls::of(self.objects), &batch).await {
                    Err(error @ Error::Internal(_)) => Ok(vec![Finding::new(key, text(error))]),
                    list => list.map(|_| Vec::new()),
                }
            }
            Some(Place::SigningKey | Place::Revoked(_) | Place::Clock | Place::Condemned { .. }) => Ok(Vec::new()),
            Some(Place::Upload { tenant, id, item: UploadItem::State }) => {
                self.upload(&tenant, &id, Some(meta), Vec::new()).await
            }
            Some(Place::Upload { item: UploadItem::Part { .. }, .. }) => Ok(Vec::new()),
        }
    }

    async fn item(
        &self,
        key: &Key,
        tenant: &Tenant,
        repo: &RepoName,
        item: RepoItem,
        known: &WalkFacts,
    ) -> Result<Vec<Finding>> {
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
            RepoItem::Entry(name, EntryItem::Record) => at.entry(&name).await,
            RepoItem::Used(_) | RepoItem::Entry(_, EntryItem::Used) => {
                let found = self.content(key, |bytes| json::<IgnoredAny>(bytes).map(drop)).await?;
                Ok(found.into_iter().map(|finding| Finding { problem: Problem::UnreadableHint, ..finding }).collect())
            }
        }
    }

    fn calls(&self) -> Calls<'_> {
        Calls::of(self.objects)
    }

    pub(super) async fn read(&self, key: &Key) -> Result<Option<Bytes>> {
        Ok(self.read_with_version(key).await?.map(|(_, bytes)| bytes))
    }

    pub(super) async fn read_with_version(&self, key: &Key) -> Result<Option<(Version, Bytes)>> {
        Ok(self.calls().read(key).await?.map(|(meta, bytes)| (meta.version, bytes)))
    }

    /// Reads an object and reports why it cannot be parsed.
    async fn content(
        &self,
        key: &Key,
        parse: impl FnOnce(&[u8]) -> std::result::Result<(), Problem>,
    ) -> Result<Vec<Finding>> {
        let Some(bytes) = self.read(key).await? else { return Ok(Vec::new()) };
        Ok(parse(&bytes).err().map(|problem| Finding::new(key, problem)).into_iter().collect())
    }

    /// Metadata of an object, also of one in quarantine: that is reported for its note, and not again for each
    /// reference to it.
    pub(super) async fn head(&self, key: &Key) -> Result<Option<Meta>> {
        self.calls().head(key).await
    }

    /// Size in bytes of a blob; nothing if it is missing.
    pub(super) async fn size_of(&self, key: &Key, digest: &Digest, known: &WalkFacts) -> Result<Option<u64>> {
        if let Some(size) = known.blobs.as_ref().and_then(|blobs| blobs.size(digest)) {
            return Ok(Some(size));
        }
        Ok(self.head(key).await?.map(|meta| meta.size))
    }

    pub(super) async fn blob(&self, key: &Key, digest: &Digest) -> Result<Vec<Finding>> {
        let (meta, mut bytes) = match self.objects.get(key, 0..u64::MAX).await {
            Ok(opened) => opened,
            Err(objects::Error::NotFound) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        if self.wrong.get(key) == Some(&meta.version) {
            // Reported with its note already.
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
        match (self.head(of).await?, self.wrong.get(of)) {
            (Some(meta), Some(version)) if meta.version == *version => Ok(vec![Finding::new(of, Problem::Quarantined)]),
            _ => Ok(vec![Finding::new(key, Problem::StaleQuarantine)]),
        }
    }

    /// Checks a chunked upload: its state, and the parts that exist.
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
            match staging::parts_of(&bytes, tenant, id) {
                Ok(keys) => named = keys,
                Err(error) => return Ok(vec![Finding::new(&state.key, text(error))]),
            }
            for key in named.iter().filter(|key| !parts.iter().any(|part| part.key == **key)) {
                // If the upload was completed or cancelled meanwhile, both are gone.
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

    /// Reports unfinished writes of the backend.
    pub(super) async fn unfinished(&self) -> Result<Vec<Finding>> {
        let left = self.objects.unfinished().await?.into_iter();
        let left = left.filter(|left: &Unfinished| self.is_older(left.since, BEGUN_MAX));
        Ok(left.map(|left| Finding::new(&Key::new(left.name), Problem::HalfWritten)).collect())
    }
}

pub(super) fn json<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> std::result::Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(text)
}

pub(super) fn text(error: impl fmt::Display) -> Problem {
    Problem::Unreadable(error.to_string())
}
