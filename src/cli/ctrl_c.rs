//! Ctrl-C, from the moment somebody listens.

/// Presses of Ctrl-C. `tokio::signal::ctrl_c` listens from its first poll on: what is pressed before a task that awaits it
/// first runs is lost, and no longer ends the process either. This listens from the moment it is made.
pub(super) struct CtrlC(#[cfg(unix)] Option<tokio::signal::unix::Signal>);

impl CtrlC {
    #[cfg(unix)]
    pub(super) fn listen() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        Self(signal(SignalKind::interrupt()).ok())
    }

    #[cfg(not(unix))]
    pub(super) fn listen() -> Self {
        Self()
    }

    /// Ends when it is pressed, or has been since the last time; never where there are no signals.
    pub(super) async fn pressed(&mut self) {
        #[cfg(unix)]
        let pressed = match &mut self.0 {
            Some(signal) => signal.recv().await.is_some(),
            None => false,
        };
        #[cfg(not(unix))]
        let pressed = tokio::signal::ctrl_c().await.is_ok();
        if !pressed {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::{process::Command, time::Duration};

    use super::*;

    #[tokio::test]
    async fn a_press_before_it_is_awaited_is_not_lost() {
        let mut ctrl_c = CtrlC::listen();
        let process = std::process::id().to_string();
        assert!(Command::new("kill").args(["-INT", &process]).status().unwrap().success());
        tokio::time::timeout(Duration::from_secs(60), ctrl_c.pressed()).await.expect("it was pressed");
    }
}
