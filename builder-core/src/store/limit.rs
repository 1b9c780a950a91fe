//! The one limit of a store's size (`cache.max`), and keeping it.
//!
//! The limit is a record in the file `limit`. Before something is written, the least recently used results go until
//! there is room for it. How much room there is is counted now and then, not for every byte: a process counts what it
//! writes, and looks again when it has used up a part of the room that it saw. So what is written at once without
//! being counted (the files of a RUN step) may pass the limit by as much, until the step is over.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::file;
use super::prune::PruneOptions;
use super::{Store, StoreError};

/// The file with the limit.
const LIMIT: &str = "limit";

/// The part of the limit that is free after room was made: one in so many.
const FREE_PART: u64 = 8;

/// The part of the free room that a process writes before it counts again: others may write as well.
const LOOK_PART: u64 = 4;

/// The least that is written before the store is counted again, in bytes.
const LEAST_STEP: u64 = 1 << 20;

/// A store that holds more than it may, because images or running builds need what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overfull {
    /// What it holds, in bytes as `du` counts them.
    pub used_bytes: u64,
    /// What it may hold.
    pub limit_bytes: u64,
}

/// What a store handle knows of the room that there is.
#[derive(Debug, Default)]
pub(super) struct Room(Mutex<RoomState>);

#[derive(Debug, Default)]
struct RoomState {
    /// The limit, once it was read.
    limit: Option<Option<u64>>,
    /// What may be written before the store is counted again.
    left: u64,
    /// What was written in all.
    written: u64,
}

impl Store {
    /// The most bytes that the store may hold; `None` where no limit was set.
    ///
    /// # Errors
    /// When the record of it can't be read.
    pub fn limit(&self) -> Result<Option<u64>, StoreError> {
        let text = self.read_noted(&self.path(LIMIT))?;
        Ok(text.and_then(|text| std::str::from_utf8(&text).ok()?.trim().parse().ok()))
    }

    /// Sets the most bytes that the store may hold, for every process from now on; `None` for no limit.
    ///
    /// # Errors
    /// When it can't be written down.
    pub fn set_limit(&self, limit_bytes: Option<u64>) -> Result<(), StoreError> {
        match limit_bytes {
            Some(bytes) => self.write_record(&self.path(LIMIT), format!("{bytes}\n").as_bytes())?,
            None => file::remove(&self.path(LIMIT)).map(|_| ())?,
        }
        *self.room() = RoomState::default();
        Ok(())
    }

    /// Uses another limit than the store's own for what is written through this handle.
    pub fn use_limit(&self, limit_bytes: u64) {
        self.room().limit = Some(Some(limit_bytes));
    }

    /// Notes that something was written; whether it is time to make room.
    pub(super) fn wrote(&self, bytes: u64) -> bool {
        let mut room = self.room();
        room.written += bytes;
        room.left = room.left.saturating_sub(bytes);
        room.left == 0 && !matches!(room.limit, Some(None))
    }

    /// Makes room where what was counted last is used up. Nothing fails here: who writes goes on without room as well.
    pub(super) fn make_room_when_due(&self) {
        if self.room().left > 0 {
            return;
        }
        if let Err(error) = self.make_room() {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not make room in the store");
        }
    }

    /// Keeps the limit after something was written: for the end of a build, whose claims were given up.
    ///
    /// # Errors
    /// As [`Store::prune`].
    pub fn keep_limit(&self) -> Result<Option<Overfull>, StoreError> {
        if self.room().written == 0 { Ok(None) } else { self.make_room() }
    }

    /// Removes the least recently used until the store holds less than its limit, if it has one.
    fn make_room(&self) -> Result<Option<Overfull>, StoreError> {
        let known = self.room().limit;
        let limit = match known {
            Some(limit) => limit,
            None => self.limit()?,
        };
        self.room().limit = Some(limit);
        let Some(limit_bytes) = limit else {
            self.room().left = u64::MAX;
            return Ok(None);
        };
        let free = limit_bytes / FREE_PART;
        let mut used_bytes = self.usage()?.total_bytes();
        if used_bytes.saturating_add(free) > limit_bytes {
            self.prune(&PruneOptions {
                now: SystemTime::now(),
                unused_for: None,
                keep_bytes: Some(limit_bytes - 2 * free),
                cache_mounts: true,
                dry_run: false,
            })?;
            used_bytes = self.usage()?.total_bytes();
        }
        self.room().left = (limit_bytes.saturating_sub(used_bytes) / LOOK_PART).max(LEAST_STEP);
        Ok((used_bytes > limit_bytes).then_some(Overfull { used_bytes, limit_bytes }))
    }

    fn room(&self) -> std::sync::MutexGuard<'_, RoomState> {
        self.inner.room.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;
    use super::*;
    use crate::oci::Descriptor;

    /// Puts a blob of a megabyte that only a step's record keeps, as a process of its own would.
    fn put(store: &Store, number: u32) -> Descriptor {
        let process = Store::open(store.root()).unwrap();
        let blob = process.put_blob(&number.to_le_bytes().repeat(1 << 18), "x/y").unwrap();
        process.write_step(&format!("step-{number}"), blob.digest.to_string().as_bytes()).unwrap();
        blob
    }

    #[test]
    fn the_least_recently_used_goes_before_the_limit_is_passed() {
        const LIMIT_BYTES: u64 = 10 << 20;
        let (_dir, store) = scratch();
        store.set_limit(Some(LIMIT_BYTES)).unwrap();
        assert_eq!(Store::open(store.root()).unwrap().limit().unwrap(), Some(LIMIT_BYTES));
        let first = put(&store, 0);
        for number in 1..40 {
            let latest = put(&store, number);
            let used = store.usage().unwrap().total_bytes();
            assert!(used <= LIMIT_BYTES, "{used} after {number}");
            assert!(store.blob_path(&latest.digest).exists());
        }
        assert!(!store.blob_path(&first.digest).exists());
        // Without the limit everything stays.
        store.set_limit(None).unwrap();
        (100..115).for_each(|number| drop(put(&store, number)));
        assert!(store.usage().unwrap().total_bytes() > LIMIT_BYTES);
    }

    #[test]
    fn what_has_a_name_passes_the_limit_and_that_is_told() {
        const LIMIT_BYTES: u64 = 2 << 20;
        let (_dir, store) = scratch();
        let blobs: Vec<_> = (0..4).map(|number| put(&store, number)).collect();
        for (number, blob) in blobs.iter().enumerate() {
            store.tag(&format!("app:{number}"), blob).unwrap();
        }
        store.use_limit(LIMIT_BYTES);
        let over = store.keep_limit().unwrap().unwrap();
        assert!(over.limit_bytes == LIMIT_BYTES && over.used_bytes > 4 << 20, "{over:?}");
        assert!(blobs.iter().all(|blob| store.blob_path(&blob.digest).exists()));
    }
}
