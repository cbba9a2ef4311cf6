//! Larder as its clients and operators meet it: the real server on real files.

mod call;
mod crash;
mod wire;
mod world;

mod bad_input;
mod objects;
mod registry;
mod server;
mod shape;
mod views;
