//! Signals, from the moment somebody listens.

#[cfg(unix)]
use tokio::signal::unix::{self, SignalKind};
use tokio::task::JoinHandle;

/// The exit code that shells expect of a program that ends by Ctrl-C.
pub(super) const INTERRUPTED: i32 = 130;

/// Signals of one kind. `tokio::signal::ctrl_c` listens from its first poll on: what comes before a task that awaits it
/// first runs is lost, or ends the process. This listens from the moment it is made. Where there are no such signals,
/// none comes.
pub(super) struct Signals {
    #[cfg(unix)]
    signals: Option<unix::Signal>,
    #[cfg(not(unix))]
    interrupts: bool,
}

impl Signals {
    /// SIGINT: Ctrl-C.
    pub(super) fn interrupts() -> Self {
        #[cfg(unix)]
        return Self::listen(SignalKind::interrupt());
        #[cfg(not(unix))]
        Self { interrupts: true }
    }

    /// SIGTERM, as service managers send it.
    pub(super) fn terminations() -> Self {
        #[cfg(unix)]
        return Self::listen(SignalKind::terminate());
        #[cfg(not(unix))]
        Self { interrupts: false }
    }

    /// SIGHUP.
    pub(super) fn hangups() -> Self {
        #[cfg(unix)]
        return Self::listen(SignalKind::hangup());
        #[cfg(not(unix))]
        Self { interrupts: false }
    }

    #[cfg(unix)]
    fn listen(kind: SignalKind) -> Self {
        let signals = unix::signal(kind);
        if let Err(error) = &signals {
            tracing::warn!(?kind, %error, "these signals will not be heard");
        }
        Self { signals: signals.ok() }
    }

    /// Ends when one comes, or has come since the last time.
    pub(super) async fn next(&mut self) {
        #[cfg(unix)]
        let came = match &mut self.signals {
            Some(signals) => signals.recv().await.is_some(),
            None => false,
        };
        #[cfg(not(unix))]
        let came = self.interrupts && tokio::signal::ctrl_c().await.is_ok();
        if !came {
            std::future::pending::<()>().await;
        }
    }
}

/// What asks a process to stop.
pub(super) struct StopSignals {
    interrupts: Signals,
    terminations: Signals,
}

impl StopSignals {
    /// SIGINT and SIGTERM.
    pub(super) fn listen() -> Self {
        Self { interrupts: Signals::interrupts(), terminations: Signals::terminations() }
    }

    /// The next one's name.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            () = self.interrupts.next() => "SIGINT",
            () = self.terminations.next() => "SIGTERM",
        }
    }
}

/// Hands the first signal that asks to stop, from now on, to `in_order`, by its name. The second one ends the process
/// at once.
pub(super) fn on_stop(in_order: impl FnOnce(&'static str) + Send + 'static) -> JoinHandle<()> {
    let mut stop = StopSignals::listen();
    tokio::spawn(async move {
        let signal = stop.next().await;
        in_order(signal);
        stop.next().await;
        std::process::exit(INTERRUPTED)
    })
}

#[cfg(all(test, unix))]
mod tests {
    use std::{process::Command, time::Duration};

    use super::*;

    #[tokio::test]
    async fn what_comes_before_it_is_awaited_is_not_lost() {
        let (mut stop, mut hangups) = (StopSignals::listen(), Signals::hangups());
        let process = std::process::id().to_string();
        for signal in ["-INT", "-HUP"] {
            assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
        }
        let both = async { (stop.next().await, hangups.next().await) };
        let (stopped, ()) = tokio::time::timeout(Duration::from_secs(60), both).await.expect("they came");
        assert_eq!(stopped, "SIGINT");
    }
}
