//! Pages of lists, and merging the pages of a chain.

use super::repo::Repo;
use crate::error::Result;

/// A part of a sorted list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Maximum number of entries.
    pub limit: usize,
    /// The entry after which the page begins.
    pub after: Option<String>,
}

/// Entries of a page, and whether the list has more after them.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    pub entries: Vec<T>,
    pub more: bool,
}

/// Merges a page of a list over the chain of `repo`. `page_of` returns the page of one repository, in the order of
/// `name`.
pub(super) async fn merged<T, F>(
    repo: &Repo,
    page: &Page,
    page_of: impl Fn(Repo) -> F,
    name: impl Fn(&T) -> String,
) -> Result<Listed<T>>
where
    F: Future<Output = Result<Listed<T>>>,
{
    let (mut merged, mut end) = (Listed { entries: Vec::new(), more: false }, None);
    for repo in repo.each() {
        let listed = page_of(repo).await?;
        if listed.more {
            merged.more = true;
            end = listed.entries.last().map(&name).into_iter().chain(end).min();
        }
        merged.entries.extend(listed.entries);
    }
    // Entries after the end of a page that is not the last are for a later page: the next one begins after this page's
    // end.
    merged.entries.retain(|entry| end.as_ref().is_none_or(|end| name(entry) <= *end));
    // Of entries with the same name the nearest comes first, and the stable sort keeps that order.
    merged.entries.sort_by_cached_key(&name);
    merged.entries.dedup_by_key(|entry| name(entry));
    merged.more |= merged.entries.len() > page.limit;
    merged.entries.truncate(page.limit);
    Ok(merged)
}
