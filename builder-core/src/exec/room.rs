//! The limit of the store's size, as a build keeps it.

use std::time::SystemTime;

use super::options::BuildOptions;
use crate::progress::{Event, Events, Warning};
use crate::store::{PruneOptions, Store};

/// The rule by which a store without room is told.
const RULE: &str = "store-limit";

const MEGABYTE: u64 = 1_000_000;

/// Uses the limit that the caller gave, where one was given.
pub(crate) fn use_limit(store: &Store, options: &BuildOptions) {
    if let Some(bytes) = options.cache_max {
        store.use_limit(bytes);
    }
}

/// Keeps the limit at the end of a build, whose result is no more in use than any other. What can't be kept is told.
pub(crate) fn keep_limit(store: &Store, events: &Events) {
    store.give_up_claims();
    match store.keep_limit() {
        Ok(None) => {}
        Ok(Some(over)) => events.event(Event::Warning(Warning {
            rule: RULE.to_owned(),
            message: format!(
                "the store holds {} MB, more than its limit of {} MB: named images and running builds need it",
                over.used_bytes / MEGABYTE,
                over.limit_bytes / MEGABYTE
            ),
            help: "remove images with `rbuild rmi`, or raise the limit with `rbuild cache limit SIZE`".to_owned(),
            span: None,
        })),
        Err(error) => events.event(Event::Note(format!("could not keep the limit of the store: {error}"))),
    }
}

/// The disk of the store counts as full when less than this is free: bytes.
const FULL: u64 = 32 << 20;

/// Removes the least recently used half of the store where its disk is full; whether there is room now. What the build
/// needed so far may go too and is then made again.
pub(crate) fn empty_full_disk(store: &Store, events: &Events) -> bool {
    let free = rustix::fs::statvfs(store.root()).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    if !free.is_ok_and(|free| free < FULL) {
        return false;
    }
    store.give_up_claims();
    let Ok(usage) = store.usage() else { return false };
    let pruned = store.prune(&PruneOptions {
        now: SystemTime::now(),
        unused_for: None,
        keep_bytes: Some(usage.total_bytes() / 2),
        cache_mounts: true,
        dry_run: false,
    });
    let Some(freed) = pruned.ok().map(|pruned| pruned.freed_bytes).filter(|freed| *freed > 0) else { return false };
    events.event(Event::Warning(Warning {
        rule: RULE.to_owned(),
        message: format!("the disk of the store was full: {} MB of earlier results were removed", freed / MEGABYTE),
        help: "`rbuild cache limit SIZE` keeps the store small before the disk is full".to_owned(),
        span: None,
    }));
    true
}
