//! Collection: what goes, and that nothing else does.

mod entries;
mod model;
mod room;
mod subjects;
