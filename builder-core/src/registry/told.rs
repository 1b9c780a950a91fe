//! How far the blobs are that are moved.

use std::io::{self, Read};

use crate::oci::Descriptor;
use crate::progress::{Event, Events};

/// A [`Event::Transfer`] is sent whenever this many further bytes are done.
const EVENT_EVERY: u64 = 512 * 1024;

/// Tells a transfer's progress.
pub(super) fn tell(events: Option<&Events>, descriptor: &Descriptor, done: u64) {
    if let Some(events) = events {
        events.event(Event::Transfer { what: descriptor.digest.to_string(), done, total: Some(descriptor.size) });
    }
}

/// A reader that tells its progress.
pub(super) struct Told<'a, R> {
    inner: R,
    descriptor: &'a Descriptor,
    events: Option<&'a Events>,
    done: u64,
    told: u64,
}

impl<'a, R> Told<'a, R> {
    pub(super) fn new(inner: R, descriptor: &'a Descriptor, events: Option<&'a Events>) -> Self {
        tell(events, descriptor, 0);
        Self { inner, descriptor, events, done: 0, told: 0 }
    }
}

impl<R: Read> Read for Told<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.done += count as u64;
        if self.done - self.told >= EVENT_EVERY || (self.done == self.descriptor.size && self.told < self.done) {
            self.told = self.done;
            tell(self.events, self.descriptor, self.done);
        }
        Ok(count)
    }
}
