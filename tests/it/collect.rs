//! Collection: the objects that are deleted, and that no others are.

mod entries;
mod model;
mod room;
mod subjects;
