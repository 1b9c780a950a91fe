//! The limit of the store's size, as a build keeps it.

use super::options::BuildOptions;
use crate::progress::{Event, Events, Warning};
use crate::store::Store;

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
