//! What names content.

pub mod chain;
pub mod manifests;
pub mod pushes;
pub mod referrers;
mod reserved;
pub mod tags;
pub mod tenants;
