//! Lifetime of content: deletion by a caller, and collection.

pub mod collect;
pub mod delete;
