//! What a layer begins with that an earlier layer began with too.
//!
//! Changes are sorted, so all chunks before the first difference are the same, and so are their ids, their compressed bytes
//! and the state of the archive's digest after them. None of their files is read: what they hold is known.

use std::io;
use std::sync::Arc;

use super::archive::recorded;
use super::chunk_memory::{ArchivedChunk, ChunkId, ChunkRecord};
use super::compression::Compression;
use crate::oci::BlockState;
use crate::tree::{Change, ChangeList, Content, ContentDigest, ContentMark, Node, Tree, TreeEntry};

/// An earlier layer, and how much of it comes again.
#[derive(Debug)]
pub struct Prefix {
    tree: Arc<Tree>,
    /// How many changes are those of the earlier layer.
    entries: usize,
    record: ChunkRecord,
}

/// A chunk that an earlier layer had in the same place.
#[derive(Debug, Clone, Copy)]
pub(super) struct EarlierChunk {
    pub(super) id: ChunkId,
    pub(super) state: BlockState,
}

impl Prefix {
    /// Compares changes with an earlier layer's `tree`; `record` tells the chunks of its blob. `None` where nothing is to be
    /// gained: the blob was compressed in another way, or has no chunk that can come again.
    ///
    /// # Errors
    /// When the changes or the tree can't be read.
    pub fn find(
        changes: &ChangeList,
        tree: Arc<Tree>,
        record: ChunkRecord,
        compression: Compression,
    ) -> io::Result<Option<Self>> {
        if !record.is_made_by(compression) || record.chunks.len() < 2 {
            return Ok(None);
        }
        let mut entries = 0;
        for (change, earlier) in changes.iter().zip(tree.iter()) {
            if !is_same(change?, &earlier?) {
                break;
            }
            entries += 1;
        }
        Ok((entries > 0).then_some(Self { tree, entries, record }))
    }

    /// How many changes are those of the earlier layer.
    pub(super) const fn entries(&self) -> usize {
        self.entries
    }

    /// The digests of the earlier layer's files, for each of its entries that comes again.
    pub(super) fn digests(&self) -> impl Iterator<Item = io::Result<Option<ContentDigest>>> {
        self.tree.iter().take(self.entries).map(|entry| entry.map(|entry| entry.digest))
    }

    /// The chunk with a number, where the earlier layer had one of this size: both follow the same bytes.
    pub(super) fn chunk(&self, number: usize, archived_size: usize) -> Option<EarlierChunk> {
        let (stored, ArchivedChunk { size, state }) = self.record.chunks.get(number)?;
        (*size as usize == archived_size).then_some(EarlierChunk { id: stored.id, state: *state })
    }
}

/// Whether a change is an entry of the earlier layer, as far as it is known without reading anything.
fn is_same(change: Change, earlier: &TreeEntry) -> bool {
    let mark = match (&change.entry.node, &change.content) {
        (Node::File { size: 1.. }, Content::Bytes(bytes)) => Some(ContentMark::from(&blake3::hash(bytes))),
        (Node::File { size: 1.. }, Content::Source(file)) => file.mark,
        (Node::File { size: 1.. }, _) => None,
        _ => return recorded(change.entry) == earlier.entry,
    };
    mark.is_some() && mark == earlier.digest.as_ref().map(ContentMark::from) && recorded(change.entry) == earlier.entry
}

#[cfg(test)]
#[path = "prefix_tests.rs"]
mod tests;
