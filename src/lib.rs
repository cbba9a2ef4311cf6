//! Larder: a remote cache for container builds. `docs/architecture.md` tells how the parts work together.
//!
//! # Layout
//!
//! In reading order; each module imports only from those above it and from its own children, but for `app`, which puts
//! all together.
//!
//! - [`digest`], [`names`], [`human`], [`access`], [`stream`], [`config`], [`events`], [`metrics`], [`operator`], [`systemd`],
//!   [`trace`]: the leaves.
//! - [`oci`]: manifests and indexes, parsed.
//! - [`buildkit`]: BuildKit's cache format and the view, pure functions.
//! - [`objects`]: bytes under keys, on a disk or in a bucket.
//! - [`hot`]: immutable bytes in memory.
//! - [`store`]: the house: blobs, uploads, manifests, tags.
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
pub mod config;
pub mod events;
pub mod metrics;
pub mod operator;
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
