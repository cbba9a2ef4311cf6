//! What a store has, counted.

pub mod inventory;
pub mod scan;
