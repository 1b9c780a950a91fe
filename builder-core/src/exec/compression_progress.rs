//! How far the compression of a layer is, told once somebody waits for it.

use std::io;
use std::time::{Duration, Instant};

use crate::progress::{Event, Events};

/// Nothing is told of a layer before it was waited for so long.
const QUIET: Duration = Duration::from_secs(1);

/// It is told again after so many further bytes.
const EVENT_EVERY: u64 = 8 << 20;

/// Tells of one layer.
pub(super) struct Teller<'a> {
    events: &'a Events,
    what: String,
    total: u64,
    since: Option<Instant>,
    told: Option<u64>,
}

impl<'a> Teller<'a> {
    /// Tells of `what`, which has about `total` bytes.
    pub(super) const fn new(events: &'a Events, what: String, total: u64) -> Self {
        Self { events, what, total, since: None, told: None }
    }

    /// Takes note of how many bytes are done while somebody waits.
    pub(super) fn waited(&mut self, done: u64) {
        let since = self.since.get_or_insert_with(Instant::now);
        let is_due = match self.told {
            None => since.elapsed() >= QUIET,
            Some(told) => done >= told + EVENT_EVERY,
        };
        if is_due {
            self.told = Some(done);
            // All is done only at the end.
            self.tell(done.min(self.total.saturating_sub(1)));
        }
    }

    fn tell(&self, done: u64) {
        self.events.event(Event::Transfer { what: self.what.clone(), done, total: Some(self.total) });
    }
}

impl Drop for Teller<'_> {
    fn drop(&mut self) {
        if self.told.is_some() {
            self.tell(self.total);
        }
    }
}

/// Asks `before` each write whether the work is to go on.
pub(super) struct Watched<'a, F> {
    pub(super) out: &'a mut dyn io::Write,
    pub(super) before: F,
}

impl<F: FnMut() -> io::Result<()>> io::Write for Watched<'_, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.before)()?;
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What ends a write where the build is to stop.
pub(super) fn stop_if(is_stopped: bool) -> io::Result<()> {
    if is_stopped { Err(io::Error::other("the build is to stop")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn what_takes_long_is_told_until_it_is_done() {
        let told: Arc<Mutex<Vec<u64>>> = Arc::default();
        let events: Events = {
            let told = Arc::clone(&told);
            Arc::new(move |event| match event {
                Event::Transfer { done, total: Some(100_000_000), .. } => told.lock().unwrap().push(done),
                other => panic!("{other:?}"),
            })
        };
        let teller = || Teller::new(&events, "compress the layer".to_owned(), 100_000_000);
        let mut short = teller();
        (0..50).for_each(|part| short.waited(part * 2_000_000));
        drop(short);
        assert!(told.lock().unwrap().is_empty());
        let mut long = teller();
        long.since = Instant::now().checked_sub(QUIET);
        [10_000_000, 12_000_000, 90_000_000, 100_000_000].into_iter().for_each(|done| long.waited(done));
        drop(long);
        assert_eq!(*told.lock().unwrap(), [10_000_000, 90_000_000, 99_999_999, 100_000_000]);
    }
}
