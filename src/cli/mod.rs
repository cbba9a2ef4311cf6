//! Commands that ask a running server.

mod docker;
pub mod inspect;
pub mod login;
pub mod policy;
pub mod token;
