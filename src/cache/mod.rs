//! Caches of builds, the product: what is pushed to a cache tag is recorded beside what others pushed, and the tag serves the
//! best cache that can be proved complete. It knows no HTTP and no key: [`push`] and [`serve`] are what doors call, in the
//! form that their clients speak.

mod by_digest;
pub mod form;
mod found;
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
pub use found::{InspectedPush, Inspection, WITHOUT_MAX};
pub use kind::ServedKind;
pub use push::{ManifestPush, Pushed};
pub use service::Caches;
