pub mod buildkit;
pub mod digest;
pub mod names;
