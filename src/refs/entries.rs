//! Entries as roots: named values of a repository beside its tags, each a list of blobs.
//!
//! An entry is one record. Its writer has written the blobs before, pins a snapshot of the condemned objects, relies on
//! the entry's key as on a tag's, and creates the record only if there is none. An entry is never changed, and is
//! deleted as a whole. A server that serves an entry relies on its key, and notes the use once an hour at most, by
//! writing the note of its last use anew.
//!
//! Invariant: nothing writes an entry while `meta/format` admits servers to the store that do not know this file: those
//! would collect the blobs which only entries reference.

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
    /// The whole key, which the entry's name may shorten.
    pub key: String,
    /// The blobs whose bytes, one after the other, are the content.
    pub blobs: Vec<EntryBlob>,
    /// Time of the write, by the clock of the server that took it. For display.
    pub created: jiff::Timestamp,
}

/// A piece of the content of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryBlob {
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
}

/// The identity of an entry as a root.
pub fn id(tenant: &Tenant, repo: &RepoName, name: &EntryName) -> RootId {
    RootId {
        repo: repo.clone(),
        key: layout::entry(tenant, repo, name, EntryItem::Record),
        used: layout::entry(tenant, repo, name, EntryItem::Used),
        label: name.label(),
        tag: None,
    }
}

/// The entries of a repository, without those whose record cannot be read.
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

/// References of a record; nothing if it is gone, or cannot be read.
async fn node(graph: &ManifestGraph, tenant: &Tenant, listed: &OtherObject) -> Result<Option<Arc<ContentNames>>> {
    // Another entry may have the same key later on.
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
