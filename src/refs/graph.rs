//! The one graph of manifests: the references of each, their closure, and a memory of both.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use moka::sync::Cache;

use crate::calls::{Calls, FAN_OUT};
use crate::content::Content;
use crate::content::condemned::fingerprint;
use crate::deadline::Deadline;
use crate::digest::{Digest, hash};
use crate::error::{Error, Result};
use crate::layout;
use crate::names::Tenant;
use crate::objects::Key;
use crate::oci::ManifestContent;
use crate::refs::listing::{RepoListing, Writing};
use crate::refs::pointer::{Pointer, Pointers};
use crate::refs::service::Refs;
use crate::refs::stored_view::{ViewNote, view_note};

/// Memory for the references of manifests, in bytes.
const NODES_BYTES_MAX: u64 = 64 << 20;
/// Maximum number of remembered notes of views.
const VIEWS_MAX: u64 = 100_000;

/// Visits all manifests that `from` reaches, itself included, each once and in waves. `load` reads one; `visit` returns
/// the manifests to visit next.
pub async fn closure<N, F: Future<Output = Result<N>>>(
    from: impl IntoIterator<Item = Digest>,
    load: impl Fn(Digest) -> F,
    mut visit: impl FnMut(Digest, N) -> Vec<Digest>,
) -> Result<()> {
    let mut seen = HashSet::new();
    let mut wave: Vec<Digest> = from.into_iter().filter(|digest| seen.insert(*digest)).collect();
    while !wave.is_empty() {
        let loads: Vec<F> = wave.iter().map(|digest| load(*digest)).collect();
        let found: Vec<N> = stream::iter(loads).buffered(FAN_OUT).try_collect().await?;
        for (digest, node) in std::mem::take(&mut wave).into_iter().zip(found) {
            wave.extend(visit(digest, node).into_iter().filter(|next| seen.insert(*next)));
        }
    }
    Ok(())
}

/// References of a manifest or another object, in compact form.
#[derive(Debug, Default)]
pub struct ContentNames {
    /// Fingerprints of the blobs' keys. Sizes in a manifest are not trusted.
    pub blobs: Box<[u64]>,
    /// Size of each blob in bytes, if this or another server recorded them.
    pub sizes: Box<[u64]>,
    pub children: Box<[Digest]>,
    pub subject: Option<Digest>,
    /// The config, one of the blobs.
    pub config: Option<Digest>,
    /// Whether it is a cache manifest.
    pub cache: bool,
}

impl ContentNames {
    pub fn of_manifest(tenant: &Tenant, content: ManifestContent) -> ContentNames {
        let ManifestContent { config, subject, cache, .. } = content;
        ContentNames {
            children: content.children.into(),
            config,
            subject,
            cache,
            ..ContentNames::of_blobs(tenant, &content.blobs)
        }
    }

    pub fn of_blobs<'a>(tenant: &Tenant, blobs: impl IntoIterator<Item = &'a Digest>) -> ContentNames {
        let blobs = blobs.into_iter().map(|blob| fingerprint(layout::blob(tenant, blob).as_str())).collect();
        ContentNames { blobs, ..ContentNames::default() }
    }

    fn weight(&self) -> u32 {
        let lists = size_of_val(&*self.blobs) + size_of_val(&*self.sizes) + size_of_val(&*self.children);
        u32::try_from(256 + lists).unwrap_or(u32::MAX)
    }
}

/// Result of a verified read of small content.
pub enum VerifiedRead {
    Right(Bytes),
    /// Bytes that do not fit the digest, also when read again.
    Wrong(Bytes),
    Nothing,
}

/// The references of a store's manifests, remembered from one run to the next. For work that no client waits for.
pub struct ManifestGraph {
    content: Content,
    pointers: Pointers,
    /// References by the fingerprint of the key: objects in it are written once.
    nodes: Cache<u64, Arc<ContentNames>>,
    /// Notes of views, by key.
    views: Cache<Key, Arc<ViewNote>>,
    reads: AtomicU64,
}

impl ManifestGraph {
    pub fn new(refs: &Refs) -> ManifestGraph {
        let nodes = Cache::builder().max_capacity(NODES_BYTES_MAX).weigher(|_, node: &Arc<ContentNames>| node.weight());
        ManifestGraph {
            content: refs.content().clone(),
            pointers: refs.pointers().clone(),
            nodes: nodes.build(),
            views: Cache::new(VIEWS_MAX),
            reads: AtomicU64::new(0),
        }
    }

    pub fn calls(&self) -> Calls<'_> {
        Calls::of(&**self.content.objects())
    }

    /// Number of objects read since the last call.
    pub fn take_reads(&self) -> u64 {
        self.reads.swap(0, Relaxed)
    }

    /// Visits all manifests that `from` reaches: itself, children, and referrers.
    pub async fn closure(
        &self,
        repo: &RepoListing,
        from: &[Digest],
        mut visit: impl FnMut(&Digest, &Arc<ContentNames>),
    ) -> Result<()> {
        let load = |digest| self.manifest(repo, digest);
        closure(from.iter().copied(), load, |digest, node: Arc<ContentNames>| {
            visit(&digest, &node);
            node.children.iter().copied().chain(repo.referrers_of(&digest)).collect()
        })
        .await
    }

    /// References of a manifest; none if it is missing.
    pub async fn manifest(&self, repo: &RepoListing, digest: Digest) -> Result<Arc<ContentNames>> {
        let key = repo.manifest_key(&digest);
        if let Some(node) = self.node(key.as_str()) {
            return Ok(node);
        }
        let (bytes, right) = match self.read(&key, &digest).await? {
            VerifiedRead::Right(bytes) => (bytes, true),
            VerifiedRead::Wrong(bytes) => (bytes, false),
            VerifiedRead::Nothing => (Bytes::new(), false),
        };
        let Ok(content) = ManifestContent::parse(&bytes, None) else { return Ok(Arc::default()) };
        let node = Arc::new(ContentNames::of_manifest(&repo.tenant, content));
        // Wrong bytes can only keep content, not release it, and only while they are stored.
        if right {
            self.remember(key.as_str(), node.clone());
        }
        Ok(node)
    }

    /// Returns the remembered references of an object that never changes.
    pub fn node(&self, name: &str) -> Option<Arc<ContentNames>> {
        self.nodes.get(&fingerprint(name))
    }

    pub fn remember(&self, name: &str, node: Arc<ContentNames>) {
        self.nodes.insert(fingerprint(name), node);
    }

    /// Counts an object that was read by other code than this graph's.
    pub fn count_read(&self) {
        self.reads.fetch_add(1, Relaxed);
    }

    /// The pointer of a tag. It is not read if memory has the listed version.
    pub async fn pointer(&self, key: &Key, listed: &Writing) -> Result<Option<Arc<Pointer>>> {
        if let Some((_, pointer)) =
            self.pointers.remembered(key).filter(|(known, _)| known.is_listed_as(&listed.version))
        {
            return Ok(Some(pointer));
        }
        self.count_read();
        Ok(self.pointers.get(key, Deadline::of_each_call()).await?.map(|(_, pointer)| pointer))
    }

    /// The manifest of the view in a note, and the time of the note.
    pub async fn view(&self, key: &Key, listed: &Writing) -> Result<Option<(Digest, SystemTime)>> {
        if let Some(known) = self.views.get(key).filter(|known| known.version.is_listed_as(&listed.version)) {
            return Ok(known.view.map(|view| (view, listed.at)));
        }
        self.count_read();
        let Some(note) = view_note(self.calls(), key).await? else { return Ok(None) };
        let found = note.view.map(|view| (view, note.at));
        self.views.insert(key.clone(), Arc::new(note));
        Ok(found)
    }

    /// Reads small content past the hot layer, which a walk through the store would flush.
    pub async fn read(&self, key: &Key, digest: &Digest) -> Result<VerifiedRead> {
        self.count_read();
        let Some((meta, bytes)) = self.calls().read(key).await? else { return Ok(VerifiedRead::Nothing) };
        if hash(digest.algorithm(), bytes.clone()).await? == *digest {
            return Ok(VerifiedRead::Right(bytes));
        }
        if self.content.verdicts().is_wrong(&meta) {
            return Ok(VerifiedRead::Wrong(bytes));
        }
        // Damaged on the network, or in the store: this reader finds out, and reports it.
        match self.content.fetch_small(key, *digest, Deadline::of_each_call()).await {
            Ok(bytes) => Ok(VerifiedRead::Right(bytes)),
            Err(Error::BlobUnknown(_)) => Ok(VerifiedRead::Wrong(bytes)),
            Err(error) => Err(error),
        }
    }
}
