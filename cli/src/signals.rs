//! Signals that ask to stop: the first cancels what runs, the second ends the process.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::{Failure, Kind};

/// What has been asked by signals.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    asked: Arc<AtomicBool>,
    signal: Arc<AtomicI32>,
}

impl Stop {
    /// Begins to listen. Starts a thread, so a user namespace must have been entered before.
    ///
    /// # Errors
    /// When the signals cannot be had.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let stop = Self { asked: Arc::new(AtomicBool::new(false)), signal: Arc::new(AtomicI32::new(0)) };
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
            .map_err(|error| Failure::caused(Kind::Environment, "cannot listen to signals", &error))?;
        let shared = stop.clone();
        std::thread::spawn(move || {
            for signal in signals.forever() {
                if shared.asked.swap(true, Ordering::SeqCst) {
                    // Dies of the signal itself, so that a shell sees why.
                    let _ = signal_hook::low_level::emulate_default_handler(signal);
                }
                shared.signal.store(signal, Ordering::SeqCst);
                let _ = writeln!(std::io::stderr(), "\nstopping; once more stops at once");
            }
        });
        Ok(stop)
    }

    /// A flag that is set once a signal came.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.asked)
    }

    /// The signal that came.
    pub(crate) fn signal(&self) -> Option<i32> {
        Some(self.signal.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
    }

    /// The failure to report where a signal came: the others are only its consequences.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.signal().map(|signal| Failure::new(Kind::Cancelled(signal), "stopped by a signal"))
    }
}
