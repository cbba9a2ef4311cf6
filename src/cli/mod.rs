//! Commands beside `serve`.

mod ask;
pub mod bench;
pub mod check;
pub mod gc;
pub mod inspect;
mod lines;
pub mod log;
pub mod ls;
mod show;
pub mod status;
