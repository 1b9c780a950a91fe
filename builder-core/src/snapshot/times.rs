//! Times of a step's changes.

use crate::tree::{Change, Node, Timestamp};

/// Sets times later than `epoch` (seconds since 1970) to it, as `SOURCE_DATE_EPOCH` asks for.
pub fn clamp_times(changes: &mut [Change], epoch: i64) {
    let latest = Timestamp::from_seconds(epoch);
    for change in changes {
        if !matches!(change.entry.node, Node::Whiteout | Node::HardLink { .. }) {
            change.entry.metadata.modified = change.entry.metadata.modified.min(latest);
        }
    }
}
