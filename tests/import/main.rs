//! Importing logs: what is kept, what is refused and how it is named, and that training sees what serving would.

mod beauty;
mod commands;
mod fixtures;
mod kept;
#[path = "../support/program.rs"]
mod program;
mod refused;
#[path = "../support/skip.rs"]
mod skip;
mod synthetic;
mod visible;
