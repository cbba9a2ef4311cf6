//! Caches of builds: a push to a cache tag is recorded beside the pushes of others, and the tag serves the best cache
//! that can be proved complete. This room knows no HTTP and no keys: doors call [`push`] and [`serve`], in the form
//! that their clients speak.

mod by_digest;
pub mod form;
mod found;
mod image;
mod inspect;
mod kind;
mod load;
mod make;
mod memory;
pub mod outline;
mod parse;
pub mod push;
pub mod serve;
mod service;
mod tree;
mod views;

pub use form::WireForm;
pub use found::{ImageLayer, InspectedImage, InspectedPush, Inspection, WITHOUT_MAX};
pub use kind::ServedKind;
pub use push::{ManifestPush, Pushed};
pub use service::Caches;
