//! All kinds of roots. Each is a file of its own, a variant of [`RepoItem`], and a line in [`id_of`] and in [`roots`].

use std::collections::HashSet;
use std::time::SystemTime;

use crate::error::Result;
use crate::layout;
use crate::layout::{Place, RepoItem};
use crate::names::{RepoName, Tenant};
use crate::objects::Key;
use crate::refs::entries;
use crate::refs::graph::ManifestGraph;
use crate::refs::listing::{RepoListing, WrittenOnce};
use crate::refs::root::{Root, RootId};
use crate::refs::tag_root;

/// The root to which an object of a repository belongs: they are kept and deleted together.
pub fn id_of(tenant: &Tenant, repo: &RepoName, item: &RepoItem) -> Option<RootId> {
    match item {
        RepoItem::Tag(tag) | RepoItem::Push(tag, _) => Some(tag_root::id(tenant, repo, tag)),
        RepoItem::Entry(name, _) => Some(entries::id(tenant, repo, name)),
        RepoItem::Manifest(_) | RepoItem::View(_) | RepoItem::Used(_) | RepoItem::Referrer { .. } => None,
    }
}

/// As [`id_of`], by the key of the object.
pub fn id_of_key(key: &str) -> Option<RootId> {
    match layout::parse(key)? {
        Place::Repo { tenant, repo, item } => id_of(&tenant, &repo, &item),
        _ => None,
    }
}

/// Lists the roots of a repository.
pub async fn roots(graph: &ManifestGraph, repo: &RepoListing) -> Result<Vec<Root>> {
    let mut roots = tag_root::roots(graph, repo).await?;
    roots.extend(entries::roots(graph, repo).await?);
    Ok(roots)
}

/// Lists the objects of a repository that are garbage unless something references them: manifests, records without
/// their root, referrers.
pub fn nameable(repo: &RepoListing) -> Vec<(Key, WrittenOnce)> {
    let (tenant, name) = (&repo.tenant, &repo.name);
    let manifests = repo.manifests.iter().map(|(digest, written)| (repo.manifest_key(digest), *written));
    let orphans = repo.pushes.iter().filter(|(tag, _)| !repo.tags.contains_key(*tag));
    let orphans =
        orphans.flat_map(|(tag, pushes)| pushes.iter().map(move |(id, at)| (layout::push(tenant, name, tag, id), *at)));
    let referrers = repo.referrers.iter().flat_map(|(subject, referrers)| {
        referrers.iter().map(move |(manifest, written)| (repo.referrer_key(subject, manifest), *written))
    });
    manifests.chain(orphans).chain(referrers).collect()
}

/// Lists notes whose root does not exist: those of use with the time of the use.
pub fn stray_notes(repo: &RepoListing) -> Vec<(Key, Option<SystemTime>)> {
    let (tenant, name) = (&repo.tenant, &repo.name);
    let views = repo.views.keys().filter(|tag| !repo.tags.contains_key(*tag));
    let used = repo.used.iter().filter(|(tag, _)| !repo.tags.contains_key(*tag));
    let used = used.map(|(tag, at)| (layout::used(tenant, name, tag), Some(*at)));
    let views = views.map(|tag| (layout::view(tenant, name, tag), None));
    let known: HashSet<&Key> = repo.others.iter().map(|other| &other.key).collect();
    let others = repo.others.iter().filter(|other| {
        id_of(tenant, name, &other.item).is_some_and(|id| id.key != other.key && !known.contains(&id.key))
    });
    views.chain(used).chain(others.map(|other| (other.key.clone(), Some(other.at)))).collect()
}
