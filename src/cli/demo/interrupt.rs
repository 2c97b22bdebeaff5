//! Ctrl-C and SIGTERM, from the first stage to the last: once anything in the process listens for them (training
//! does), they no longer end the process by themselves, so somebody has to listen all the time.

use tokio::sync::watch;

use crate::cli::signals::on_stop;

/// Whether Ctrl-C was pressed, or SIGTERM came. The second one ends the process at once.
#[derive(Clone)]
pub(super) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Listens from now on.
    pub(super) fn listen() -> Self {
        let (pressed, receiver) = watch::channel(false);
        on_stop(move |_| {
            pressed.send_replace(true);
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
