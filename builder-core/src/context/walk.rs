//! Walking a source directory, narrowed by `--parents` and `--exclude` patterns.
//!
//! Directories are walked in parallel. A directory's digest is made of its entries' and of those of the directories in
//! it, so a walk for the digest alone holds one directory per thread and no list of files.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use rayon::prelude::*;

use super::pattern::{DirectoryMatch, PatternList};
use super::picked::{Contents, Packed, unreadable};
use crate::tree::{Content, ContentDigest, Entry, Metadata, Node, Seen, TreeError, TreePath, TreeView};

/// As many bytes are gathered before they are hashed.
const HASHED_AT_ONCE: usize = 64 * 1024;

/// Begins what is hashed of a directory's entries.
const ENTRIES: u8 = 0;

/// Begins what is hashed of a directory's entries together with the directories in it.
const COMBINED: u8 = 1;

/// Directories of this depth are shared out among threads; recursion further down would need too much of a stack.
const DEEPEST_RECURSION: usize = 32;

/// Which entries below a directory are wanted.
pub(super) struct Filter<'a> {
    /// Only what one of these matches, if there are any.
    pub(super) include: Option<&'a PatternList>,
    /// Nothing that these match.
    pub(super) exclude: Option<&'a PatternList>,
}

/// What a walk brings home.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Collect<'a> {
    /// The digest, and how much there is.
    Digest,
    /// The entries too; where they are many, in a file of the folder.
    Entries(Option<&'a Path>),
}

/// What was found below a directory.
#[derive(Default)]
pub(super) struct Found {
    /// All that decides the result but for times.
    pub(super) digest: [u8; 32],
    /// The entries, where they were asked for.
    pub(super) picked: Packed,
    /// Where their contents are read from; of all that was walked.
    pub(super) contents: Contents,
    pub(super) count: usize,
    pub(super) size: u64,
    /// Names of files that have several, in order.
    links: Vec<(TreePath, u64)>,
}

/// A directory that may have to be walked.
struct Below {
    relative: TreePath,
    metadata: Metadata,
    state: State,
    wanted: bool,
    enter: bool,
    hollow: bool,
}

/// A directory on the way: its own entries, and what was found so far in the directories in it.
struct Level {
    path: TreePath,
    found: Found,
    /// The entries before each directory in it, and those after the last.
    own: Vec<Packed>,
    below: Vec<Below>,
    inner: Vec<Found>,
}

#[derive(Clone, Default)]
struct State {
    include: DirectoryMatch,
    exclude: DirectoryMatch,
}

struct Walk<'a> {
    source: &'a dyn TreeView,
    filter: &'a Filter<'a>,
    collect: Collect<'a>,
    contents: Contents,
}

/// Finds all wanted entries below a directory.
pub(super) fn walk(
    source: &dyn TreeView,
    directory: &TreePath,
    filter: &Filter<'_>,
    collect: Collect<'_>,
) -> Result<Found, TreeError> {
    let contents = match collect {
        Collect::Digest => Contents::default(),
        Collect::Entries(folder) => Contents::in_folder(folder),
    };
    let walk = Walk { source, filter, collect, contents };
    let mut found = walk.directory(walk.level(directory.clone(), &TreePath::root(), &State::default())?, 0)?;
    found.contents = walk.contents;
    let shared = found.shared_links();
    found.links.retain(|(_, link)| shared.contains(link));
    // Which names are one file decides the result too.
    let mut firsts: HashMap<u64, usize> = HashMap::new();
    let mut record = found.digest.to_vec();
    for (index, (path, link)) in found.links.iter().enumerate() {
        push_field(&mut record, path.as_bytes());
        record.extend_from_slice(&(*firsts.entry(*link).or_insert(index) as u64).to_le_bytes());
    }
    found.digest = blake3::hash(&record).into();
    Ok(found)
}

impl Found {
    /// The links of files that have several names among what was found.
    pub(super) fn shared_links(&self) -> HashSet<u64> {
        let mut names: HashMap<u64, usize> = HashMap::new();
        self.links.iter().for_each(|(_, link)| *names.entry(*link).or_default() += 1);
        names.into_iter().filter(|(_, count)| *count > 1).map(|(link, _)| link).collect()
    }
}

impl Walk<'_> {
    fn directory(&self, level: Level, depth: usize) -> Result<Found, TreeError> {
        if depth == DEEPEST_RECURSION {
            return self.deep_directory(level);
        }
        let enter = |below: &Below| {
            if !below.enter {
                return Ok(Found::default());
            }
            self.directory(self.level(below.path_in(&level.path), &below.relative, &below.state)?, depth + 1)
        };
        let inner = if level.below.len() > 1 {
            level.below.par_iter().map(enter).collect::<Result<_, _>>()?
        } else {
            level.below.iter().map(enter).collect::<Result<_, _>>()?
        };
        self.combine(Level { inner, ..level })
    }

    /// The same without recursion: a hostile tree is as deep as paths may be long.
    fn deep_directory(&self, level: Level) -> Result<Found, TreeError> {
        let mut above: Vec<Level> = Vec::new();
        let mut level = level;
        loop {
            match level.below.get(level.inner.len()) {
                Some(below) if below.enter => {
                    let next = self.level(below.path_in(&level.path), &below.relative, &below.state)?;
                    above.push(std::mem::replace(&mut level, next));
                }
                Some(_) => level.inner.push(Found::default()),
                None => {
                    let found = self.combine(level)?;
                    let Some(last) = above.pop() else { return Ok(found) };
                    level = last;
                    level.inner.push(found);
                }
            }
        }
    }

    /// Puts a directory's own entries together with what was found in the directories in it.
    fn combine(&self, level: Level) -> Result<Found, TreeError> {
        let Level { path, mut found, own, below, inner } = level;
        let mut own = own.into_iter();
        found.picked = own.next().unwrap_or_default();
        if below.is_empty() {
            return Ok(found);
        }
        let mut record = vec![COMBINED];
        record.extend_from_slice(&found.digest);
        let own_size = record.len();
        for ((below, inner), after) in below.into_iter().zip(inner).zip(own) {
            if inner.count == 0 && !self.stays(&path, &below)? {
                found.picked.append(after);
                continue;
            }
            let name = below.relative.file_name().unwrap_or_default();
            push_facts(&mut record, name, &below.metadata);
            record.push(u8::from(below.wanted));
            record.extend_from_slice(&inner.digest);
            found.count += 1 + inner.count;
            found.size += inner.size;
            found.links.extend(inner.links);
            if matches!(self.collect, Collect::Entries(_)) {
                found.picked.add_directory(name, &below.metadata, !below.wanted, inner.picked);
            }
            found.picked.append(after);
        }
        // Directories of which nothing is wanted must not show: the digest is as if they were not there.
        if record.len() > own_size {
            found.digest = blake3::hash(&record).into();
        }
        Ok(found)
    }

    /// Whether a directory without wanted contents is itself copied.
    fn stays(&self, path: &TreePath, below: &Below) -> Result<bool, TreeError> {
        if !below.wanted {
            return Ok(false);
        }
        let narrowed = self.filter.include.is_some() || self.filter.exclude.is_some();
        Ok(!below.hollow || (narrowed && !self.source.read_dir(&below.path_in(path))?.is_empty()))
    }

    /// Goes through the entries of a directory: all but the directories in it are done with.
    fn level(&self, path: TreePath, relative: &TreePath, state: &State) -> Result<Level, TreeError> {
        let (mut found, mut below) = (Found::default(), Vec::new());
        let mut own = vec![Packed::default()];
        let mut hasher = Box::new(blake3::Hasher::new());
        let mut record = vec![ENTRIES];
        self.source.visit(&path, &|name| self.wants(relative, name, state), &mut |seen| {
            if seen.node.is_directory() {
                if let Some(directory) = self.below(relative, &seen, state) {
                    below.push(directory);
                    own.push(Packed::default());
                }
                return Ok(());
            }
            push_file(&mut record, &seen);
            if record.len() >= HASHED_AT_ONCE {
                hasher.update(&record);
                record.clear();
            }
            found.count += 1;
            found.size += content_size(seen.node);
            if let Some(link) = seen.link {
                found.links.push((relative.join(seen.name), link));
            }
            if matches!(self.collect, Collect::Entries(_)) {
                let last = own.last_mut().expect("there is one behind every directory");
                last.add_file(&seen, &path, &self.contents)?;
            }
            Ok(())
        })?;
        hasher.update(&record);
        found.digest = hasher.finalize().into();
        own.iter_mut().try_for_each(|packed| packed.put_by(&self.contents)).map_err(unreadable)?;
        Ok(Level { path, found, own, below, inner: Vec::new() })
    }

    /// Whether something that is no directory is wanted.
    fn wants(&self, directory: &TreePath, name: &[u8], state: &State) -> bool {
        let Filter { include, exclude } = self.filter;
        if include.is_none() && exclude.is_none() {
            return true;
        }
        let path = directory.join(name);
        let path = path.as_bytes();
        include.is_none_or(|list| list.decide(path, &state.include).is_match())
            && !exclude.is_some_and(|list| list.decide(path, &state.exclude).is_match())
    }

    /// Decides a directory; `None` where nothing of it is wanted.
    fn below(&self, directory: &TreePath, seen: &Seen<'_>, state: &State) -> Option<Below> {
        let relative = directory.join(seen.name);
        let path = relative.as_bytes();
        let mut own = State::default();
        let (mut wanted, mut enter) = (true, true);
        if let Some(list) = self.filter.include {
            let (decision, matched) = list.decide_directory(path, &state.include);
            own.include = matched;
            wanted = decision.is_match();
            enter = wanted || list.may_match_below(path);
        }
        if let Some(list) = self.filter.exclude {
            let (decision, matched) = list.decide_directory(path, &state.exclude);
            if decision.is_match() {
                wanted = false;
                enter &= list.may_except_below(path, &matched);
            }
            own.exclude = matched;
        }
        let (metadata, hollow) = (seen.metadata.clone(), seen.hollow);
        (wanted || enter).then_some(Below { relative, metadata, state: own, wanted, enter, hollow })
    }
}

impl Below {
    fn path_in(&self, parent: &TreePath) -> TreePath {
        parent.join(self.relative.file_name().unwrap_or_default())
    }
}

/// The digest of a single entry.
pub(super) fn digest_of(entry: &Entry, digest: Option<ContentDigest>) -> ContentDigest {
    let mut record = Vec::new();
    push_file(
        &mut record,
        &Seen {
            name: b"",
            node: &entry.node,
            metadata: &entry.metadata,
            digest,
            link: None,
            hollow: false,
            content: &|| Ok(Content::None),
        },
    );
    blake3::hash(&record)
}

/// The bytes of a file's content.
pub(super) const fn content_size(node: &Node) -> u64 {
    if let Node::File { size } = node { *size } else { 0 }
}

fn push_field(record: &mut Vec<u8>, bytes: &[u8]) {
    record.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    record.extend_from_slice(bytes);
}

/// Appends all that decides the result but for times.
fn push_file(record: &mut Vec<u8>, seen: &Seen<'_>) {
    push_facts(record, seen.name, seen.metadata);
    let (kind, first, second): (u8, u64, u64) = match seen.node {
        Node::Directory { .. } => (1, 0, 0),
        Node::File { size } => (2, *size, 0),
        Node::Symlink { .. } => (3, 0, 0),
        Node::Fifo => (4, 0, 0),
        Node::CharDevice { major, minor } => (5, u64::from(*major), u64::from(*minor)),
        Node::BlockDevice { major, minor } => (6, u64::from(*major), u64::from(*minor)),
        Node::HardLink { .. } => (7, 0, 0),
        Node::Whiteout => (8, 0, 0),
    };
    record.push(kind);
    record.extend_from_slice(&first.to_le_bytes());
    record.extend_from_slice(&second.to_le_bytes());
    if let Node::Symlink { target } = seen.node {
        push_field(record, target);
    }
    if let Some(digest) = &seen.digest {
        record.extend_from_slice(digest.as_bytes());
    }
}

fn push_facts(record: &mut Vec<u8>, name: &[u8], metadata: &Metadata) {
    push_field(record, name);
    for number in [metadata.mode, metadata.uid, metadata.gid] {
        record.extend_from_slice(&number.to_le_bytes());
    }
    record.extend_from_slice(&(metadata.xattrs.len() as u64).to_le_bytes());
    for (name, value) in &metadata.xattrs {
        push_field(record, name);
        push_field(record, value);
    }
}
