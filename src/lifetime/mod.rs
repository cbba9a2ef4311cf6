//! How long content stays.

pub mod collect;
pub mod delete;
