//! Larder: a remote cache for container builds. `docs/architecture.md` tells how the parts work together.
//!
//! # Layout
//!
//! In reading order; a module imports only from those above it.
//!
//! - [`digest`], [`names`], [`human`], [`access`], [`stream`], [`mod@sync`], [`turns`], [`config`], [`events`], [`metrics`],
//!   [`operator`], [`paste`], [`systemd`], [`trace`]: the leaves.
//! - [`oci`]: manifests and indexes, parsed.
//! - [`buildkit`]: BuildKit's cache format and the view, pure functions.
//! - [`objects`]: bytes under keys, on a disk or in a bucket.
//! - [`error`], [`deadline`], [`calls`]: what may go wrong, how long a caller waits, and calls to the backend.
//! - [`layout`]: which key is what.
//! - [`meta`]: what a store says of itself, its format above all.
//! - [`hot`]: immutable bytes in memory.
//! - [`capacity`]: room for uploads.
//! - [`content`]: bytes by digest, in a tenant.
//! - [`refs`]: what names content.
//! - [`cache`]: cache tags, pushed and served.
//! - [`account`], [`lifetime`], [`check`]: what is stored, what goes, and whether all is well.
//! - [`store`]: these rooms, put together.
//! - [`jobs`]: work that a server does by itself, and how it went.
//! - [`auth`]: who asks, and may they.
//! - [`doors`]: the protocol fronts, and all that knows HTTP.
//! - [`app`]: from a configuration to a running server.

#![cfg_attr(not(test), deny(clippy::panic, clippy::unwrap_used))]

pub mod digest;
pub mod names;
pub mod human;
pub mod access;
pub mod stream;
pub mod sync;
pub mod turns;
pub mod config;
pub mod events;
pub mod metrics;
pub mod operator;
pub mod paste;
pub mod systemd;
pub mod trace;
pub mod oci;
pub mod buildkit;
pub mod objects;
pub mod error;
pub mod deadline;
pub mod calls;
pub mod layout;
pub mod meta;
pub mod hot;
pub mod capacity;
pub mod content;
pub mod refs;
pub mod cache;
pub mod account;
pub mod lifetime;
pub mod check;
pub mod store;
pub mod jobs;
pub mod auth;
pub mod doors;
pub mod app;
