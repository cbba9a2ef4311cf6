//! Caches of builds: what is pushed to a cache tag, and what it serves.

pub mod hint;
pub mod inspect;
pub mod make;
pub mod outline;
pub mod views;
