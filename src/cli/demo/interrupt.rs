//! Ctrl-C, from the first stage to the last: once anything in the process listens for it, it no longer ends the process
//! by itself, so somebody has to listen all the time.

use tokio::sync::watch;

use crate::cli::signals::Signals;

/// Whether Ctrl-C was pressed. Pressed again, it ends the process at once.
#[derive(Clone)]
pub(super) struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Listens from now on.
    pub(super) fn listen() -> Self {
        let (pressed, receiver) = watch::channel(false);
        let mut ctrl_c = Signals::interrupts();
        tokio::spawn(async move {
            ctrl_c.next().await;
            pressed.send_replace(true);
            ctrl_c.next().await;
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
