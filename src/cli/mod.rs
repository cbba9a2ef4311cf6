//! Commands that ask a running server.

pub mod inspect;
pub mod log;
