//! Sessions that were revoked before their end: a note for each is an object, so that every server over the store
//! learns of it.
//!
//! A note is kept until its session would have ended by itself, and a while longer: a server whose clock is behind
//! accepts the session for that much longer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::calls::{Calls, json};
use crate::error::Result;
use crate::layout::{self, Place};
use crate::names::SessionId;
use crate::objects::{Key, Objects};

/// Time after the end of its session for which a note is kept.
const KEPT_FOR: Duration = Duration::from_secs(3600);

/// Writes the note that a session is revoked.
pub async fn revoke(objects: &dyn Objects, session: &SessionId) -> Result<()> {
    let note = serde_json::json!({ "revoked": jiff::Timestamp::now() });
    Calls::of(objects).put(&layout::revoked(session), json(&note)?).await.map(drop)
}

/// The revoked sessions, and the notes that can be removed.
#[derive(Debug, Default)]
pub struct RevokedSessions {
    pub sessions: Vec<SessionId>,
    /// Keys of the notes of sessions that ended long ago.
    pub done_with: Vec<Key>,
}

/// Lists the revoked sessions. One list of keys.
pub async fn revoked(objects: &dyn Objects) -> Result<RevokedSessions> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut found = RevokedSessions::default();
    for meta in Calls::of(objects).list(layout::REVOKED).await? {
        match layout::parse(meta.key.as_str()) {
            Some(Place::Revoked(session)) if session.end().saturating_add(KEPT_FOR.as_secs()) < now.as_secs() => {
                found.done_with.push(meta.key);
            }
            Some(Place::Revoked(session)) => found.sessions.push(session),
            // `larder check` reports unknown keys.
            _ => {}
        }
    }
    Ok(found)
}

/// Removes the notes of sessions that have ended. The format of the store must have been confirmed.
pub async fn remove(objects: &dyn Objects, done_with: &[Key]) -> Result<()> {
    Calls::of(objects).delete(done_with).await
}
