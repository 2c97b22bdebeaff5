//! Ctrl-C and SIGTERM, from the first stage to the last: once anything in the process listens for them (training
//! does), they no longer end the process by themselves, so somebody has to listen all the time.

use tokio::sync::watch;

use crate::cli::signals::StopSignals;

/// Whether Ctrl-C was pressed, or SIGTERM came. The second one ends the process at once.
#[derive(Clone)]
pub(super) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Listens from now on.
    pub(super) fn listen() -> Self {
        let (pressed, receiver) = watch::channel(false);
        let mut stop = StopSignals::listen();
        tokio::spawn(async move {
            stop.next().await;
            pressed.send_replace(true);
            stop.next().await;
            std::process::exit(EXIT_CODE);
        });
        Self(receiver)
    }

    /// Ends when it is, or has been.
    pub(super) async fn pressed(&self) {
        if self.0.clone().wait_for(|&pressed| pressed).await.is_err() {
            // There are no signals here.
            std::future::pending().await
        }
    }

    /// Whether it has been.
    pub(super) fn is_pressed(&self) -> bool {
        *self.0.borrow()
    }
}

/// What shells expect of a program that ends by Ctrl-C.
pub(super) const EXIT_CODE: i32 = 130;
