//! Damage of the store: whoever meets it removes the damaged thing, and then the build begins again, which makes or
//! fetches it anew and takes everything else from the store.

use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::sync::Arc;

use crate::error::BuildError;
use crate::oci::{DiffId, Digest};
use crate::progress::{Event, Events, Warning};
use crate::store::{Store, StoreError, VerifyError};

/// The rule by which damage is told.
const RULE: &str = "store-damaged";

/// What an error found to be damaged or lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Damaged {
    Blob(Digest),
    Layer(DiffId),
}

/// Builds until there is an image or an error that is no damage, or the same thing is damaged again. Damage is told.
#[expect(clippy::needless_pass_by_value, reason = "it is shared with every try")]
pub(crate) fn healing<T>(
    store: &Store,
    events: Events,
    mut build: impl FnMut(Events) -> Result<T, BuildError>,
) -> Result<T, BuildError> {
    let mut healed = BTreeSet::new();
    let mut made_room = false;
    loop {
        let result = build(Arc::clone(&events));
        tell_damage(store, &events);
        let error = match result {
            Ok(result) => return Ok(result),
            Err(error) => error,
        };
        if !made_room && error.parts().iter().any(|part| is_full(part)) && super::room::empty_full_disk(store, &events)
        {
            made_room = true;
            continue;
        }
        match error.parts().iter().find_map(|part| damaged(part)) {
            Some(damaged) if healed.insert(damaged) => match damaged {
                Damaged::Blob(digest) => tell(&events, format!("the blob `{digest}` was damaged")),
                Damaged::Layer(diff_id) => tell(&events, format!("the layer {diff_id} was lost")),
            },
            _ => return Err(error),
        }
    }
}

/// Tells what was found damaged in the store through this handle, as warnings.
pub fn tell_damage(store: &Store, events: &Events) {
    store.take_damage().into_iter().for_each(|text| tell(events, text));
}

fn tell(events: &Events, what: String) {
    events.event(Event::Warning(Warning {
        rule: RULE.to_owned(),
        message: format!("the store was damaged: {what}; it is made anew"),
        help: "`rbuild cache check` reads everything and says what else is damaged".to_owned(),
        span: None,
    }));
}

/// Whether the cause of an error is a full disk.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// What an error found to be damaged.
fn damaged(error: &(dyn Error + 'static)) -> Option<Damaged> {
    let mut next = Some(error);
    while let Some(error) = next {
        match error.downcast_ref() {
            Some(StoreError::BlobCorrupt { digest, .. }) => return Some(Damaged::Blob(*digest)),
            Some(StoreError::LayerLost { diff_id }) => return Some(Damaged::Layer(*diff_id)),
            _ => {}
        }
        // The sources of an I/O error begin below the error that it holds.
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let verify = held.and_then(|held| held.downcast_ref()).or_else(|| error.downcast_ref());
        if let Some(error) = verify {
            return Some(Damaged::Blob(match error {
                VerifyError::Digest { expected, .. }
                | VerifyError::TooShort { expected, .. }
                | VerifyError::TooLong { expected, .. } => *expected,
            }));
        }
        next = match held {
            Some(held) => Some(held),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damage(of: &[u8]) -> BuildError {
        let error = VerifyError::Digest { expected: Digest::of(of), found: Digest::of(b"other") };
        BuildError::failed("read a layer", io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn each_blob_is_healed_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let events: Events = Arc::new(|_: Event| {});
        let mut count = 0_u8;
        let result = healing(&store, Arc::clone(&events), |_| {
            count += 1;
            if count < 4 { Err(damage(&[count])) } else { Ok(count) }
        });
        assert_eq!(result.unwrap(), 4);
        let mut count = 0;
        let result: Result<(), _> = healing(&store, Arc::clone(&events), |_| {
            count += 1;
            Err(damage(b"same"))
        });
        assert!(result.is_err() && count == 2);
        let other =
            healing(&store, events, |_| -> Result<(), _> { Err(BuildError::failed("read", io::Error::other("x"))) });
        assert!(other.is_err());
    }
}
