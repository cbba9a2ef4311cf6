//! What callers have deleted at this server by its digest: whoever looked for it a moment before looks again.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::content::condemned::fingerprint;
use crate::objects::Key;

/// Deletions that are remembered, 8 bytes each. A push that has looked for what it names before so many of them is asked
/// to come again.
const RECENT_MAX: usize = 16_384;

/// The deletions of this server, in their order.
#[derive(Default)]
pub struct Deletions {
    recent: Mutex<RecentDeletions>,
}

#[derive(Default)]
struct RecentDeletions {
    /// Of all that there ever were.
    count: u64,
    /// Fingerprints of the last keys.
    keys: VecDeque<u64>,
}

/// A moment in the order of the deletions.
#[derive(Clone, Copy, Debug)]
pub struct DeletionMark(u64);

impl Deletions {
    /// The moment now. Taken before something is looked for.
    pub fn mark(&self) -> DeletionMark {
        DeletionMark(self.recent.lock().count)
    }

    /// Notes that an object is about to be deleted. Whoever does so holds [`Refs::alone`](super::Refs::alone).
    pub fn note(&self, key: &Key) {
        let mut recent = self.recent.lock();
        recent.count += 1;
        if recent.keys.len() == RECENT_MAX {
            recent.keys.pop_front();
        }
        recent.keys.push_back(fingerprint(key.as_str()));
    }

    /// The fingerprints of what was deleted since then; nothing when there is more than is remembered.
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
