//! Revoked sessions, as far as this server knows: those revoked here, and those that other servers have written to the
//! store.

use std::collections::HashSet;

use parking_lot::RwLock;

use super::login::now;
use crate::names::SessionId;

/// Maximum number of revoked sessions that have not ended, of all identities. A few megabytes.
const SESSIONS_MAX: usize = 32_768;
/// Maximum of one identity: a caller that revokes endlessly does not keep others from it.
const SESSIONS_OF_ONE_MAX: usize = SESSIONS_MAX / 4;

/// The set of revoked sessions.
#[derive(Default)]
pub struct Revoked {
    sessions: RwLock<HashSet<SessionId>>,
}

impl Revoked {
    /// Tells whether the session is revoked.
    pub fn has(&self, session: &str) -> bool {
        let sessions = self.sessions.read();
        !sessions.is_empty() && sessions.contains(session)
    }

    /// Tells whether one more session may be revoked.
    pub fn has_room_for(&self, session: &SessionId) -> bool {
        let (sessions, now) = (self.sessions.read(), now());
        let live = || sessions.iter().filter(|known| known.end() > now);
        let own = live().filter(|known| known.whose() == session.whose()).count();
        own < SESSIONS_OF_ONE_MAX && live().count() < SESSIONS_MAX
    }

    /// Adds sessions, and removes those that have ended.
    pub fn learn(&self, revoked: impl IntoIterator<Item = SessionId>) {
        let (mut sessions, now) = (self.sessions.write(), now());
        sessions.retain(|known| known.end() > now);
        sessions.extend(revoked.into_iter().filter(|session| session.end() > now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_known_until_it_would_have_ended() {
        let revoked = Revoked::default();
        let (live, ended) = (SessionId::new(now() + 100, 1), SessionId::new(now(), 1));
        revoked.learn([live.clone(), ended.clone()]);
        assert!(revoked.has(&live) && !revoked.has(&ended) && !revoked.has(""));
        // Sessions that are missing in the list of another server are kept.
        revoked.learn([]);
        assert!(revoked.has(&live));
    }

    #[test]
    fn one_identity_leaves_room_for_others() {
        let revoked = Revoked::default();
        let session = |whose| SessionId::new(now() + 100, whose);
        revoked.learn((0..SESSIONS_OF_ONE_MAX).map(|_| session(1)));
        assert!(!revoked.has_room_for(&session(1)) && revoked.has_room_for(&session(2)));
        revoked.learn((0..SESSIONS_MAX - SESSIONS_OF_ONE_MAX).map(|number| session(number as u64 + 10)));
        assert!(!revoked.has_room_for(&session(2)));
    }
}
