//! Entries as roots: named values of a repository beside its tags, each a list of blobs.
//!
//! An entry is one record. Whoever writes it has written its blobs, pins a snapshot of what is condemned and relies on its
//! key as on a tag's, and creates it only where there is none. It is never changed, and goes as a whole. Whoever serves an
//! entry relies on its key, and notes the use once an hour at most, by writing the note of its last use anew.
//!
//! Invariant: nothing writes an entry while `meta/format` lets a server read the store that does not know this file: that
//! one would collect the blobs which only entries name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::calls::FAN_OUT;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout;
use crate::layout::{EntryItem, EntryName, RepoItem};
use crate::names::{RepoName, Tenant};
use crate::refs::graph::{ContentNames, ManifestGraph};
use crate::refs::listing::{OtherObject, RepoListing};
use crate::refs::root::{Root, RootId};

/// Content of the record of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryRecord {
    /// The whole key.
    pub key: String,
    /// Its content is theirs, one after the other.
    pub blobs: Vec<EntryBlob>,
    /// When it was written, by the clock of the server that took it. For people to read.
    pub created: jiff::Timestamp,
}

/// A piece of the content of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryBlob {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// What an entry is known by as a root.
pub fn id(tenant: &Tenant, repo: &RepoName, name: &EntryName) -> RootId {
    RootId {
        repo: repo.clone(),
        key: layout::entry(tenant, repo, name, EntryItem::Record),
        used: layout::entry(tenant, repo, name, EntryItem::Used),
        label: name.label(),
        tag: None,
    }
}

/// The entries of a repository. One whose record cannot be read is none.
pub async fn roots(graph: &ManifestGraph, repo: &RepoListing) -> Result<Vec<Root>> {
    let (mut records, mut used) = (Vec::new(), HashMap::<&EntryName, SystemTime>::new());
    for other in &repo.others {
        match &other.item {
            RepoItem::Entry(name, EntryItem::Record) => records.push((name, other)),
            RepoItem::Entry(name, EntryItem::Used) => drop(used.insert(name, other.at)),
            _ => {}
        }
    }
    let read = |(name, other)| async move { Ok::<_, Error>((name, other, node(graph, &repo.tenant, other).await?)) };
    let reads: Vec<_> = records.into_iter().map(read).collect();
    let found: Vec<(&EntryName, &OtherObject, _)> = stream::iter(reads).buffered(FAN_OUT).try_collect().await?;
    let readable = found.into_iter().filter_map(|(name, other, node)| {
        let mut root = Root::new(id(&repo.tenant, &repo.name, name), other.at, used.get(name).copied());
        root.own = Some(node?);
        Some(root)
    });
    Ok(readable.collect())
}

/// What a record names; nothing when it is gone, or cannot be read.
async fn node(graph: &ManifestGraph, tenant: &Tenant, listed: &OtherObject) -> Result<Option<Arc<ContentNames>>> {
    // Under one key there may be another entry later on.
    let writing = format!("{} {}", listed.key, listed.version.0);
    if let Some(node) = graph.node(&writing) {
        return Ok(Some(node));
    }
    graph.count_read();
    let Some((meta, record)) = graph.calls().read_json::<EntryRecord>(&listed.key).await? else { return Ok(None) };
    let sizes = record.blobs.iter().map(|blob| blob.size).collect();
    let node = ContentNames { sizes, ..ContentNames::of_blobs(tenant, record.blobs.iter().map(|blob| &blob.digest)) };
    let node = Arc::new(node);
    if meta.version.is_listed_as(&listed.version) {
        graph.remember(&writing, node.clone());
    }
    Ok(Some(node))
}
