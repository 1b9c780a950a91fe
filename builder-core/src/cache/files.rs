//! The files that a step takes, by a short description of each, packed: a million of them take some thirty megabytes.
//!
//! ```text
//! "rbfiles\x01" | entries | facts: length, text | where the facts begin u64
//! entry: bytes shared with the path before | length, rest of the path | number of the facts, times two, plus one where a
//!        mark follows | mark of the content, 16 bytes                                (numbers are LEB128, u64 little-endian)
//! facts: <kind> <mode> <uid>:<gid>[ <attribute>=<digest>]…
//! ```
//!
//! Entries are sorted as paths of trees are. What a mount shows is named `TARGET\0PATH`.

use std::collections::HashMap;

use crate::tree::{PackedReader, compare_paths, push_bytes, push_number};

const MAGIC: &[u8] = b"rbfiles\x01";

/// The bytes that say where the facts begin.
const TRAILER: usize = 8;

/// The descriptions of files by their paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    bytes: Vec<u8>,
    facts: Vec<Box<str>>,
    facts_at: usize,
}

/// What is said of a file besides its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Description<'a> {
    /// Kind, mode, owner and attributes.
    pub(super) facts: &'a str,
    /// The mark of its content.
    pub(super) mark: Option<[u8; 16]>,
}

/// Puts descriptions together.
pub struct FilesBuilder {
    bytes: Vec<u8>,
    facts: Vec<Box<str>>,
    numbers: HashMap<Box<str>, usize>,
    last: Vec<u8>,
    sorted: bool,
}

impl Default for FilesBuilder {
    fn default() -> Self {
        let (facts, numbers) = Default::default();
        Self { bytes: MAGIC.to_vec(), facts, numbers, last: Vec::new(), sorted: true }
    }
}

impl FilesBuilder {
    /// Adds a file: its path, its kind, mode, owner and attributes in words, and the mark of its content.
    pub fn add(&mut self, path: &str, facts: &str, mark: Option<[u8; 16]>) {
        let path = path.as_bytes();
        self.sorted &= self.bytes.len() == MAGIC.len() || compare_paths(&self.last, path).is_lt();
        let shared = self.last.iter().zip(path).take_while(|(a, b)| a == b).count();
        push_number(&mut self.bytes, shared as u64);
        push_bytes(&mut self.bytes, &path[shared..]);
        let number = self.number(facts) as u64;
        push_number(&mut self.bytes, number << 1 | u64::from(mark.is_some()));
        self.bytes.extend_from_slice(mark.as_ref().map_or(&[], |mark| mark.as_slice()));
        self.last.truncate(shared);
        self.last.extend_from_slice(&path[shared..]);
    }

    /// All of them, sorted; of several with one path the last.
    #[must_use]
    pub fn finish(self) -> Files {
        let Self { mut bytes, facts, sorted, .. } = self;
        let facts_at = bytes.len();
        for text in &facts {
            push_bytes(&mut bytes, text.as_bytes());
        }
        bytes.extend_from_slice(&(facts_at as u64).to_le_bytes());
        let files = Files { bytes, facts, facts_at };
        if sorted { files } else { files.sorted() }
    }

    fn number(&mut self, facts: &str) -> usize {
        if let Some(number) = self.numbers.get(facts) {
            return *number;
        }
        self.facts.push(facts.into());
        self.numbers.insert(facts.into(), self.facts.len() - 1);
        self.facts.len() - 1
    }
}

impl Files {
    /// Takes over what [`Files::as_bytes`] gave; `None` for anything else.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        let facts_end = bytes.len().checked_sub(TRAILER).filter(|_| bytes.starts_with(MAGIC))?;
        let facts_at = u64::from_le_bytes(bytes[facts_end..].try_into().ok()?);
        let facts_at = usize::try_from(facts_at).ok().filter(|at| *at >= MAGIC.len())?;
        let mut reader = PackedReader::new(bytes.get(facts_at..facts_end)?);
        let mut facts = Vec::new();
        while !reader.is_empty() {
            facts.push(String::from_utf8(reader.bytes().to_vec()).ok()?.into());
        }
        Some(Self { bytes, facts, facts_at })
    }

    /// The bytes to keep.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.facts_at == MAGIC.len()
    }

    /// Goes through the files that a step takes itself, or through those that a mount shows.
    pub(super) fn lines<'a>(&'a self, mount: Option<&'a str>) -> Lines<'a> {
        let rest = PackedReader::new(&self.bytes[MAGIC.len()..self.facts_at]);
        let mut lines = Lines { files: self, mount, rest, whole: Vec::new(), path: String::new(), description: None };
        lines.advance();
        lines
    }

    fn sorted(&self) -> Self {
        let mut all = Vec::new();
        let mut rest = PackedReader::new(&self.bytes[MAGIC.len()..self.facts_at]);
        let mut path = Vec::new();
        while let Some(description) = self.next(&mut rest, &mut path) {
            all.push((String::from_utf8_lossy(&path).into_owned(), description));
        }
        all.sort_by(|(a, _), (b, _)| compare_paths(a.as_bytes(), b.as_bytes()));
        let mut sorted = FilesBuilder::default();
        for (index, (path, description)) in all.iter().enumerate() {
            if all.get(index + 1).is_none_or(|(next, _)| next != path) {
                sorted.add(path, description.facts, description.mark);
            }
        }
        sorted.finish()
    }

    /// Reads an entry; `path` holds the path before it, and then its own.
    fn next(&self, rest: &mut PackedReader<'_>, path: &mut Vec<u8>) -> Option<Description<'_>> {
        if rest.is_empty() {
            return None;
        }
        path.truncate(rest.number() as usize);
        path.extend_from_slice(rest.bytes());
        let number = rest.number();
        let mark = (number & 1 != 0).then(|| rest.take(16).try_into().ok()).flatten();
        let facts = self.facts.get((number >> 1) as usize).map_or("", |facts| facts);
        Some(Description { facts, mark })
    }
}

impl<'p> FromIterator<(&'p str, &'p str)> for Files {
    /// Takes paths and descriptions without marks.
    fn from_iter<T: IntoIterator<Item = (&'p str, &'p str)>>(files: T) -> Self {
        let mut builder = FilesBuilder::default();
        files.into_iter().for_each(|(path, facts)| builder.add(path, facts, None));
        builder.finish()
    }
}

/// The files one after another; made by [`Files::lines`].
pub(super) struct Lines<'a> {
    files: &'a Files,
    mount: Option<&'a str>,
    rest: PackedReader<'a>,
    /// The path with the mount's target.
    whole: Vec<u8>,
    path: String,
    description: Option<Description<'a>>,
}

impl<'a> Lines<'a> {
    /// The file at hand; `None` at the end.
    pub(super) fn line(&self) -> Option<(&str, Description<'a>)> {
        self.description.map(|description| (self.path.as_str(), description))
    }

    /// Goes on to the next file.
    pub(super) fn advance(&mut self) {
        loop {
            self.description = self.files.next(&mut self.rest, &mut self.whole);
            if self.description.is_none() {
                return;
            }
            let target_end = self.whole.iter().position(|byte| *byte == 0);
            let (target, path) = match target_end {
                Some(at) => (Some(&self.whole[..at]), &self.whole[at + 1..]),
                None => (None, self.whole.as_slice()),
            };
            if target == self.mount.map(str::as_bytes) {
                self.path.clear();
                self.path.push_str(&String::from_utf8_lossy(path));
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(files: &Files, mount: Option<&str>) -> Vec<(String, String, Option<[u8; 16]>)> {
        let mut lines = files.lines(mount);
        let mut found = Vec::new();
        while let Some((path, description)) = lines.line() {
            found.push((path.to_owned(), description.facts.to_owned(), description.mark));
            lines.advance();
        }
        found
    }

    #[test]
    fn what_was_added_is_read_again_sorted() {
        let mut builder = FilesBuilder::default();
        let (facts, mark) = ("file 0644 0:0", Some([7; 16]));
        for path in ["b", "a.c", "a/b", "a", "/t\0x", "a/b"] {
            let late = path == "a/b" && builder.sorted;
            builder.add(path, if late { "lost" } else { facts }, mark.filter(|_| path != "a"));
        }
        let files = Files::from_bytes(builder.finish().as_bytes().to_vec()).unwrap();
        let line = |path: &str| (path.to_owned(), facts.to_owned(), mark.filter(|_| path != "a"));
        assert_eq!(all(&files, None), ["a", "a/b", "a.c", "b"].map(line));
        assert_eq!(all(&files, Some("/t")), [line("x")]);
        assert_eq!(all(&files, Some("/u")), []);
        assert!(!files.is_empty() && FilesBuilder::default().finish().is_empty());
    }

    #[test]
    fn other_bytes_are_no_files_and_never_a_panic() {
        let good: Files = [("a", "file 0644 0:0"), ("a/long/path", "directory 0755 0:0")].into_iter().collect();
        for length in 0..good.as_bytes().len() {
            if let Some(files) = Files::from_bytes(good.as_bytes()[..length].to_vec()) {
                all(&files, None);
            }
        }
        for at in 0..good.as_bytes().len() {
            let mut bytes = good.as_bytes().to_vec();
            bytes[at] ^= 0xff;
            if let Some(files) = Files::from_bytes(bytes) {
                all(&files, None);
            }
        }
        assert_eq!(Files::from_bytes(b"{\"a\":\"file\"}".to_vec()), None);
    }
}
