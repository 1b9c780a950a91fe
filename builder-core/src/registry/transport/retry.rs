//! Tries again what faults that pass got in the way of.

use std::thread;
use std::time::{Duration, Instant};

use super::TransportOptions;
use crate::progress::Event;

const PAUSE_MAX: Duration = Duration::from_secs(60);
const BUDGET: Duration = Duration::from_secs(300);
const UNLIKELY_ATTEMPTS: u32 = 3;
const SLICE: Duration = Duration::from_millis(50);

/// An error that may be a fault that passes.
pub(crate) trait Passing {
    /// Whether the same may succeed later; with the time that the server asks to wait, where it says so.
    fn passing(&self) -> Option<Option<Duration>>;
    /// Whether the fault most often is none that passes (nobody listens, no such host), so that patience only costs time.
    fn is_unlikely_to_pass(&self) -> bool;
    /// The error for work that was told to end.
    fn cancelled(self) -> Self;
    /// One line for people.
    fn line(&self) -> String;
}

/// How often and how patiently.
pub(crate) struct Retry<'a> {
    options: &'a TransportOptions,
    attempts: u32,
    attempt: u32,
    started: Instant,
}

impl<'a> Retry<'a> {
    pub(crate) fn new(options: &'a TransportOptions) -> Self {
        Self::with_attempts(options, options.attempts)
    }

    /// As [`Self::new`], with another number of attempts.
    pub(crate) fn with_attempts(options: &'a TransportOptions, attempts: u32) -> Self {
        Self { options, attempts, attempt: 0, started: Instant::now() }
    }

    /// Runs `work` until it succeeds, fails for good, or the attempts are used up.
    pub(crate) fn run<T, E: Passing>(mut self, mut work: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        loop {
            match work() {
                Ok(value) => return Ok(value),
                Err(error) => self.pause(error)?,
            }
        }
    }

    /// Waits until it is time to try again after `error`, or gives it back.
    pub(crate) fn pause<E: Passing>(&mut self, error: E) -> Result<(), E> {
        let Some(asked) = error.passing() else { return Err(error) };
        self.attempt += 1;
        let pause = pause_before(self.attempt, self.options.first_pause, asked);
        let attempts = if error.is_unlikely_to_pass() { self.attempts.min(UNLIKELY_ATTEMPTS) } else { self.attempts };
        if self.attempt >= attempts || self.started.elapsed() + pause > BUDGET {
            return Err(error);
        }
        if let Some(events) = &self.options.events {
            let wait = pause.as_secs_f32();
            events.event(Event::Note(format!("{}; trying again in {wait:.1} s", error.line())));
        }
        let end = Instant::now() + pause;
        loop {
            if self.options.cancelled.is_cancelled() {
                return Err(error.cancelled());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(SLICE));
        }
    }

    /// Starts to count anew, because the work got further.
    pub(crate) fn progressed(&mut self) {
        self.attempt = 0;
        self.started = Instant::now();
    }
}

fn pause_before(attempt: u32, first: Duration, asked: Option<Duration>) -> Duration {
    let doubled = first.saturating_mul(1 << attempt.saturating_sub(1).min(16));
    asked.unwrap_or(doubled).min(PAUSE_MAX)
}

/// Reads a `Retry-After` header: seconds, or a date, which is compared with the answer's own `Date`.
pub(crate) fn retry_after(headers: &ureq::http::HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |text: &str| jiff::fmt::rfc2822::parse(text).ok().map(|date| date.timestamp());
    let now = date(headers.get("date")?.to_str().ok()?)?;
    let seconds = date(text)?.as_second() - now.as_second();
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ureq::http::HeaderMap;

    #[test]
    fn pauses_grow_and_obey() {
        let first = Duration::from_millis(500);
        assert_eq!(pause_before(1, first, None), first);
        assert_eq!(pause_before(3, first, None), first * 4);
        assert_eq!(pause_before(30, first, None), PAUSE_MAX);
        assert_eq!(pause_before(1, first, Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(pause_before(1, first, Some(Duration::from_secs(1 << 40))), PAUSE_MAX);
    }

    #[test]
    fn reads_retry_after() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in pairs {
                map.insert(*name, value.parse().unwrap());
            }
            map
        };
        assert_eq!(retry_after(&headers(&[("retry-after", "12")])), Some(Duration::from_secs(12)));
        assert_eq!(retry_after(&headers(&[("retry-after", "soon")])), None);
        let dates = [("date", "Wed, 21 Oct 2015 07:28:00 GMT"), ("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT")];
        assert_eq!(retry_after(&headers(&dates)), Some(Duration::from_secs(30)));
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
