pub mod digest;
pub mod names;
pub mod objects;
