//! Common parts of all doors, of no protocol: bodies, answers, ranges, entity tags, refusals, deadlines, tasks, the
//! audit log, log lines, browsers, builds, misspelt names.
//!
//! Invariant: the kit knows no door, and doors know the kit and not each other; `tests/it/shape.rs` enforces it.

pub mod admit;
pub mod answer;
pub mod audit;
pub mod body;
pub mod browser;
pub mod builds;
pub mod etag;
pub mod logged;
pub mod nearby;
pub mod origin;
pub mod range;
pub mod refusal;
pub mod task;
