//! What names content.

pub mod chain;
pub mod entries;
pub mod graph;
pub mod listing;
pub mod manifests;
pub mod pushes;
pub mod referrers;
pub mod root;
pub mod roots;
pub mod tag_root;
pub mod tags;
pub mod tenants;
