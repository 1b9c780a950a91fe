//! Moves several blobs at once and tells how far they are.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::error::RegistryError;
use crate::oci::Descriptor;
use crate::progress::{Event, Events};

/// A [`Event::Transfer`] is sent whenever this many further bytes are done.
const EVENT_EVERY: u64 = 512 * 1024;

/// Does `work` for each item, `threads` at a time; after the first error nothing new is begun.
pub(super) fn in_parallel<T: Sync>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> Result<(), RegistryError> + Sync,
) -> Result<(), RegistryError> {
    let (next, failed, first) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
    let worker = || {
        while !failed.load(Ordering::Relaxed) {
            let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            if let Err(error) = work(item) {
                failed.store(true, Ordering::Relaxed);
                first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.clamp(1, items.len().max(1)) {
            scope.spawn(worker);
        }
        worker();
    });
    first.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

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
