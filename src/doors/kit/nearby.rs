//! Texts about a tag or repository that does not exist, with the names that may have been meant.
//!
//! Invariant: only names that the caller may list are told. They are those of the inventory, which no answer lists the
//! store for.

use std::cmp::Reverse;

use jiff::Timestamp;

use crate::access::{Permit, Pull, Tags};
use crate::auth::Caller;
use crate::doors::Doors;
use crate::names::{RepoName, Tag, Tenant};

/// Names that are told at most.
const TOLD_MAX: usize = 5;
/// Letters by which a name may differ from another that was meant.
const SLIPS_MAX: usize = 3;
/// Names that are compared at most, and the longest that is, in bytes.
const COMPARED_MAX: usize = 10_000;
const COMPARED_BYTES_MAX: usize = 64;

/// Text about a tag that does not exist.
pub fn unknown_tag(doors: &Doors, caller: &Caller, repo: &RepoName, tag: &Tag) -> String {
    let mut known: Vec<(usize, Reverse<Timestamp>, Tag)> = Vec::new();
    for tenant in readable(doors, caller, repo, Tags::None).unwrap_or_default() {
        doors.store.stock().look(&tenant, |repos| {
            let tags = repos.get(repo).into_iter().flatten().take(COMPARED_MAX);
            let tags = tags.filter(|(known, _)| caller.may_pull(repo, known));
            known.extend(
                tags.map(|(known, entry)| {
                    (slips(tag, known).unwrap_or(usize::MAX), Reverse(entry.last()), known.clone())
                }),
            );
        });
    }
    known.sort();
    known.dedup_by(|one, other| one.2 == other.2);
    let names: Vec<&str> = known.iter().map(|(_, _, tag)| &**tag).collect();
    match names.is_empty() {
        true => unknown_repo(doors, caller, repo),
        false => format!("{repo} has no tag {tag}; it has: {}", list(&names)),
    }
}

/// Text about a repository that does not exist, or of which the caller may see nothing.
pub fn unknown_repo(doors: &Doors, caller: &Caller, wanted: &RepoName) -> String {
    let mut similar: Vec<(usize, RepoName)> = Vec::new();
    for tenant in doors.config.all_tenants() {
        doors.store.stock().look(&tenant, |repos| {
            let repos = repos.keys().take(COMPARED_MAX);
            similar.extend(repos.filter_map(|repo| Some((slips(wanted, repo)?, repo.clone()))));
        });
        // Of the few that are similar: to ask for every repository would take as long as a list of them.
        similar.retain(|(_, repo)| {
            repo != wanted
                && readable(doors, caller, repo, Tags::None).is_some_and(|readable| readable.contains(&tenant))
        });
    }
    similar.sort();
    let names: Vec<&str> = similar.iter().map(|(_, repo)| &**repo).collect();
    match names.is_empty() {
        true => format!("nothing was pushed to {wanted}"),
        false => format!("nothing was pushed to {wanted}; did you mean {}?", list(&names)),
    }
}

/// The tenants in which the caller may read a repository, the nearest first.
fn readable(doors: &Doors, caller: &Caller, repo: &RepoName, tags: Tags) -> Option<Vec<Tenant>> {
    let permit: Permit<Pull> = doors.gate.admit(caller, repo.clone(), tags).ok()?;
    Some(std::iter::once(permit.tenant()).chain(permit.parents()).cloned().collect())
}

fn list(names: &[&str]) -> String {
    let (told, more) = (names.iter().take(TOLD_MAX), names.len().saturating_sub(TOLD_MAX));
    let told = told.copied().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{told} and {more} more") } else { told }
}

/// By how many letters two names differ (optimal string alignment: a swap of two letters is one), where that is little
/// enough for a slip. A short name is not similar to every other.
fn slips(wanted: &str, known: &str) -> Option<usize> {
    let (a, b) = (wanted.as_bytes(), known.as_bytes());
    let most = SLIPS_MAX.min(a.len().max(b.len()) / 3).max(1);
    if a.len().max(b.len()) > COMPARED_BYTES_MAX || a.len().abs_diff(b.len()) > most {
        return None;
    }
    let (mut before, mut last, mut row): (Vec<usize>, Vec<usize>, Vec<usize>) =
        (Vec::new(), (0..=b.len()).collect(), Vec::with_capacity(b.len() + 1));
    for (i, x) in a.iter().enumerate() {
        row.clear();
        row.push(i + 1);
        for (j, y) in b.iter().enumerate() {
            let mut least = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        // The row that is oldest is written over next.
        std::mem::swap(&mut before, &mut last);
        std::mem::swap(&mut last, &mut row);
    }
    last.last().copied().filter(|slips| *slips <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_few_letters_of_many() {
        for (wanted, known, slips_of) in [
            ("cahce", "cache", Some(1)),
            ("cache", "cache", Some(0)),
            ("cach", "cache", Some(1)),
            ("mian", "main", Some(1)),
            ("team/ap", "team/app", Some(1)),
            ("v1", "v2", Some(1)),
            ("v1", "main", None),
            ("latest", "cache", None),
            ("", "a", Some(1)),
        ] {
            assert_eq!(slips(wanted, known), slips_of, "{wanted} {known}");
        }
        let long = "a".repeat(COMPARED_BYTES_MAX + 1);
        assert_eq!(slips(&long, &long), None);
    }

    #[test]
    fn a_list_is_short() {
        assert_eq!(list(&["a", "b"]), "a, b");
        assert_eq!(list(&["a"; TOLD_MAX + 2]), "a, a, a, a, a and 2 more");
    }
}
