//! Larder as its clients and operators meet it: the real server on real files.

mod bucket;
mod call;
mod crash;
mod disk;
mod fault;
mod tap;
mod wire;
mod world;

mod audit;
mod auth;
mod bad_input;
mod browsers;
mod check;
mod collect;
mod docs;
mod events;
mod fair;
mod forms;
mod objects;
mod over_s3;
mod pages;
mod registry;
mod room;
mod server;
mod shape;
mod tenants;
#[cfg(feature = "otel")]
mod trace;
mod upgrade;
mod versions;
mod views;
