//! The store itself: its format, its secret, whether it answers.

pub mod format;
pub mod ready;
pub mod revoked;
pub mod signing_key;
