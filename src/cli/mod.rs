//! Commands beside `serve`.

pub mod check;
mod docker;
pub mod gc;
pub mod inspect;
mod lines;
pub mod log;
pub mod login;
pub mod policy;
pub mod token;
