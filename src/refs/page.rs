//! Pages of lists, and how one is made of those of a chain.

use super::repo::Repo;
use crate::error::Result;

/// A part of a sorted list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Entries at most.
    pub limit: usize,
    /// Only what comes behind this entry.
    pub after: Option<String>,
}

/// Entries of a page, and whether there are more behind them.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    pub entries: Vec<T>,
    pub more: bool,
}

/// A page of a list over the chain of `repo`. `page_of` has the part of one of it, in the order of `name`.
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
    // What comes behind the end of a part that goes on is for a later page: the next one begins behind this page's end.
    merged.entries.retain(|entry| end.as_ref().is_none_or(|end| name(entry) <= *end));
    // The nearest comes first of those that are called the same, and the sort leaves them in order.
    merged.entries.sort_by_cached_key(&name);
    merged.entries.dedup_by_key(|entry| name(entry));
    merged.more |= merged.entries.len() > page.limit;
    merged.entries.truncate(page.limit);
    Ok(merged)
}
