//! Content: bytes by digest in a tenant, and all that keeps an answer about them true.
//!
//! Callers work with handles: [`Reader`] reads in the tenants of a chain, [`Writer`] writes to the first of them,
//! [`Eraser`] may delete. A permit of one right makes no handle of another, and the handle of a parent is a `Reader`.
//!
//! Two verbs carry the protocol of pending deletions, so that no caller can leave a step out:
//!
//! - [`Pin::vouch`]: spare what is condemned, then look. What it finds is a [`Vouched`], and whoever says that content is
//!   there says it by one of these.
//! - [`Content::write`], and [`Pin::write`] within an answer: pin a snapshot, spare, write, look again where the snapshot has
//!   become too old, remember. What it made is a [`Written`], and 201 is said by one of these.
//!
//! Files import downwards in this order: what is known ([`condemned`], [`presence`], [`verdicts`], [`quarantine`],
//! [`tombstones`]), the service that holds it ([`service`]), the verbs ([`lookup`], [`mod@write`]), and what callers do
//! ([`blobs`], [`read`], [`staging`], [`pieces`]).

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
