//! Splits a class whose results differ, so that no build gets a result that its inputs do not lead to.
//!
//! Two builders run a step whose outcome varies and copy a file from it. Their copies are one step to BuildKit, reached
//! by a definition link `x` that both have and by content links `a` and `b`, the checksums of the files that each made.
//! One record `[x a b]` with the newer result would hand B's file to a third build whose file has the content `a`:
//! wrong build output. So a class is cut into records each of whose links *all* come from every member that vouches for
//! it: `[x]` of A and B, `[a]` of A, `[b]` of B, each with the result of its newest voucher.
//!
//! Invariants of both cuts:
//! - a voucher of a record has all its links, so its result is right for each way of reaching the record;
//! - of two records, some input has no link in common. BuildKit's importer unites records that share a link of every
//!   input, results and all (`chains.go`, `Add`), and gives the whole import up when a record shares with two others.

use std::collections::BTreeMap;

use super::error::NoView;
use super::graph::Symbol;
use super::view::Work;

/// A link to a record of the union.
pub type UnionLink = (Symbol, u32);
/// The links of each input, sorted.
pub type Links = Vec<Vec<UnionLink>>;

/// A future record: its links, and the ways that have all of them.
///
/// Members with the same links are one *way* in which the step is reached; vouchers are indices of ways.
pub struct SplitPart {
    pub links: Links,
    pub vouchers: Vec<usize>,
}

/// Maximum number of parts for each record of the class. The bound makes a union linear in its input, and suffices for
/// any number of builders that differ in one input: one part for their common links and one for each.
pub const PARTS_PER_MEMBER_MAX: usize = 2;

/// Cuts a class into every combination of links that some member has, as coarsely as the invariants allow. `None` if
/// that takes more than `max` parts: two builds that differ in n inputs make up to 2ⁿ⁺¹.
pub fn exact(ways: &[Links], max: usize, work: &mut Work) -> Result<Option<Vec<SplitPart>>, NoView> {
    let arity = ways.first().map_or(0, Vec::len);
    let mut parts = vec![SplitPart { links: Vec::new(), vouchers: (0..ways.len()).collect() }];
    for input in 0..arity {
        let mut longer = Vec::new();
        let groups = by_vouchers(ways, input, work)?;
        for part in &parts {
            for (vouchers, links) in &groups {
                work.spend(part.vouchers.len() + vouchers.len())?;
                let vouchers = intersection(&part.vouchers, vouchers);
                if vouchers.is_empty() {
                    continue;
                }
                // Each will be part of at least one complete combination, so the result has too many parts.
                if longer.len() == max {
                    return Ok(None);
                }
                let links = part.links.iter().chain([links]).cloned().collect();
                longer.push(SplitPart { links, vouchers });
            }
        }
        parts = longer;
    }
    Ok(Some(parts))
}

/// Ways, and the links of one input that these ways have and no others.
type Group = (Vec<usize>, Vec<UnionLink>);

fn by_vouchers(ways: &[Links], input: usize, work: &mut Work) -> Result<Vec<Group>, NoView> {
    let mut vouchers: BTreeMap<UnionLink, Vec<usize>> = BTreeMap::new();
    for (way, links) in ways.iter().enumerate() {
        work.spend(links[input].len())?;
        for &link in &links[input] {
            vouchers.entry(link).or_default().push(way);
        }
    }
    let mut groups: BTreeMap<Vec<usize>, Vec<UnionLink>> = BTreeMap::new();
    for (link, vouchers) in vouchers {
        groups.entry(vouchers).or_default().push(link);
    }
    Ok(groups.into_iter().collect())
}

/// Cuts a class into the links common to all ways, and for each way, newest first, its own links less those already
/// taken: at most one part more than there are ways. Some mixed combinations are lost, which costs a step that a client
/// could have had cached.
pub fn bounded(ways: &[Links], work: &mut Work) -> Result<Vec<SplitPart>, NoView> {
    let mut cut: Vec<Links> = Vec::new();
    let shared = ways.iter().skip(1).try_fold(ways.first().cloned().unwrap_or_default(), |shared, links| {
        work.spend(shared.iter().map(Vec::len).sum())?;
        Ok(shared.iter().zip(links).map(|(a, b)| intersection(a, b)).collect::<Links>())
    })?;
    if shared.iter().all(|links| !links.is_empty()) {
        cut.push(shared);
    }
    for links in ways.iter().rev() {
        let mut rest = links.clone();
        let mut is_left = true;
        for taken in &cut {
            work.spend(rest.iter().map(Vec::len).sum())?;
            is_left = is_left && subtract(&mut rest, taken);
        }
        if is_left {
            cut.push(rest);
        }
    }

    let mut parts = Vec::with_capacity(cut.len());
    for links in cut {
        let mut vouchers = Vec::new();
        for (way, theirs) in ways.iter().enumerate() {
            work.spend(links.iter().map(Vec::len).sum())?;
            if links
                .iter()
                .zip(theirs)
                .all(|(links, theirs)| links.iter().all(|link| theirs.binary_search(link).is_ok()))
            {
                vouchers.push(way);
            }
        }
        parts.push(SplitPart { links, vouchers });
    }
    Ok(parts)
}

/// Removes links of one input, the one where the fewest are lost, until some input has none in common with `taken`.
/// Returns false if every link is taken.
fn subtract(rest: &mut Links, taken: &Links) -> bool {
    let lost = |(input, links): (usize, &Vec<UnionLink>)| {
        let common = intersection(links, &taken[input]).len();
        (common < links.len()).then_some((common, input))
    };
    match rest.iter().enumerate().filter_map(lost).min() {
        Some((0, _)) => true,
        Some((_, input)) => {
            rest[input].retain(|link| taken[input].binary_search(link).is_err());
            true
        }
        None => false,
    }
}

/// The common elements of two sorted lists.
fn intersection<T: Ord + Copy>(a: &[T], b: &[T]) -> Vec<T> {
    let (few, many) = if a.len() < b.len() { (a, b) } else { (b, a) };
    few.iter().filter(|item| many.binary_search(item).is_ok()).copied().collect()
}
