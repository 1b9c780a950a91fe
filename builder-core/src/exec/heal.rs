//! Damaged blobs of the store: whoever meets one removes it, and then the build begins again, which makes or fetches
//! that blob anew and takes everything else from the store.

use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::sync::Arc;

use crate::error::BuildError;
use crate::oci::Digest;
use crate::progress::{Event, Events};
use crate::store::{StoreError, VerifyError};

/// Builds until there is an image or an error that is no damage, or the same blob is damaged again.
#[expect(clippy::needless_pass_by_value, reason = "it is shared with every try")]
pub(crate) fn healing<T>(
    events: Events,
    mut build: impl FnMut(Events) -> Result<T, BuildError>,
) -> Result<T, BuildError> {
    let mut healed = BTreeSet::new();
    loop {
        let error = match build(Arc::clone(&events)) {
            Ok(result) => return Ok(result),
            Err(error) => error,
        };
        match damaged_blob(&error) {
            Some(digest) if healed.insert(digest) => {
                events.event(Event::Note(format!("store: `{digest}` was damaged and is made anew")));
            }
            _ => return Err(error),
        }
    }
}

/// The blob whose bytes an error found to be wrong.
fn damaged_blob(error: &(dyn Error + 'static)) -> Option<Digest> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(StoreError::BlobCorrupt { digest, .. }) = error.downcast_ref() {
            return Some(*digest);
        }
        // The sources of an I/O error begin below the error that it holds.
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let verify = held.and_then(|held| held.downcast_ref()).or_else(|| error.downcast_ref());
        if let Some(error) = verify {
            return Some(match error {
                VerifyError::Digest { expected, .. }
                | VerifyError::TooShort { expected, .. }
                | VerifyError::TooLong { expected, .. } => *expected,
            });
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
        let events: Events = Arc::new(|_: Event| {});
        let mut count = 0_u8;
        let result = healing(Arc::clone(&events), |_| {
            count += 1;
            if count < 4 { Err(damage(&[count])) } else { Ok(count) }
        });
        assert_eq!(result.unwrap(), 4);
        let mut count = 0;
        let result: Result<(), _> = healing(Arc::clone(&events), |_| {
            count += 1;
            Err(damage(b"same"))
        });
        assert!(result.is_err() && count == 2);
        let other = healing(events, |_| -> Result<(), _> { Err(BuildError::failed("read", io::Error::other("x"))) });
        assert!(other.is_err());
    }
}
