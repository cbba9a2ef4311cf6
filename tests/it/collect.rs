//! Collection: what goes, and that nothing else does.

mod model;
mod room;
