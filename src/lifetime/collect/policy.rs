//! The choice of roots and layers to condemn, by the policies of the operator. Pure functions over the results of a
//! mark.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::config::RetainConfig;
use crate::events::Rule;
use crate::human::{self, span};
use crate::names::Tenant;
use crate::refs::root::{Evictable, NamedBlob, Root, RootId};

/// The reason why a root or a layer is condemned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Not used for longer than the policy allows. Seconds since the last use.
    Unused { seconds: u64 },
    /// Pushed longer ago than the policy allows. Seconds since the push.
    Pushed { seconds: u64 },
    /// Older than the newest tags of the pattern that the policy keeps, of which there are `newest`.
    NotNewest { newest: usize },
    /// Evicted because the tenant is over its limit. Seconds since the last use.
    Room { seconds: u64 },
    /// The tag belongs to a manifest that is condemned, as a signature does.
    Subject,
}

/// A root or a layer that is condemned, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub tenant: String,
    pub repo: String,
    /// The tag, or the label of another root.
    pub tag: String,
    /// The layer's digest, if only one layer of the root is condemned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    pub bytes: u64,
    pub reason: Reason,
    /// The reason in words.
    pub why: String,
    /// Whether an earlier collection has condemned it.
    pub known: bool,
}

impl Decision {
    pub fn of(tenant: &Tenant, root: &RootId, reason: Reason, known: bool) -> Decision {
        Decision {
            tenant: tenant.to_string(),
            repo: root.repo.to_string(),
            tag: root.label.clone(),
            layer: None,
            bytes: 0,
            why: reason.to_string(),
            reason,
            known,
        }
    }
}

impl Reason {
    pub fn rule(&self) -> Rule {
        match self {
            Reason::Unused { .. } => Rule::Unused,
            Reason::Pushed { .. } => Rule::Pushed,
            Reason::NotNewest { .. } => Rule::NotNewest,
            Reason::Room { .. } => Rule::Room,
            Reason::Subject => Rule::Subject,
        }
    }
}

/// The reason in words, for display.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Unused { seconds } => write!(f, "not used for {}", span(*seconds)),
            Reason::Pushed { seconds } => write!(f, "pushed {} ago", span(*seconds)),
            Reason::NotNewest { newest } => write!(f, "not among the newest {newest}"),
            Reason::Room { seconds } => write!(f, "evicted for space; last used {} ago", span(*seconds)),
            Reason::Subject => write!(f, "expired with the manifest it belongs to"),
        }
    }
}

fn age(at: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(at).unwrap_or_default()
}

/// The policy of a root, by its position. Only tags have policies.
fn rule<'a>(rules: &'a [RetainConfig], root: &Root) -> Option<(usize, &'a RetainConfig)> {
    let tag = root.id.tag.as_ref()?;
    rules.iter().enumerate().find(|(_, rule)| rule.tags.matches(tag))
}

/// Tells whether a policy protects the root from all deletion by rules.
pub fn is_protected(rules: &[RetainConfig], root: &Root) -> bool {
    rule(rules, root).is_some_and(|(_, rule)| rule.protected)
}

/// Roots of one repository that expire by age or number: positions in `roots`.
pub fn retired(roots: &[&Root], rules: &[RetainConfig], now: SystemTime) -> Vec<(usize, Reason)> {
    let mut gone = Vec::new();
    let mut groups = HashMap::<usize, Vec<usize>>::new();
    for (at, root) in roots.iter().enumerate() {
        let Some((number, rule)) = rule(rules, root).filter(|_| root.subject.is_none()) else { continue };
        if rule.protected {
            continue;
        }
        let (unused, old) = (age(root.used, now), age(root.pushed, now));
        if rule.unused.is_some_and(|limit| unused > limit.get()) {
            gone.push((at, Reason::Unused { seconds: unused.as_secs() }));
        } else if rule.pushed.is_some_and(|limit| old > limit.get()) {
            gone.push((at, Reason::Pushed { seconds: old.as_secs() }));
        } else {
            groups.entry(number).or_default().push(at);
        }
    }
    for (number, mut group) in groups {
        let Some(newest) = rules[number].newest else { continue };
        group.sort_by_key(|at| (std::cmp::Reverse(roots[*at].pushed), *at));
        gone.extend(group.into_iter().skip(newest).map(|at| (at, Reason::NotNewest { newest })));
    }
    gone.sort_unstable_by_key(|(at, _)| *at);
    gone
}

/// The bytes that a collection should have evicted and could not, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shortfall {
    /// Bytes that should have been evicted, and were not.
    pub bytes: u64,
    /// Tags and other roots that were used too recently to be evicted.
    pub in_use: u64,
    /// Tags and other roots that a rule protects.
    pub protected: u64,
    /// Time at which the first content in use may be evicted, unless it is used again.
    pub next: Option<jiff::Timestamp>,
}

impl Shortfall {
    /// The shortfall of `bytes`, explained by the roots that stay. Content used within `floor` is not evicted.
    pub fn of<'a>(
        staying: impl Iterator<Item = &'a Root>,
        protected: &dyn Fn(&Root) -> bool,
        bytes: u64,
        floor: Duration,
        now: SystemTime,
    ) -> Shortfall {
        let mut shortfall = Shortfall { bytes, ..Shortfall::default() };
        let mut next = None::<SystemTime>;
        for root in staying {
            if protected(root) {
                shortfall.protected += 1;
                continue;
            }
            if age(root.used, now) <= floor {
                shortfall.in_use += 1;
            }
            let of_layers = root.content.iter().filter(|blob| !blob.fixed).map(|blob| blob.used);
            let times = of_layers.filter(|_| root.evictable == Evictable::ByLayer).chain([root.used]);
            let first = times.filter(|used| age(*used, now) <= floor).min();
            next = match (next, first) {
                (Some(next), Some(first)) => Some(next.min(first)),
                (next, first) => next.or(first),
            };
        }
        shortfall.next = next.and_then(|used| jiff::Timestamp::try_from(used + floor).ok());
        shortfall
    }
}

/// The shortfall in words, for display.
impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tags = |count| if count == 1 { "1 tag".to_string() } else { format!("{count} tags") };
        let mut why = Vec::new();
        if self.in_use > 0 {
            why.push(format!("{} in use too recently", tags(self.in_use)));
        }
        if self.protected > 0 {
            why.push(format!("{} protected by a policy", tags(self.protected)));
        }
        if why.is_empty() {
            why.push("no other tag".to_string());
        }
        write!(f, "has to free {} more and cannot: {}", human::bytes(self.bytes), why.join(", "))?;
        match self.next {
            Some(next) => write!(f, "; the next eviction is possible from {}", human::minute(next)),
            None => Ok(()),
        }
    }
}

/// An eviction plan: layers first, then whole roots.
#[derive(Debug, Default)]
pub struct EvictionPlan {
    /// Layers by id, each with the position of a root that references it and the time of its last use.
    pub layers: Vec<(u64, usize, SystemTime)>,
    /// Positions of roots.
    pub roots: Vec<usize>,
    /// Bytes that the plan frees.
    pub bytes: u64,
    /// The reason why that is less than was asked for.
    pub shortfall: Option<Shortfall>,
}

/// A layer that may be evicted by itself.
#[derive(Clone, Debug)]
pub struct IdleLayer {
    pub id: u64,
    pub bytes: u64,
    used: SystemTime,
    pushed: SystemTime,
    /// Position of a root that references it.
    root: usize,
    /// Number of layers below it. A layer that no cache places has the maximum: it is of no use to any.
    pub depth: u32,
}

impl IdleLayer {
    fn time(&self) -> (SystemTime, SystemTime) {
        (self.used, self.pushed)
    }
}

/// Layers that may be evicted one by one and were not used within `floor`, the least recently used first and, among
/// those, the least recently pushed. Layers of protected roots, and of roots that are evicted only as a whole, are left
/// out.
pub fn idle_layers(
    roots: &[Root],
    protected: &dyn Fn(&Root) -> bool,
    floor: Duration,
    now: SystemTime,
) -> Vec<IdleLayer> {
    let mut layers = HashMap::<u64, (IdleLayer, bool)>::new();
    for (at, root) in roots.iter().enumerate() {
        let stays = root.evictable == Evictable::Whole || protected(root);
        for NamedBlob { id, bytes, used, pushed, fixed } in root.content.iter().copied() {
            let new = IdleLayer { id, bytes, used, pushed, root: at, depth: u32::MAX };
            let (layer, fixed_so_far) = layers.entry(id).or_insert((new, false));
            (layer.used, layer.pushed) = (layer.used.max(used), layer.pushed.max(pushed));
            *fixed_so_far |= fixed || stays;
        }
    }
    let idle = layers.into_values().filter(|(layer, fixed)| !fixed && age(layer.used, now) > floor);
    let mut idle: Vec<IdleLayer> = idle.map(|(layer, _)| layer).collect();
    idle.sort_unstable_by_key(|layer| (layer.time(), layer.id));
    idle
}

/// Layers with equal times of which some must be evicted and others may stay: their depth decides.
pub fn undecided(layers: &[IdleLayer], excess: u64) -> &[IdleLayer] {
    let (mut freed, mut rest) = (0_u64, layers);
    while let Some(first) = rest.first().filter(|_| freed < excess) {
        let alike = rest.iter().take_while(|layer| layer.time() == first.time()).count();
        let (group, later) = rest.split_at(alike);
        freed = group.iter().fold(freed, |freed, layer| freed.saturating_add(layer.bytes));
        if freed >= excess && group.len() > 1 {
            return group;
        }
        rest = later;
    }
    &[]
}

/// Chooses layers and roots to evict until `excess` bytes are free, among those not used within `floor`.
///
/// Layers of caches come first ([`idle_layers`]), the least recently used before all others and, among those of one
/// time, from the tail of their chains: a build that misses one repeats its step. Then whole roots, the least recently
/// used first.
pub fn make_room(
    roots: &[Root],
    mut layers: Vec<IdleLayer>,
    protected: &dyn Fn(&Root) -> bool,
    excess: u64,
    floor: Duration,
    now: SystemTime,
) -> EvictionPlan {
    let mut plan = EvictionPlan::default();
    layers.sort_unstable_by_key(|layer| (layer.time(), std::cmp::Reverse(layer.depth), layer.id));
    for layer in layers {
        if plan.bytes >= excess {
            return plan;
        }
        plan.bytes = plan.bytes.saturating_add(layer.bytes);
        plan.layers.push((layer.id, layer.root, layer.used));
    }
    // Blobs that only evicted roots reference are freed with them.
    let mut names = HashMap::<u64, usize>::new();
    for root in roots {
        let once: HashSet<u64> = root.content.iter().map(|blob| blob.id).collect();
        once.into_iter().for_each(|id| *names.entry(id).or_default() += 1);
    }
    let evicted: HashSet<u64> = plan.layers.iter().map(|(id, ..)| *id).collect();
    let may_go = |root: &Root| root.subject.is_none() && !protected(root) && age(root.used, now) > floor;
    let mut whole: Vec<usize> = (0..roots.len()).filter(|at| may_go(&roots[*at])).collect();
    whole.sort_by_key(|at| roots[*at].used);
    for at in whole {
        if plan.bytes >= excess {
            break;
        }
        let mut once = HashSet::new();
        for blob in roots[at].content.iter().filter(|blob| once.insert(blob.id)) {
            let left = names.entry(blob.id).or_default();
            *left = left.saturating_sub(1);
            if *left == 0 && !evicted.contains(&blob.id) {
                plan.bytes = plan.bytes.saturating_add(blob.bytes);
            }
        }
        plan.roots.push(at);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Span;
    use crate::digest::Digest;
    use crate::refs::tag_root;

    fn at(hours: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(hours * 3600)
    }

    fn tag(name: &str, pushed: u64, used: u64, cache: bool, content: &[(u64, u64, u64)]) -> Root {
        let id = tag_root::id(&Tenant::default_tenant(), &"a".parse().unwrap(), &name.parse().unwrap());
        let mut root = Root::new(id, at(pushed), Some(at(used)));
        root.used = at(used);
        root.evictable = if cache { Evictable::ByLayer } else { Evictable::Whole };
        let content = content.iter().map(|(id, bytes, used)| NamedBlob {
            id: *id,
            bytes: *bytes,
            used: at(*used),
            pushed: at(pushed),
            fixed: false,
        });
        root.content = content.collect();
        root
    }

    fn retain(tags: &str) -> RetainConfig {
        let tags = tags.to_string().try_into().unwrap();
        RetainConfig { tags, protected: false, unused: None, pushed: None, newest: None }
    }

    #[test]
    fn the_first_rule_that_matches_a_tag_counts() {
        let rules = [
            RetainConfig { protected: true, ..retain("main") },
            RetainConfig { unused: Some(Span::hours(10)), newest: Some(2), ..retain("pr-*") },
            RetainConfig { pushed: Some(Span::hours(50)), ..retain("*") },
        ];
        let tags = [
            tag("main", 0, 0, true, &[]),
            tag("pr-1", 0, 89, true, &[]),
            tag("pr-2", 80, 95, true, &[]),
            tag("pr-3", 85, 99, true, &[]),
            tag("pr-4", 90, 99, true, &[]),
            tag("other", 40, 99, true, &[]),
            tag("recent", 60, 60, true, &[]),
        ];
        let tags: Vec<&Root> = tags.iter().collect();
        let hours = |hours: u64| hours * 3600;
        assert_eq!(
            retired(&tags, &rules, at(100)),
            [
                (1, Reason::Unused { seconds: hours(11) }),
                (2, Reason::NotNewest { newest: 2 }),
                (5, Reason::Pushed { seconds: hours(60) })
            ]
        );
    }

    /// Evictions among content that was not used for an hour. A layer's depth is the last digit of its id.
    fn room(tags: &[Root], protected: &dyn Fn(&Root) -> bool, excess: u64) -> EvictionPlan {
        let floor = Duration::from_secs(3600);
        let mut layers = idle_layers(tags, protected, floor, at(100));
        layers.iter_mut().for_each(|layer| layer.depth = (layer.id % 10) as u32);
        make_room(tags, layers, protected, excess, floor, at(100))
    }

    #[test]
    fn the_oldest_layers_go_first_and_of_one_time_the_tail() {
        let tags = [
            tag("a", 30, 99, true, &[(1, 10, 50), (2, 10, 50), (3, 10, 90)]),
            tag("b", 20, 99, true, &[(4, 10, 40), (1, 10, 60), (15, 10, 50), (5, 10, 50)]),
        ];
        let ids = |excess| room(&tags, &|_| false, excess).layers.iter().map(|(id, ..)| *id).collect::<Vec<_>>();
        assert_eq!(ids(10), [4]);
        // Of layers with the same last use, those pushed earlier are evicted first.
        assert_eq!(ids(35), [4, 5, 15, 2]);
        assert_eq!(ids(45), [4, 5, 15, 2, 1]);
    }

    #[test]
    fn a_tag_that_belongs_to_a_manifest_is_no_matter_of_rules() {
        let of = |subject: &[u8]| Some(Digest::sha256(subject));
        let tags = [
            tag("v1", 10, 10, false, &[(1, 10, 10)]),
            Root { subject: of(b"v1"), ..tag("signature-of-v1", 20, 20, false, &[(2, 10, 20)]) },
            tag("v2", 30, 30, false, &[(3, 10, 30)]),
            Root { subject: of(b"v2"), ..tag("signature-of-v2", 40, 40, false, &[(4, 10, 40)]) },
        ];
        let rules = [RetainConfig { newest: Some(1), ..retain("*") }];
        let all: Vec<&Root> = tags.iter().collect();
        assert_eq!(retired(&all, &rules, at(100)), [(0, Reason::NotNewest { newest: 1 })]);
        let rules = [RetainConfig { unused: Some(Span::hours(1)), ..retain("*") }];
        assert_eq!(retired(&all, &rules, at(100)).iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(room(&tags, &|_| false, 100).roots, [0, 2], "a signature does not go for room by itself");
    }

    #[test]
    fn depth_is_asked_for_where_it_decides() {
        let tags = [tag("a", 0, 99, true, &[(1, 10, 50), (2, 10, 60), (3, 10, 60), (4, 10, 60), (5, 10, 70)])];
        let layers = idle_layers(&tags, &|_| false, Duration::from_secs(3600), at(100));
        let asked = |excess| undecided(&layers, excess).iter().map(|layer| layer.id).collect::<Vec<_>>();
        assert_eq!(asked(11), [2, 3, 4]);
        for excess in [0, 10, 45, u64::MAX] {
            assert!(asked(excess).is_empty(), "{excess}");
        }
    }

    #[test]
    fn images_go_as_whole_tags_and_what_others_name_frees_nothing() {
        let tags = [
            tag("old", 0, 10, false, &[(1, 10, 10), (2, 10, 10)]),
            tag("new", 0, 20, false, &[(2, 10, 20)]),
            tag("kept", 0, 0, false, &[(3, 10, 0)]),
            tag("cache", 0, 0, true, &[(3, 10, 0)]),
            tag("just", 0, 100, false, &[(4, 10, 100)]),
        ];
        let room = room(&tags, &|root: &Root| root.id.label == "kept", 100);
        assert!(room.layers.is_empty(), "a protected image names the only layer: {room:?}");
        assert_eq!((room.roots, room.bytes), (vec![3, 0, 1], 20));
    }
}
