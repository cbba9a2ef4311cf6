//! Commands beside `serve`.

mod ask;
pub mod banner;
pub mod bench;
pub mod check;
pub mod config;
mod docker;
pub mod gc;
pub mod inspect;
mod lines;
pub mod log;
pub mod login;
pub mod ls;
pub mod policy;
mod reach;
mod show;
pub mod status;
pub mod token;
pub mod user;
