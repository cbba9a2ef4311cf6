//! Sessions that were revoked, as far as this server knows: those that were revoked here, and those that others have
//! written to the store.

use std::collections::HashSet;

use parking_lot::RwLock;

use super::login::now;
use crate::names::SessionId;

/// Sessions that are revoked and have not ended, of all identities. A few megabytes.
const SESSIONS_MAX: usize = 32_768;
/// Those of one identity: whoever revokes without end keeps nobody else from it.
const SESSIONS_OF_ONE_MAX: usize = SESSIONS_MAX / 4;

/// The sessions that are revoked.
#[derive(Default)]
pub struct Revoked {
    sessions: RwLock<HashSet<SessionId>>,
}

impl Revoked {
    /// Whether the session of that name is revoked.
    pub fn has(&self, session: &str) -> bool {
        let sessions = self.sessions.read();
        !sessions.is_empty() && sessions.contains(session)
    }

    /// Whether one more may be revoked.
    pub fn has_room_for(&self, session: &SessionId) -> bool {
        let (sessions, now) = (self.sessions.read(), now());
        let live = || sessions.iter().filter(|known| known.end() > now);
        let own = live().filter(|known| known.whose() == session.whose()).count();
        own < SESSIONS_OF_ONE_MAX && live().count() < SESSIONS_MAX
    }

    /// Learns of some more, and forgets those that have ended.
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
        // What another server has not heard of yet is not forgotten.
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
