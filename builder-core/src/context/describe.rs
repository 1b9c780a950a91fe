//! One line about a file, for telling what changed since an earlier build.
//!
//! ```text
//! <kind> <mode> <uid>:<gid>[ <attribute>=<digest>]…
//! ```

use crate::tree::{Entry, Node};

/// Describes an entry, but for its content, as it is compared with what it was in an earlier build.
pub(crate) fn describe(entry: &Entry) -> String {
    let metadata = &entry.metadata;
    let kind = match &entry.node {
        Node::Directory { .. } => "directory".to_owned(),
        Node::File { .. } => "file".to_owned(),
        Node::Symlink { target } => format!("link to {}", String::from_utf8_lossy(target)),
        Node::Fifo => "fifo".to_owned(),
        Node::CharDevice { major, minor } => format!("character device {major}:{minor}"),
        Node::BlockDevice { major, minor } => format!("block device {major}:{minor}"),
        Node::HardLink { .. } | Node::Whiteout => "mark".to_owned(),
    };
    let mut text = format!("{kind} {:04o} {}:{}", metadata.mode, metadata.uid, metadata.gid);
    for (name, value) in &metadata.xattrs {
        text.push_str(&format!(" {}={}", String::from_utf8_lossy(name), &blake3::hash(value).to_hex()[..16]));
    }
    text
}
