//! Looking into data and models, and evaluation through a server, as a user runs them on small synthetic logs.

mod commands;
#[path = "../support/program.rs"]
mod program;
mod replay;
mod world;
