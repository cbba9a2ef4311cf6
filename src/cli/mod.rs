//! Commands beside `serve`.

pub mod check;
pub mod gc;
pub mod inspect;
mod lines;
pub mod log;
