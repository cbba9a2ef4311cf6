//! References: everything that references content. Tags, manifests, push records, stored views, referrers.
//!
//! Invariant: content, then record, then pointer. All content that a durable object references was durable before it.
//!
//! A [`Repo`] reads one repository, a [`RepoWriter`] writes to it, a [`RepoEraser`] deletes from it; each is made of a
//! permit with that right.

pub mod chain;
pub mod deletions;
pub mod entries;
pub mod graph;
pub mod inventory;
pub mod listing;
pub mod lists;
pub mod manifests;
pub mod page;
pub mod pointer;
pub mod pushes;
pub mod referrers;
mod reserved;
pub mod repo;
pub mod root;
pub mod roots;
pub mod service;
pub mod stored_view;
pub mod tag_root;
pub mod tags;
pub mod used;
pub mod withdraw;

pub use repo::{Repo, RepoEraser, RepoWriter};
pub use service::Refs;
