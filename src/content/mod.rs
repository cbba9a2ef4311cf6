//! Bytes by digest.

pub mod blobs;
pub mod clock;
pub mod condemned;
pub mod lookup;
pub mod presence;
pub mod quarantine;
pub mod read;
pub mod receive;
pub mod tombstones;
pub mod uploads;
pub mod verify;
