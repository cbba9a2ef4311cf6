//! Content: bytes by digest in a tenant, and the protocol that keeps an answer about them true.
//!
//! Callers work with handles: [`Reader`] reads in the tenants of a chain, [`Writer`] writes to the first of them,
//! [`Eraser`] may delete. A permit of one right makes no handle of another, and the handle of a parent is a `Reader`.
//!
//! Two verbs carry the protocol of pending deletions, so that no caller can leave a step out:
//!
//! - [`Pin::vouch`]: spare the object if it is condemned, then look it up. The result is a [`Vouched`], and every
//!   answer that content exists is made of one.
//! - [`Content::write`], and [`Pin::write`] within an answer: pin a snapshot, spare, write, look again if the snapshot
//!   has become too old, remember. The result is a [`Written`], and every 201 is made of one.
//!
//! Files import downwards in this order: knowledge of objects ([`condemned`], [`presence`], [`verdicts`],
//! [`quarantine`], [`tombstones`]), the service that holds it ([`service`]), the verbs ([`lookup`], [`mod@write`]), and
//! the operations of callers ([`blobs`], [`read`], [`staging`], [`pieces`]).

pub mod blobs;
pub mod clock;
pub mod condemned;
pub mod handles;
pub mod lookup;
pub mod pieces;
pub mod presence;
pub mod quarantine;
pub mod read;
mod receive;
pub mod service;
pub mod small;
pub mod staging;
pub mod tombstones;
pub mod uploads;
pub mod verdicts;
mod verify;
pub mod write;

pub use condemned::Snapshot;
pub use handles::{Eraser, Reader, Writer};
pub use lookup::{Pin, Vouched};
pub use service::Content;
pub use write::Written;
