//! The registry door, route by route.

mod blobs;
mod chunks;
mod interrupted;
pub mod lists;
mod manifests;
mod ranges;
mod referrers;
mod reserved;
mod rot;
mod same_head;
mod slow;
