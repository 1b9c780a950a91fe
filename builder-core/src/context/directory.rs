//! A folder of the user's as a tree, read in place.
//!
//! Everything is opened relative to the folder's own descriptor and no symbolic link is ever followed, so nothing
//! outside the folder can be read through it, whatever other processes do meanwhile. Directories are read when they are
//! asked for, and once. Only regular files are ever opened for reading.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::copied::CopiedDigests;
use super::error::ContextError;
use super::folder::{Folder, hash_unchanged, read_capability};
use super::held::HeldFiles;
use super::ignore::{IgnoreRules, Verdict};
use super::pattern::DirectoryMatch;
use super::stat_cache::{FileStatus, Known, StatCache, StatCacheError, known};
use super::visit::Contents;
use crate::tree::{
    Content, ContentDigest, Entry, FilePart, Metadata, Node, OpenContent, SourceFile, Take, TreeError, TreePath,
    TreeView, Wants, Xattrs, visit_listed,
};

/// A folder whose files can be copied, without those that its ignore rules leave out.
///
/// COMPAT(buildkit): every entry belongs to root (0:0), and a socket is an empty file.
pub struct ContextDir {
    pub(super) folder: Arc<Folder>,
    pub(super) rules: IgnoreRules,
    pub(super) cache: StatCache,
    listings: RwLock<HashMap<TreePath, Arc<Listing>>>,
    /// What the entries of directories need to be decided, where there are rules.
    states: RwLock<HashMap<TreePath, DirectoryMatch>>,
    /// A folder in it that is no part of it.
    pub(super) hidden: Option<TreePath>,
    links: Mutex<HashMap<(u64, u64), u64>>,
}

/// What is in a directory and belongs to the context.
struct Listing {
    entries: Vec<Listed>,
}

struct Listed {
    entry: Entry,
    status: FileStatus,
    link_count: u64,
    /// The digest, where the stat cache knew it when the directory was listed, or somebody asked for it since.
    digest: OnceLock<ContentDigest>,
    /// The copy of a file that changes.
    held: Option<FilePart>,
}

impl ContextDir {
    /// Opens a folder. `path` may be or lead through a symbolic link.
    ///
    /// # Errors
    /// When it is no folder or can't be opened.
    pub fn open(path: &Path, rules: Option<IgnoreRules>, cache: StatCache) -> Result<Self, ContextError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| ContextError::Open { path: path.to_owned(), source: error.into() })?;
        Ok(Self {
            folder: Arc::new(Folder {
                root,
                path: path.to_owned(),
                copied: CopiedDigests::default(),
                held: HeldFiles::default(),
            }),
            rules: rules.unwrap_or_default(),
            cache,
            listings: RwLock::default(),
            states: RwLock::default(),
            hidden: None,
            links: Mutex::default(),
        })
    }

    /// Leaves out a folder, where it is in this one.
    #[must_use]
    pub fn without(self, folder: &Path) -> Self {
        let inner =
            || Some(folder.canonicalize().ok()?.strip_prefix(self.folder.path.canonicalize().ok()?).ok()?.to_owned());
        let hidden = inner().map(|path| TreePath::clean(path.as_os_str().as_encoded_bytes()));
        Self { hidden: hidden.filter(|path| !path.is_root()), ..self }
    }

    /// Whether a path is in the folder that is left out.
    pub(super) fn hides(&self, path: &TreePath) -> bool {
        self.hidden.as_ref().is_some_and(|hidden| path.starts_with(hidden))
    }

    /// Reads directories anew when they are asked for again.
    pub(super) fn forget_listings(&self) {
        self.listings.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The ignore rules.
    #[must_use]
    pub const fn rules(&self) -> &IgnoreRules {
        &self.rules
    }

    /// Which rule leaves out something that is in the folder; `None` where nothing is there or it belongs to the context.
    #[must_use]
    pub fn ignored(&self, path: &TreePath) -> Option<Verdict> {
        let verdict = self.rules.verdict(path);
        let (parent, name) = (path.parent()?, path.file_name()?);
        let parent = self.folder.open_directory(&parent).ok()?;
        let exists = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        Some(verdict).filter(|verdict| exists && *verdict != Verdict::Kept)
    }

    /// Reads a small file of the folder whether it is ignored or not, such as the Dockerfile; `None` where there is none.
    /// Links are followed inside the folder only.
    ///
    /// # Errors
    /// When the file is larger than `limit` bytes, is no regular file, or can't be read.
    pub fn read_unfiltered(&self, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>, TreeError> {
        let path = TreePath::clean(path);
        let error = |source| self.folder.error("read", &path, source);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let file = match rustix::fs::openat2(&self.folder.root, path.as_path(), flags, Mode::empty(), resolve) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(Errno::NOSYS | Errno::PERM) => match self.folder.open_at(&path, flags | OFlags::NOFOLLOW) {
                Ok(fd) => File::from(fd),
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                Err(source) => return Err(error(source.into())),
            },
            Err(source) => return Err(error(source.into())),
        };
        let status = file.metadata().map_err(error)?;
        if !status.is_file() {
            return Err(error(io::Error::other("it is no regular file")));
        }
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, limit + 1), &mut bytes).map_err(error)?;
        if bytes.len() as u64 > limit {
            return Err(error(io::Error::other(format!("it has more than {limit} bytes"))));
        }
        Ok(Some(bytes))
    }

    /// Writes what was learnt about the files' digests.
    ///
    /// # Errors
    /// When the stat cache can't be written.
    pub fn save_stat_cache(&self) -> Result<(), StatCacheError> {
        self.cache.save()
    }

    fn listing(&self, path: &TreePath) -> Result<Arc<Listing>, TreeError> {
        if let Some(listing) = self.listings.read().unwrap_or_else(PoisonError::into_inner).get(path) {
            return Ok(Arc::clone(listing));
        }
        let entries = self.read_entries(path, &self.state_of(path))?;
        let listing = Arc::new(Listing { entries });
        let mut listings = self.listings.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(listings.entry(path.clone()).or_insert(listing)))
    }

    /// What the entries of a directory need to be decided.
    pub(super) fn state_of(&self, directory: &TreePath) -> DirectoryMatch {
        if self.rules.is_empty() {
            return DirectoryMatch::default();
        }
        let Some(parent) = directory.parent() else { return DirectoryMatch::default() };
        if let Some(state) = self.states.read().unwrap_or_else(PoisonError::into_inner).get(directory) {
            return state.clone();
        }
        let above = self.state_of(&parent);
        let state = self.rules.patterns().decide_directory(directory.as_bytes(), &above).1;
        let mut states = self.states.write().unwrap_or_else(PoisonError::into_inner);
        states.entry(directory.clone()).or_insert(state).clone()
    }

    fn read_entries(&self, path: &TreePath, state: &DirectoryMatch) -> Result<Vec<Listed>, TreeError> {
        let error = |source: Errno| self.folder.error("list", path, source.into());
        let directory = match self.folder.open_directory(path) {
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => return Ok(Vec::new()),
            directory => directory.map_err(error)?,
        };
        let mut entries = Vec::new();
        for item in Dir::read_from(&directory).map_err(error)? {
            let item = item.map_err(error)?;
            let name = item.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let inner = path.join(name);
            // An ignored file need not even be looked at.
            let may_be_directory = matches!(item.file_type(), FileType::Directory | FileType::Unknown);
            if !may_be_directory && self.rules.patterns().decide(inner.as_bytes(), state).is_match() {
                continue;
            }
            if let Some(listed) = self.look_at(&directory, inner, state)? {
                entries.push(listed);
            }
        }
        entries.sort_unstable_by(|a, b| name_of(&a.entry).cmp(name_of(&b.entry)));
        let mut facts = self.cache.directory(path.as_bytes());
        for listed in entries.iter_mut().filter(|listed| listed.has_content()) {
            if let Some(known) = facts.find(name_of(&listed.entry)).and_then(|fact| known(&fact, &listed.status)) {
                listed.digest = OnceLock::from(known.digest);
            }
        }
        Ok(entries)
    }

    /// Looks at one entry of an open directory; `None` where there is none or it does not belong to the context.
    fn look_at(
        &self,
        directory: &OwnedFd,
        path: TreePath,
        state: &DirectoryMatch,
    ) -> Result<Option<Listed>, TreeError> {
        let name = path.file_name().unwrap_or(b".");
        if self.hides(&path) {
            return Ok(None);
        }
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat.map_err(|error| self.folder.error("read", &path, error.into()))?,
        };
        let patterns = self.rules.patterns();
        if patterns.decide(path.as_bytes(), state).is_match() {
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                return Ok(None);
            }
            // An ignored directory is there for the sake of what is excepted in it.
            let own = patterns.decide_directory(path.as_bytes(), state).1;
            if !patterns.may_except_below(path.as_bytes(), &own) || !self.has_kept_below(&path)? {
                return Ok(None);
            }
        }
        self.describe(directory.as_fd(), path, &stat).map(Some)
    }

    fn describe(&self, directory: BorrowedFd<'_>, path: TreePath, stat: &Stat) -> Result<Listed, TreeError> {
        let held = self.hold(directory, &path, stat)?;
        let stat = held.as_ref().map_or(stat, |held| &held.stat);
        let name = path.file_name().unwrap_or(b".");
        let node = node_of(directory, name, stat).map_err(|error| self.folder.error("read", &path, error.into()))?;
        let status = FileStatus::of(stat);
        let xattrs = if may_have_capability(stat) { read_capability(directory, name) } else { Xattrs::new() };
        let metadata = Metadata { mode: stat.st_mode & 0o7777, uid: 0, gid: 0, modified: status.modified, xattrs };
        // The type's width differs between architectures.
        #[allow(clippy::useless_conversion)]
        let link_count = u64::from(stat.st_nlink);
        let digest = held.as_ref().map_or_else(OnceLock::new, |held| OnceLock::from(held.digest));
        let held = held.map(|held| held.part);
        Ok(Listed { entry: Entry { path, node, metadata }, status, link_count, digest, held })
    }

    /// A file that can be opened as long as it has this status.
    pub(super) fn source_file(&self, path: TreePath, status: &FileStatus) -> SourceFile {
        let opener: Arc<dyn OpenContent> = Arc::<Folder>::clone(&self.folder);
        SourceFile { opener, path, stamp: status.stamp(), mark: None }
    }

    /// The number of a file that has several names.
    pub(super) fn link_of(&self, inode: (u64, u64)) -> u64 {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let next = links.len() as u64;
        *links.entry(inode).or_insert(next)
    }

    /// Hands over what is at a path.
    fn find<T>(&self, path: &TreePath, take: impl FnOnce(Option<&Listed>) -> T) -> Result<T, TreeError> {
        let Some(parent) = path.parent() else {
            let stat =
                rustix::fs::fstat(&self.folder.root).map_err(|error| self.folder.error("read", path, error.into()))?;
            return Ok(take(Some(&self.describe(self.folder.root.as_fd(), path.clone(), &stat)?)));
        };
        let known = if self.holds_changing() {
            Some(self.listing(&parent)?)
        } else {
            self.listings.read().unwrap_or_else(PoisonError::into_inner).get(&parent).cloned()
        };
        if let Some(listing) = known {
            let name = path.file_name().unwrap_or_default();
            let position = listing.entries.binary_search_by(|listed| name_of(&listed.entry).cmp(name));
            return Ok(take(position.ok().map(|index| &listing.entries[index])));
        }
        let directory = match self.folder.open_directory(&parent) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(take(None)),
            directory => directory.map_err(|error| self.folder.error("read", &parent, error.into()))?,
        };
        Ok(take(self.look_at(&directory, path.clone(), &self.state_of(&parent))?.as_ref()))
    }

    /// Reads the digest of a file whose status was read.
    fn digest_of(&self, path: &TreePath, listed: &Listed) -> Result<ContentDigest, TreeError> {
        if !listed.has_content() {
            return Ok(blake3::hash(b""));
        }
        if let Some(digest) = listed.digest.get() {
            return Ok(*digest);
        }
        let status = listed.status;
        let digest = match self.cache.look_up(path.as_bytes(), &status) {
            Some(known) => known.digest,
            None => {
                let read = || {
                    let file = self.source_file(path.clone(), &status).open()?;
                    self.folder.unchanged(path, hash_unchanged(file, &status)?)
                };
                let copied = self.folder.copied.of_directory(&path.parent().unwrap_or_default());
                let copied = copied.find(|| path.clone(), || status.stamp());
                let digest = copied.map_or_else(read, Ok).map_err(|error| self.folder.error("read", path, error))?;
                self.cache.record(path.as_bytes(), &status, Known { digest, plain: false });
                digest
            }
        };
        Ok(*listed.digest.get_or_init(|| digest))
    }
}

impl Listed {
    /// Whether it is a regular file with bytes in it.
    const fn has_content(&self) -> bool {
        matches!(self.entry.node, Node::File { size: 1.. })
    }
}

impl TreeView for ContextDir {
    fn get(&self, path: &TreePath) -> Result<Option<Entry>, TreeError> {
        self.find(path, |listed| listed.map(|listed| listed.entry.clone()))
    }

    fn read_dir(&self, path: &TreePath) -> Result<Vec<Entry>, TreeError> {
        Ok(self.listing(path)?.entries.iter().map(|listed| listed.entry.clone()).collect())
    }

    fn content(&self, path: &TreePath) -> Result<Content, TreeError> {
        self.find(path, |listed| match listed.filter(|listed| listed.has_content()) {
            None => Content::None,
            Some(Listed { held: Some(part), .. }) => Content::Part(part.clone()),
            Some(listed) => Content::Source(self.source_file(path.clone(), &listed.status)),
        })
    }

    fn content_digest(&self, path: &TreePath) -> Result<ContentDigest, TreeError> {
        self.find(path, |listed| listed.map_or_else(|| Ok(blake3::hash(b"")), |listed| self.digest_of(path, listed)))?
    }

    fn link_id(&self, path: &TreePath) -> Result<Option<u64>, TreeError> {
        let inode = self.find(path, |listed| match listed {
            Some(Listed { entry: Entry { node: Node::File { .. }, .. }, status, link_count: 2.., .. }) => {
                Some((status.device, status.inode))
            }
            _ => None,
        })?;
        Ok(inode.map(|inode| self.link_of(inode)))
    }

    fn visit(&self, directory: &TreePath, wants: &Wants<'_>, take: &mut Take<'_>) -> Result<(), TreeError> {
        if self.holds_changing() {
            // Lists are kept until the next change is noticed, so that whoever looks twice sees the same.
            return visit_listed(self, directory, wants, take);
        }
        self.visit_directory(directory, Contents::Digested, wants, take)
    }
}

/// What an entry is, by its status.
pub(super) fn node_of(directory: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<Node, Errno> {
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Node::Directory { opaque: false },
        FileType::Symlink => {
            Node::Symlink { target: rustix::fs::readlinkat(directory, name, Vec::new())?.into_bytes() }
        }
        FileType::Fifo => Node::Fifo,
        FileType::CharacterDevice => Node::CharDevice { major, minor },
        FileType::BlockDevice => Node::BlockDevice { major, minor },
        FileType::Socket => Node::File { size: 0 },
        _ => Node::File { size: stat.st_size.unsigned_abs() },
    })
}

/// Whether it is worth looking for capabilities.
pub(super) fn may_have_capability(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & 0o111 != 0
}

fn name_of(entry: &Entry) -> &[u8] {
    entry.path.file_name().unwrap_or_default()
}
