//! The one graph of manifests: what each names, what that leads to, and a memory of it.

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

/// Memory for what manifests name. Bytes.
const NODES_BYTES_MAX: u64 = 64 << 20;
/// Notes of views that are remembered.
const VIEWS_MAX: u64 = 100_000;

/// Visits all manifests that these lead to, themselves included, each once and in waves. `load` finds what one names;
/// `visit` says which manifests that leads to.
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

/// What something names, in few bytes.
#[derive(Debug, Default)]
pub struct ContentNames {
    /// Fingerprints of the blobs' keys. Their sizes are not for a manifest to say.
    pub blobs: Box<[u64]>,
    /// Bytes of each, where it was the server that wrote them down.
    pub sizes: Box<[u64]>,
    pub children: Box<[Digest]>,
    pub subject: Option<Digest>,
    /// The blob that is the config.
    pub config: Option<Digest>,
    /// It is a cache manifest.
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

/// What a verified read of small content came to.
pub enum VerifiedRead {
    Right(Bytes),
    /// They do not fit the digest, also when they are read again.
    Wrong(Bytes),
    Nothing,
}

/// What the manifests of a store name, remembered from one look to the next. For work that no client waits for.
pub struct ManifestGraph {
    content: Content,
    pointers: Pointers,
    /// By the fingerprint of the key: what is in it is written once.
    nodes: Cache<u64, Arc<ContentNames>>,
    /// By the key of the note.
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

    /// Objects read since this was last asked.
    pub fn take_reads(&self) -> u64 {
        self.reads.swap(0, Relaxed)
    }

    /// Visits all manifests that these lead to: themselves, their children, and what refers to them.
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

    /// What a manifest names: nothing when it is missing.
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
        // Of wrong bytes nothing is believed but what makes something stay, and only as long as they are there.
        if right {
            self.remember(key.as_str(), node.clone());
        }
        Ok(node)
    }

    /// What is remembered under the name of something that never changes.
    pub fn node(&self, name: &str) -> Option<Arc<ContentNames>> {
        self.nodes.get(&fingerprint(name))
    }

    pub fn remember(&self, name: &str, node: Arc<ContentNames>) {
        self.nodes.insert(fingerprint(name), node);
    }

    /// Counts an object that is read past this graph's own readers.
    pub fn count_read(&self) {
        self.reads.fetch_add(1, Relaxed);
    }

    /// Where a tag points. It is not read when memory holds the writing that was listed.
    pub async fn pointer(&self, key: &Key, listed: &Writing) -> Result<Option<Arc<Pointer>>> {
        if let Some((_, pointer)) =
            self.pointers.remembered(key).filter(|(known, _)| known.is_listed_as(&listed.version))
        {
            return Ok(Some(pointer));
        }
        self.count_read();
        Ok(self.pointers.get(key, Deadline::of_each_call()).await?.map(|(_, pointer)| pointer))
    }

    /// The manifest of the view that is noted under a key, and when that was noted.
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

    /// Small content, past the hot layer, which a walk through the store would flush.
    pub async fn read(&self, key: &Key, digest: &Digest) -> Result<VerifiedRead> {
        self.count_read();
        let Some((meta, bytes)) = self.calls().read(key).await? else { return Ok(VerifiedRead::Nothing) };
        if hash(digest.algorithm(), bytes.clone()).await? == *digest {
            return Ok(VerifiedRead::Right(bytes));
        }
        if self.content.verdicts().is_wrong(&meta) {
            return Ok(VerifiedRead::Wrong(bytes));
        }
        // On the line, or in the store: the reader knows how to find out, and who has to be told.
        match self.content.fetch_small(key, *digest, Deadline::of_each_call()).await {
            Ok(bytes) => Ok(VerifiedRead::Right(bytes)),
            Err(Error::BlobUnknown(_)) => Ok(VerifiedRead::Wrong(bytes)),
            Err(error) => Err(error),
        }
    }
}
