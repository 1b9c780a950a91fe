//! What a COPY or ADD takes from its source.

use std::path::Path;

use super::archive::is_archive;
use super::describe::describe;
use super::error::CopyError;
use super::glob::{Glob, has_wildcards};
use super::links::{self, Last};
use super::merge::{Merged, Order};
use super::pattern::PatternList;
use super::picked::PickedTree;
use super::walk::{Collect, Filter, content_size, digest_of, walk};
use crate::tree::{Content, ContentDigest, ContentMark, Entry, Node, TreeError, TreePath, TreeView};

/// What is to be selected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SelectOptions {
    /// The sources as written, after variables were expanded. A leading `/` or `..` means the root of the tree.
    pub sources: Vec<Vec<u8>>,
    /// Whether `*`, `?` and `[` are wildcards. They are not in the names of heredocs and downloads.
    pub wildcards: bool,
    /// `--parents`: the directories of the source path are kept.
    pub parents: bool,
    /// `--exclude`: patterns of what is left out of copied directories.
    pub excludes: Vec<String>,
    /// Whether files that are archives are unpacked, as ADD does.
    pub unpack: bool,
}

/// What is copied. It stays valid when the tree that it came from goes.
#[derive(Clone, Default)]
pub struct Selection {
    pub(super) items: Vec<Item>,
    fingerprint: Fingerprint,
}

/// What a selection comes to, without the selection itself: enough for a step's key.
#[derive(Debug, Clone, Default)]
pub struct Fingerprint {
    /// One for each source, or match of a source with wildcards.
    digests: Vec<ContentDigest>,
    unmatched: Vec<String>,
    count: usize,
    size: u64,
}

/// One source, or one match of a source with wildcards.
#[derive(Clone)]
pub(super) struct Item {
    /// Where it is in the source tree, as it was named.
    pub(super) path: TreePath,
    pub(super) kind: ItemKind,
}

#[derive(Clone)]
pub(super) enum ItemKind {
    /// Anything but a directory.
    File(Picked),
    /// A file that is unpacked.
    Archive(Picked),
    /// What is in a directory, each directory before what is in it.
    Directory {
        /// The directory itself.
        entry: Entry,
        /// What is in it.
        contents: PickedTree,
    },
}

/// An entry that is copied.
#[derive(Debug, Clone)]
pub(super) struct Picked {
    /// Where it goes below the destination directory; the root for a single file.
    pub(super) relative: TreePath,
    /// The entry at its source path.
    pub(super) entry: Entry,
    pub(super) content: Content,
    /// The mark of a regular file's content.
    pub(super) mark: Option<ContentMark>,
    /// The same for all names of one file within the item.
    pub(super) link: Option<u64>,
    /// Whether it is a directory that leads to what is wanted and is not wanted itself.
    pub(super) only_on_the_way: bool,
}

/// Finds what `options` names in `source`, and computes the digests of all contents.
///
/// # Errors
/// When a source without wildcards, or the directory before a wildcard, does not exist; when a pattern is bad; when the
/// tree can't be read.
pub fn select(source: &dyn TreeView, options: &SelectOptions) -> Result<Selection, CopyError> {
    collect(source, options, Collect::Entries(None))
}

/// The same, for very many files: what is known of them is put into a file in `folder`, which has no name.
///
/// # Errors
/// As for [`select`], and when the file can't be written.
pub fn select_in(source: &dyn TreeView, options: &SelectOptions, folder: &Path) -> Result<Selection, CopyError> {
    collect(source, options, Collect::Entries(Some(folder)))
}

/// Finds out what [`select`] would give, and keeps nothing of it: the way to a step's key, also with a million files.
///
/// # Errors
/// Those of [`select`].
pub fn fingerprint(source: &dyn TreeView, options: &SelectOptions) -> Result<Fingerprint, CopyError> {
    Ok(collect(source, options, Collect::Digest)?.fingerprint)
}

/// Makes sure that the sources are there, without a look at what is in them.
///
/// # Errors
/// Those of [`select`], as far as they show so.
pub fn check_source(source: &dyn TreeView, options: &SelectOptions) -> Result<(), CopyError> {
    parse_excludes(&options.excludes)?;
    for text in &options.sources {
        let wanted = String::from_utf8_lossy(text).into_owned();
        let path = if options.parents { split_parents(source, text)?.0 } else { text.clone() };
        let path = TreePath::clean(&path);
        let path = if options.wildcards { before_wildcards(&path).0 } else { path };
        find(source, &path, &wanted)?;
    }
    Ok(())
}

fn collect(source: &dyn TreeView, options: &SelectOptions, what: Collect<'_>) -> Result<Selection, CopyError> {
    let excludes = parse_excludes(&options.excludes)?;
    let mut selection = Selection::default();
    for text in &options.sources {
        let wanted = String::from_utf8_lossy(text).into_owned();
        let (path, include) = if options.parents { split_parents(source, text)? } else { (text.clone(), None) };
        let filter = Filter { include: include.as_ref(), exclude: Some(&excludes).filter(|list| !list.is_empty()) };
        let path = TreePath::clean(&path);
        let matches = if options.wildcards && has_wildcards(path.as_bytes()) {
            expand(source, &path, &wanted)?
        } else {
            vec![path]
        };
        if matches.is_empty() {
            selection.fingerprint.unmatched.push(wanted.clone());
        }
        for path in matches {
            let source = Picking { source, filter: &filter, unpack: options.unpack, what };
            source.pick(path, &wanted, &mut selection)?;
        }
    }
    Ok(selection)
}

impl Fingerprint {
    /// Adds another selection's behind this one's, as [`Selection::append`] does.
    pub fn append(&mut self, other: &Self) {
        self.digests.extend_from_slice(&other.digests);
        self.unmatched.extend_from_slice(&other.unmatched);
        self.count += other.count;
        self.size += other.size;
    }

    /// Whether nothing at all is copied.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// The sources with wildcards that matched nothing.
    #[must_use]
    pub fn unmatched(&self) -> &[String] {
        &self.unmatched
    }

    /// The digest of all that decides the result but for times: names, kinds, modes, owners, links, contents,
    /// attributes.
    #[must_use]
    pub fn digest(&self) -> ContentDigest {
        let mut hasher = blake3::Hasher::new_derive_key("rbuild 2026 selection of files to copy, version 2");
        self.digests.iter().for_each(|digest| {
            hasher.update(digest.as_bytes());
        });
        hasher.finalize()
    }

    /// How many entries are copied, and the bytes of all their contents.
    #[must_use]
    pub const fn totals(&self) -> (usize, u64) {
        (self.count, self.size)
    }

    fn add(&mut self, kind: &[u8], name: &[u8], digest: &[u8; 32]) {
        let mut hasher = blake3::Hasher::new();
        for field in [kind, name, digest] {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
        self.digests.push(hasher.finalize());
    }
}

impl Selection {
    /// Adds what another selection holds behind this one's, so that it wins where both bring a path.
    pub fn append(&mut self, other: Self) {
        self.items.extend(other.items);
        self.fingerprint.append(&other.fingerprint);
    }

    /// What it comes to.
    #[must_use]
    pub const fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Its fingerprint's digest.
    #[must_use]
    pub fn digest(&self) -> ContentDigest {
        self.fingerprint.digest()
    }

    /// A digest of all that is copied, each file by the state that it is in instead of by its content.
    ///
    /// # Errors
    /// When what was selected can't be read back.
    pub fn outline(&self) -> Result<ContentDigest, TreeError> {
        let mut hasher = blake3::Hasher::new();
        let mut add = |picked: &Picked| {
            for field in [picked.entry.path.as_bytes(), describe(&picked.entry).as_bytes()] {
                hasher.update(&(field.len() as u64).to_le_bytes()).update(field);
            }
            let stamp = if let Content::Source(file) = &picked.content { file.stamp } else { 0 };
            hasher.update(&stamp.to_le_bytes());
        };
        for item in &self.items {
            match &item.kind {
                ItemKind::File(picked) | ItemKind::Archive(picked) => add(picked),
                ItemKind::Directory { entry, contents } => {
                    contents.iter(&entry.path).try_for_each(|picked| picked.map(|picked| add(&picked)))?;
                }
            }
        }
        Ok(hasher.finalize())
    }

    /// Hands over what each source path is, sorted: its kind, mode, owner and attributes in words, and the mark of its content.
    /// For telling which input changed since an earlier build.
    pub fn describe(&self, take: &mut dyn FnMut(&str, &str, Option<ContentMark>)) -> Result<(), TreeError> {
        let mut merged = Merged::new(Order::Source);
        for item in &self.items {
            match &item.kind {
                ItemKind::File(picked) | ItemKind::Archive(picked) => {
                    merged.add(std::iter::once(Ok(picked.clone())))?;
                }
                ItemKind::Directory { entry, contents } => merged.add(contents.iter(&entry.path))?,
            }
        }
        while let Some((_, picked)) = merged.next()?.pop() {
            take(&picked.entry.path.to_string()[1..], &describe(&picked.entry), picked.mark);
        }
        Ok(())
    }
}

impl std::fmt::Debug for Selection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Selection").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

fn parse_excludes(texts: &[String]) -> Result<PatternList, CopyError> {
    for text in texts {
        PatternList::parse([(1, text.as_str())])
            .map_err(|source| CopyError::BadExclude { pattern: text.clone(), source })?;
    }
    PatternList::parse(texts.iter().enumerate().map(|(index, text)| (index + 1, text.as_str())))
        .map_err(|source| CopyError::BadExclude { pattern: texts.join(" "), source })
}

/// Splits a source of `--parents` at its first `/./` into the directory that is copied and the pattern below it.
fn split_parents(source: &dyn TreeView, text: &[u8]) -> Result<(Vec<u8>, Option<PatternList>), CopyError> {
    let pivot = text.windows(3).position(|window| window == b"/./");
    let (directory, pattern) = pivot.map_or((&b"/"[..], text), |at| (&text[..at], &text[at + 3..]));
    let pattern = TreePath::clean(pattern);
    if !has_wildcards(directory) && !has_wildcards(pattern.as_bytes()) {
        let required = TreePath::clean(directory).join_path(&pattern);
        find(source, &required, &String::from_utf8_lossy(text))?;
    }
    if pattern.is_root() {
        return Ok((directory.to_vec(), None));
    }
    let pattern = String::from_utf8_lossy(pattern.as_bytes()).into_owned();
    let list = PatternList::parse([(1, pattern.as_str())])
        .map_err(|_| CopyError::BadPattern { source: super::glob::BadPattern { pattern } })?;
    Ok((directory.to_vec(), Some(list)))
}

/// Follows all links of a path, and gives what is there.
pub(super) fn find(source: &dyn TreeView, path: &TreePath, wanted: &str) -> Result<Entry, CopyError> {
    let missing = || CopyError::SourceNotFound { wanted: wanted.to_owned() };
    let followed = match resolve(source, path, Last::Followed) {
        Err(TreeError::NotADirectory { .. }) => return Err(missing()),
        followed => followed?,
    };
    if let Some(entry) = source.get(&followed)? {
        return Ok(entry);
    }
    match source.get(&resolve(source, path, Last::Kept)?)? {
        Some(Entry { node: Node::Symlink { .. }, .. }) => {
            Err(CopyError::DanglingLink { wanted: wanted.to_owned(), target: followed.to_string() })
        }
        _ => Err(missing()),
    }
}

fn resolve(source: &dyn TreeView, path: &TreePath, last: Last) -> Result<TreePath, TreeError> {
    links::resolve(&|path| Ok(source.get(path)?.map(|entry| entry.node)), &TreePath::root(), path, last)
}

/// A path up to its first part with wildcards, and the parts from there on.
pub(super) fn before_wildcards(path: &TreePath) -> (TreePath, Vec<&[u8]>) {
    let components: Vec<&[u8]> = path.components().collect();
    let first = components.iter().position(|component| has_wildcards(component)).unwrap_or(components.len());
    let start = components[..first].iter().fold(TreePath::root(), |start, component| start.join(component));
    (start, components[first..].to_vec())
}

/// The matches of a path with wildcards, in order. Links are followed up to the first wildcard only.
pub(super) fn expand(source: &dyn TreeView, path: &TreePath, wanted: &str) -> Result<Vec<TreePath>, CopyError> {
    let (start, patterns) = before_wildcards(path);
    let start = find(source, &start, wanted)?.path;
    let globs = patterns.into_iter().map(Glob::parse).collect::<Result<Vec<_>, _>>()?;
    let mut matches = vec![start];
    for (index, glob) in globs.iter().enumerate() {
        let mut next = Vec::new();
        for directory in &matches {
            for entry in source.read_dir(directory)? {
                let usable = index + 1 == globs.len() || entry.node.is_directory();
                if usable && entry.path.file_name().is_some_and(|name| glob.matches(name)) {
                    next.push(entry.path);
                }
            }
        }
        matches = next;
    }
    Ok(matches)
}

/// How the sources of one selection are picked.
struct Picking<'a> {
    source: &'a dyn TreeView,
    filter: &'a Filter<'a>,
    unpack: bool,
    what: Collect<'a>,
}

impl Picking<'_> {
    fn pick(&self, path: TreePath, wanted: &str, selection: &mut Selection) -> Result<(), CopyError> {
        let entry = find(self.source, &path, wanted)?;
        let fingerprint = &mut selection.fingerprint;
        let kind = if entry.node.is_directory() {
            let found = walk(self.source, &entry.path, self.filter, self.what)?;
            fingerprint.add(b"directory", b"", &found.digest);
            fingerprint.count += found.count;
            fingerprint.size += found.size;
            let shared = found.shared_links();
            let contents = PickedTree::new(found.picked, found.contents, shared);
            ItemKind::Directory { entry, contents }
        } else {
            // COMPAT(buildkit): `--exclude` never leaves out a file that is itself the source.
            let (picked, digest) = self.read(entry)?;
            let unpacked = self.unpack && matches!(picked.entry.node, Node::File { .. });
            let unpacked = unpacked
                && is_archive(&picked.content).map_err(|error| TreeError::Io {
                    action: "read",
                    path: path.to_string(),
                    source: error,
                })?;
            fingerprint.count += 1;
            fingerprint.size += content_size(&picked.entry.node);
            let name = if unpacked { b"" } else { path.file_name().unwrap_or_default() };
            let digest = digest_of(&picked.entry, digest);
            fingerprint.add(if unpacked { b"archive" } else { b"file" }, name, digest.as_bytes());
            if unpacked { ItemKind::Archive(picked) } else { ItemKind::File(picked) }
        };
        if matches!(self.what, Collect::Entries(_)) {
            selection.items.push(Item { path, kind });
        }
        Ok(())
    }

    /// Reads a single file.
    fn read(&self, entry: Entry) -> Result<(Picked, Option<ContentDigest>), TreeError> {
        let (mut content, mut digest, mut link) = (Content::None, None, None);
        if let Node::File { .. } = entry.node {
            content = self.source.content(&entry.path)?;
            digest = Some(self.source.content_digest(&entry.path)?);
            link = self.source.link_id(&entry.path)?;
        }
        let mark = digest.as_ref().map(ContentMark::from);
        let content = content.marked(mark);
        Ok((Picked { relative: TreePath::root(), entry, content, mark, link, only_on_the_way: false }, digest))
    }
}
