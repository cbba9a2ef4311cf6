//! Tags as roots: a pointer and, of a cache tag, its push records.
//!
//! Clients keep the signatures, attestations and referrers of a manifest under tags that have its digest in their names
//! (cosign; distribution spec, "Referrers Tag Schema"). Such a tag belongs to that manifest, its subject.

use futures::{StreamExt, TryStreamExt, stream};

use crate::calls::FAN_OUT;
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Result};
use crate::layout;
use crate::names::{RepoName, Tag, Tenant};
use crate::refs::graph::ManifestGraph;
use crate::refs::listing::{RepoListing, Writing};
use crate::refs::pointer::Pointer;
use crate::refs::root::{Evictable, Root, RootId};

/// The identity of a tag as a root.
pub fn id(tenant: &Tenant, repo: &RepoName, tag: &Tag) -> RootId {
    RootId {
        repo: repo.clone(),
        key: layout::tag(tenant, repo, tag),
        used: layout::used(tenant, repo, tag),
        label: tag.to_string(),
        tag: Some(tag.clone()),
    }
}

/// The manifest to which a tag belongs by its name: `sha256-<hex>`, or that and `.sig`, `.att` or `.sbom`.
pub fn subject_of(tag: &Tag) -> Option<Digest> {
    let rest = (**tag).strip_prefix("sha256-")?;
    let hex = [".sig", ".att", ".sbom"].iter().find_map(|end| rest.strip_suffix(end)).unwrap_or(rest);
    Digest::from_hex(Algorithm::Sha256, hex).ok()
}

/// Lists the tags of a repository with the manifests that they serve, without those whose pointer cannot be read.
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
    root.subject = subject_of(tag);
    if !pushes.is_empty() {
        (root.evictable, root.subject) = (Evictable::ByLayer, None);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_belongs_to_the_manifest_in_its_name() {
        let digest = Digest::sha256(b"image");
        let subject = |name: &str| subject_of(&name.parse().unwrap());
        for end in ["", ".sig", ".att", ".sbom"] {
            assert_eq!(subject(&format!("sha256-{}{end}", digest.hex())), Some(digest), "{end}");
        }
        let hex = digest.hex();
        for name in [
            "main".to_string(),
            "sha256-".to_string(),
            format!("sha256-{}", &hex[1..]),
            format!("sha256-{hex}0"),
            format!("sha256-{hex}.old"),
            format!("sha256-{hex}.sig.sig"),
            format!("sha512-{hex}.sig"),
            format!("sha256-{}", hex.to_uppercase()),
            format!("sha256-{}g", &hex[1..]),
        ] {
            assert_eq!(subject(&name), None, "{name}");
        }
    }
}
