//! Larder as its clients and operators meet it: the real server on real files.

mod bucket;
mod call;
mod counting;
mod crash;
mod wire;
mod world;

mod auth;
mod bad_input;
mod objects;
mod over_s3;
mod registry;
mod server;
mod shape;
mod views;
