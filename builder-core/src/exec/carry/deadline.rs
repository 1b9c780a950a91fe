//! Work that nobody waits for longer than it is worth.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How often a wait looks at whether the build was cancelled.
const SLICE: Duration = Duration::from_millis(50);

/// Does work on a thread of its own; gives none when it takes longer than the limit or the build is cancelled.
///
/// The thread is left to itself then, and ends when the timeouts of its connection do.
pub(super) fn within<T: Send + 'static>(
    limit: Duration,
    is_cancelled: impl Fn() -> bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    // Nobody listens when the time is over.
    thread::spawn(move || sender.send(work()).ok());
    let started = Instant::now();
    loop {
        let left = limit.saturating_sub(started.elapsed());
        match receiver.recv_timeout(left.min(SLICE)) {
            Ok(value) => return Some(value),
            Err(RecvTimeoutError::Timeout) if !left.is_zero() && !is_cancelled() => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_no_longer_than_the_limit() {
        assert_eq!(within(Duration::from_secs(600), || false, || 7), Some(7));
        let (hold, held) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(1), || false, move || held.recv().is_ok()), None);
        let (hold_too, held) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_secs(600), || true, move || held.recv().is_ok()), None);
        drop((hold, hold_too));
    }
}
