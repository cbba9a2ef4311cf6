//! Tags as roots: a pointer and, of a cache tag, its push records.

use futures::{StreamExt, TryStreamExt, stream};

use crate::calls::FAN_OUT;
use crate::error::{Error, Result};
use crate::layout;
use crate::names::{RepoName, Tag, Tenant};
use crate::refs::graph::ManifestGraph;
use crate::refs::listing::{RepoListing, Writing};
use crate::refs::pointer::Pointer;
use crate::refs::root::{Evictable, Root, RootId};

/// What a tag is known by as a root.
pub fn id(tenant: &Tenant, repo: &RepoName, tag: &Tag) -> RootId {
    RootId {
        repo: repo.clone(),
        key: layout::tag(tenant, repo, tag),
        used: layout::used(tenant, repo, tag),
        label: tag.to_string(),
        tag: Some(tag.clone()),
    }
}

/// The tags of a repository with the manifests that they serve. A tag whose pointer cannot be read is none.
pub async fn roots(graph: &ManifestGraph, repo: &RepoListing) -> Result<Vec<Root>> {
    let reads = repo.tags.iter().map(|(tag, listed)| async move {
        let pointer = graph.pointer(&layout::tag(&repo.tenant, &repo.name, tag), listed).await?;
        let view = match repo.views.get(tag) {
            Some(listed) => graph.view(&layout::view(&repo.tenant, &repo.name, tag), listed).await?,
            None => None,
        };
        Ok::<_, Error>((tag, listed, pointer, view))
    });
    let reads: Vec<_> = stream::iter(reads.collect::<Vec<_>>()).buffered(FAN_OUT).try_collect().await?;
    let with_pointer = reads.into_iter().filter_map(|(tag, listed, pointer, view)| {
        let mut root = root(repo, tag, listed, &*pointer?);
        root.history.view = view;
        root.manifests.extend(view.map(|(view, _)| view));
        root.manifests.sort_unstable();
        root.manifests.dedup();
        Some(root)
    });
    Ok(with_pointer.collect())
}

fn root(repo: &RepoListing, tag: &Tag, listed: &Writing, pointer: &Pointer) -> Root {
    let pushes = repo.pushes_of(tag);
    let id = id(&repo.tenant, &repo.name, tag);
    let mut root = Root::new(id, listed.at, repo.used.get(tag).copied());
    if !pushes.is_empty() {
        root.evictable = Evictable::ByLayer;
    }
    root.manifests = pointer.manifests();
    let history = &mut root.history;
    history.pointed = Some(pointer.digest);
    history.records = pushes.len().max(usize::from(pointer.push.is_some()));
    history.has_unlisted = pointer.push.is_some_and(|push| !pushes.iter().any(|(id, _)| *id == push));
    for (id, written) in pushes {
        root.records.push((layout::push(&repo.tenant, &repo.name, tag, id), written.bytes));
        root.manifests.push(id.manifest);
        let newest = history.pushes.entry(id.manifest).or_insert(written.at);
        *newest = written.at.max(*newest);
    }
    root
}
