//! The store itself: its format, its secret, its readiness, its revoked sessions.

pub mod format;
pub mod ready;
pub mod revoked;
pub mod signing_key;
