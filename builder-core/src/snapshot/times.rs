//! Times of a step's changes.

use crate::tree::{Change, Node, Timestamp};

/// Sets a time later than `epoch` (seconds since 1970) to it, as `SOURCE_DATE_EPOCH` asks for.
#[must_use]
pub fn clamp_time(mut change: Change, epoch: i64) -> Change {
    if !matches!(change.entry.node, Node::Whiteout | Node::HardLink { .. }) {
        let modified = &mut change.entry.metadata.modified;
        *modified = Timestamp::from_seconds(epoch).min(*modified);
    }
    change
}
