//! Deletions by digest at this server: a push that looked up a deleted object before looks it up again.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::content::condemned::fingerprint;
use crate::objects::Key;

/// Maximum number of remembered deletions, 8 bytes each. A push whose lookups are older than these is refused as busy.
const RECENT_MAX: usize = 16_384;

/// The deletions of this server, in their order.
#[derive(Default)]
pub struct Deletions {
    recent: Mutex<RecentDeletions>,
}

#[derive(Default)]
struct RecentDeletions {
    /// Number of all deletions since the start.
    count: u64,
    /// Fingerprints of the last deleted keys.
    keys: VecDeque<u64>,
}

/// A moment in the order of the deletions.
#[derive(Clone, Copy, Debug)]
pub struct DeletionMark(u64);

impl Deletions {
    /// The current moment. Taken before a lookup.
    pub fn mark(&self) -> DeletionMark {
        DeletionMark(self.recent.lock().count)
    }

    /// Notes that an object is about to be deleted. The caller holds [`Refs::alone`](super::Refs::alone).
    pub fn note(&self, key: &Key) {
        let mut recent = self.recent.lock();
        recent.count += 1;
        if recent.keys.len() == RECENT_MAX {
            recent.keys.pop_front();
        }
        recent.keys.push_back(fingerprint(key.as_str()));
    }

    /// The fingerprints of the keys deleted since `mark`; nothing if more were deleted than are remembered.
    pub fn since(&self, mark: DeletionMark) -> Option<Vec<u64>> {
        let recent = self.recent.lock();
        let count = usize::try_from(recent.count - mark.0).ok()?;
        let known = recent.keys.len();
        (count <= known).then(|| recent.keys.range(known - count..).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_deleted_since_a_moment_is_told_unless_it_is_too_much() {
        let (deletions, key) = (Deletions::default(), |n: usize| Key::new(format!("key-{n}")));
        let began = deletions.mark();
        assert_eq!(deletions.since(began), Some(Vec::new()));
        deletions.note(&key(0));
        let later = deletions.mark();
        deletions.note(&key(1));
        assert_eq!(deletions.since(began), Some(vec![fingerprint("key-0"), fingerprint("key-1")]));
        assert_eq!(deletions.since(later), Some(vec![fingerprint("key-1")]));
        (2..=RECENT_MAX).for_each(|n| deletions.note(&key(n)));
        assert_eq!(deletions.since(later).map(|keys| keys.len()), Some(RECENT_MAX));
        assert_eq!(deletions.since(began), None);
    }
}
