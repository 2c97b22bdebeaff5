//! Signals to processes.

use std::process::Command;

/// Sends one such as "TERM" or "STOP".
pub fn send(name: &str, process: u32) {
    let status = Command::new("kill").args([format!("-{name}"), process.to_string()]).status();
    assert!(status.expect("kill is there").success());
}
