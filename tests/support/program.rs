//! The program under test, as a process.
#![allow(dead_code, reason = "each test binary uses its part")]

#[allow(clippy::duplicate_mod, reason = "a part of several helpers, each of which can be there alone")]
#[path = "signal.rs"]
mod signal;
#[allow(clippy::duplicate_mod, reason = "a part of several helpers, each of which can be there alone")]
#[path = "wait.rs"]
mod wait;

use std::{
    ops::{Deref, DerefMut},
    process::{Child, Command, ExitStatus, Output},
};

use wait::until;

/// `sesrec` without the variables of whoever runs the tests: each of its flags has one.
pub fn sesrec() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sesrec"));
    let inherited = std::env::vars_os().map(|(name, _)| name);
    for name in inherited.filter(|name| name.to_string_lossy().starts_with("SESREC_")) {
        command.env_remove(name);
    }
    command
}

/// A process that does not outlive the test.
pub struct Running(Option<Child>);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Self(Some(command.spawn().unwrap()))
    }

    /// Sends a signal such as "TERM" or "HUP".
    pub fn signal(&self, name: &str) {
        signal::send(name, self.id());
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&mut self) {
        let child: &mut Child = self;
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits for its end, which is to come soon. Its input stays open meanwhile: `wait` would close it.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("it ends", async || {
            status = self.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.expect("it has ended")
    }

    /// Waits for its end; what it has written to its pipes.
    pub fn output(mut self) -> Output {
        self.0.take().expect("nobody else takes it").wait_with_output().unwrap()
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        self.0.as_ref().expect("only `output` takes it")
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        self.0.as_mut().expect("only `output` takes it")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a process has written.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it has written to standard error.
pub fn errors(output: &Output) -> String {
    text(&output.stderr)
}

/// All that it has written.
pub fn said(output: &Output) -> String {
    errors(output) + &text(&output.stdout)
}
