//! A folder of the user's as a tree, read in place.
//!
//! Everything is opened relative to the folder's own descriptor and no symbolic link is ever followed, so nothing
//! outside the folder can be read through it, whatever other processes do meanwhile. Directories are read when they are
//! asked for, and once. Only regular files are ever opened for reading.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::error::ContextError;
use super::ignore::{IgnoreRules, Verdict};
use super::pattern::DirectoryMatch;
use super::spool::hash_reader;
use super::stat_cache::{FileStatus, StatCache, StatCacheError};
use crate::tree::{
    Content, ContentDigest, Entry, Metadata, Node, OpenContent, Timestamp, TreeError, TreePath, TreeView, Xattrs,
};

/// The one attribute that layers carry.
const CAPABILITY: &str = "security.capability";

/// A folder whose files can be copied, without those that its ignore rules leave out.
///
/// COMPAT(buildkit): every entry belongs to root (0:0), and a socket is an empty file.
pub struct ContextDir {
    folder: Arc<Folder>,
    rules: IgnoreRules,
    cache: StatCache,
    listings: RwLock<HashMap<TreePath, Arc<Listing>>>,
    links: Mutex<HashMap<(u64, u64), u64>>,
}

/// The open folder.
struct Folder {
    root: OwnedFd,
    path: PathBuf,
}

/// What is in a directory and belongs to the context.
struct Listing {
    entries: Vec<Listed>,
    state: DirectoryMatch,
}

#[derive(Clone)]
struct Listed {
    entry: Entry,
    status: FileStatus,
    link_count: u64,
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
            folder: Arc::new(Folder { root, path: path.to_owned() }),
            rules: rules.unwrap_or_default(),
            cache,
            listings: RwLock::default(),
            links: Mutex::default(),
        })
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
            Err(Errno::NOSYS | Errno::PERM) => match self.folder.open(&path, flags | OFlags::NOFOLLOW) {
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
        let state = match path.parent() {
            None => DirectoryMatch::default(),
            Some(parent) => {
                let known = self.listings.read().unwrap_or_else(PoisonError::into_inner).get(&parent).cloned();
                let above = known.map_or_else(|| self.rules.directory_state(&parent), |known| known.state.clone());
                self.rules.patterns().decide_directory(path.as_bytes(), &above).1
            }
        };
        let entries = self.read_entries(path, &state)?;
        let listing = Arc::new(Listing { entries, state });
        let mut listings = self.listings.write().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(listings.entry(path.clone()).or_insert(listing)))
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
            if !patterns.may_except_below(path.as_bytes(), &own) || self.listing(&path)?.entries.is_empty() {
                return Ok(None);
            }
        }
        self.describe(directory.as_fd(), path, &stat).map(Some)
    }

    fn describe(&self, directory: BorrowedFd<'_>, path: TreePath, stat: &Stat) -> Result<Listed, TreeError> {
        let name = path.file_name().unwrap_or(b".");
        let node = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Node::Directory { opaque: false },
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new())
                    .map_err(|error| self.folder.error("read", &path, error.into()))?;
                Node::Symlink { target: target.into_bytes() }
            }
            FileType::Fifo => Node::Fifo,
            FileType::CharacterDevice => {
                Node::CharDevice { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) }
            }
            FileType::BlockDevice => {
                Node::BlockDevice { major: rustix::fs::major(stat.st_rdev), minor: rustix::fs::minor(stat.st_rdev) }
            }
            FileType::Socket => Node::File { size: 0 },
            _ => Node::File { size: stat.st_size.unsigned_abs() },
        };
        let status = FileStatus::of(stat);
        let xattrs = if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & 0o111 != 0 {
            read_capability(directory, name)
        } else {
            Xattrs::new()
        };
        let metadata = Metadata { mode: stat.st_mode & 0o7777, uid: 0, gid: 0, modified: status.modified, xattrs };
        // The type's width differs between architectures.
        #[allow(clippy::useless_conversion)]
        let link_count = u64::from(stat.st_nlink);
        Ok(Listed { entry: Entry { path, node, metadata }, status, link_count })
    }

    /// Hands over what is at a path.
    fn find<T>(&self, path: &TreePath, take: impl FnOnce(Option<&Listed>) -> T) -> Result<T, TreeError> {
        let Some(parent) = path.parent() else {
            let stat =
                rustix::fs::fstat(&self.folder.root).map_err(|error| self.folder.error("read", path, error.into()))?;
            return Ok(take(Some(&self.describe(self.folder.root.as_fd(), path.clone(), &stat)?)));
        };
        let known = self.listings.read().unwrap_or_else(PoisonError::into_inner).get(&parent).cloned();
        if let Some(listing) = known {
            let name = path.file_name().unwrap_or_default();
            let position = listing.entries.binary_search_by(|listed| name_of(&listed.entry).cmp(name));
            return Ok(take(position.ok().map(|index| &listing.entries[index])));
        }
        let directory = match self.folder.open_directory(&parent) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(take(None)),
            directory => directory.map_err(|error| self.folder.error("read", &parent, error.into()))?,
        };
        Ok(take(self.look_at(&directory, path.clone(), &self.rules.directory_state(&parent))?.as_ref()))
    }

    /// The status of a regular file that is not empty.
    fn find_file(&self, path: &TreePath) -> Result<Option<FileStatus>, TreeError> {
        self.find(path, |listed| match listed {
            Some(Listed { entry: Entry { node: Node::File { size: 1.. }, .. }, status, .. }) => Some(*status),
            _ => None,
        })
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
        Ok(self.find_file(path)?.map_or(Content::None, |status| {
            Content::Source(Arc::new(ContextFile { folder: Arc::clone(&self.folder), path: path.clone(), status }))
        }))
    }

    fn content_digest(&self, path: &TreePath) -> Result<ContentDigest, TreeError> {
        let Some(status) = self.find_file(path)? else { return Ok(blake3::hash(b"")) };
        if let Some(digest) = self.cache.look_up(path.as_bytes(), &status) {
            return Ok(digest);
        }
        let file = ContextFile { folder: Arc::clone(&self.folder), path: path.clone(), status };
        let digest = file.open().and_then(hash_reader).map_err(|error| self.folder.error("read", path, error))?;
        self.cache.record(path.as_bytes(), &status, digest);
        Ok(digest)
    }

    fn link_id(&self, path: &TreePath) -> Result<Option<u64>, TreeError> {
        let inode = self.find(path, |listed| match listed {
            Some(Listed { entry: Entry { node: Node::File { .. }, .. }, status, link_count: 2.. }) => {
                Some((status.device, status.inode))
            }
            _ => None,
        })?;
        let Some(inode) = inode else { return Ok(None) };
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let next = links.len() as u64;
        Ok(Some(*links.entry(inode).or_insert(next)))
    }
}

/// A file of the folder that can be opened later, as long as it has not changed.
struct ContextFile {
    folder: Arc<Folder>,
    path: TreePath,
    status: FileStatus,
}

impl OpenContent for ContextFile {
    fn open(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(self.folder.open(&self.path, flags)?);
        if FileStatus::of(&rustix::fs::fstat(&file)?) != self.status {
            let path = self.folder.shown(&self.path);
            return Err(io::Error::other(format!("`{path}` changed while the build used it")));
        }
        Ok(file)
    }
}

impl FileStatus {
    fn of(stat: &Stat) -> Self {
        // Kernel interfaces give these in types that differ between architectures.
        #[allow(clippy::useless_conversion, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let time = |seconds: i64, nanoseconds: u64| Timestamp { seconds, nanoseconds: nanoseconds as u32 };
        #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
        Self {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            changed: time(stat.st_ctime as i64, stat.st_ctime_nsec as u64),
            modified: time(stat.st_mtime as i64, stat.st_mtime_nsec as u64),
            size: stat.st_size.unsigned_abs(),
            mode: stat.st_mode,
        }
    }
}

impl Folder {
    fn open_directory(&self, path: &TreePath) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC)
    }

    /// Opens something below the folder without following any link.
    fn open(&self, path: &TreePath, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.root, path.as_path(), flags, Mode::empty(), resolve) {
            // Some container sandboxes refuse the call.
            Err(Errno::NOSYS | Errno::PERM) => self.open_stepwise(path, flags),
            result => result,
        }
    }

    fn open_stepwise(&self, path: &TreePath, flags: OFlags) -> Result<OwnedFd, Errno> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Some(name) = path.file_name() else {
            return rustix::fs::openat(&self.root, ".", flags, Mode::empty());
        };
        let mut directory: Option<OwnedFd> = None;
        for ancestor in path.ancestors() {
            let at = directory.as_ref().map_or_else(|| self.root.as_fd(), AsFd::as_fd);
            let next = rustix::fs::openat(at, ancestor.file_name().unwrap_or(b"."), step, Mode::empty())?;
            directory = Some(next);
        }
        let at = directory.as_ref().map_or_else(|| self.root.as_fd(), AsFd::as_fd);
        rustix::fs::openat(at, name, flags, Mode::empty())
    }

    fn shown(&self, path: &TreePath) -> String {
        self.path.join(path.as_path()).display().to_string()
    }

    fn error(&self, action: &'static str, path: &TreePath, source: io::Error) -> TreeError {
        TreeError::Io { action, path: self.shown(path), source }
    }
}

fn name_of(entry: &Entry) -> &[u8] {
    entry.path.file_name().unwrap_or_default()
}

/// Reads a file's capabilities. A path through `/proc` is the only way to a file that need not be readable.
fn read_capability(directory: BorrowedFd<'_>, name: &[u8]) -> Xattrs {
    let path = [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), name].concat();
    let mut value = [0; 64];
    match rustix::fs::lgetxattr(path.as_slice(), CAPABILITY, &mut value) {
        Ok(length @ 1..) => Xattrs::from([(CAPABILITY.as_bytes().to_vec(), value[..length].to_vec())]),
        _ => Xattrs::new(),
    }
}
