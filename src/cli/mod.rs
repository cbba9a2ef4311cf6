//! Commands beside `serve`.

pub mod check;
pub mod inspect;
mod lines;
