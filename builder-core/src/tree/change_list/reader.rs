//! Reading a list of changes in order.

use std::io;
use std::sync::Arc;

use super::{BLOCK, ChangeList, Folder, IN_FILE, IN_FOLDER, IN_TABLE, KIND, OPAQUE, Owner};
use crate::tree::packed::PackedReader;
use crate::tree::{Change, Content, Entry, FilePart, Metadata, Node, SourceFile, Timestamp, TreePath};

/// Goes through a list of changes; made by [`ChangeList::iter`].
pub struct Changes<'a> {
    list: &'a ChangeList,
    next: usize,
    block: Vec<u8>,
    at: usize,
    path: Vec<u8>,
    seconds: i64,
    left: usize,
}

impl<'a> Changes<'a> {
    /// Begins with a block.
    pub(super) fn new(list: &'a ChangeList, block: usize) -> Self {
        let left = list.count - block * BLOCK;
        Self { list, next: block, block: Vec::new(), at: 0, path: Vec::new(), seconds: 0, left }
    }
}

impl Iterator for Changes<'_> {
    type Item = io::Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        if self.at == self.block.len() {
            match self.list.block(self.next) {
                Ok(block) => self.block = block,
                Err(error) => {
                    self.left = 0;
                    return Some(Err(error));
                }
            }
            (self.at, self.path, self.seconds) = (0, Vec::new(), 0);
            self.next += 1;
        }
        self.left -= 1;
        let block = std::mem::take(&mut self.block);
        let mut rest = PackedReader::new(&block[self.at..]);
        let change = self.change(&mut rest);
        self.at = block.len() - rest.len();
        self.block = block;
        Some(Ok(change))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

impl Changes<'_> {
    fn change(&mut self, rest: &mut PackedReader<'_>) -> Change {
        let shared = rest.number() as usize;
        self.path.truncate(shared);
        self.path.extend_from_slice(rest.bytes());
        let path = TreePath::from_checked(self.path.clone());
        let tag = rest.byte();
        let node = read_node(tag, rest);
        let Owner { mode, uid, gid, xattrs } = self.list.owners[rest.number() as usize].clone();
        self.seconds = self.seconds.wrapping_add(rest.signed());
        let modified = Timestamp { seconds: self.seconds, nanoseconds: rest.number() as u32 };
        let content = self.content(tag, rest);
        Change { entry: Entry { path, node, metadata: Metadata { mode, uid, gid, modified, xattrs } }, content }
    }

    fn content(&self, tag: u8, rest: &mut PackedReader<'_>) -> Content {
        if tag & IN_TABLE != 0 {
            return self.list.contents[rest.number() as usize].clone();
        }
        if tag & IN_FILE != 0 {
            let file = Arc::clone(&self.list.files[rest.number() as usize]);
            return Content::Part(FilePart { file, start: rest.number(), length: rest.number() });
        }
        if tag & IN_FOLDER == 0 {
            return Content::None;
        }
        let Folder { opener, start } = &self.list.folders[rest.number() as usize];
        let number = rest.number();
        let (same, is_marked) = ((number >> 1) as usize, number & 1 != 0);
        let path = [start, &self.path[self.path.len() - same..]].concat();
        let stamp = rest.fixed();
        let mark = is_marked.then(|| rest.mark());
        Content::Source(SourceFile { opener: Arc::clone(opener), path: TreePath::from_checked(path), stamp, mark })
    }
}

fn read_node(tag: u8, rest: &mut PackedReader<'_>) -> Node {
    match tag & KIND {
        1 => Node::Directory { opaque: tag & OPAQUE != 0 },
        2 => Node::File { size: rest.number() },
        3 => Node::Symlink { target: rest.bytes().to_vec() },
        4 => Node::HardLink { target: TreePath::from_checked(rest.bytes().to_vec()) },
        5 => Node::Fifo,
        6 => Node::CharDevice { major: rest.number() as u32, minor: rest.number() as u32 },
        7 => Node::BlockDevice { major: rest.number() as u32, minor: rest.number() as u32 },
        8 => Node::Whiteout,
        kind => unreachable!("no kind {kind} was written"),
    }
}
