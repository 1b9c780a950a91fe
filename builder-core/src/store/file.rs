//! Files of the store: made whole under `tmp/`, renamed into place, and opened without following links.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::{Store, StoreError};

/// Whether a file must be on disk before its write counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// The file is flushed before it is renamed, so a power failure leaves the old or the new one.
    Flushed,
    /// The kernel writes it when it likes; a reader notices a torn file.
    Checked,
}

impl Store {
    /// Replaces a file by a new one of the given bytes, at once.
    pub(super) fn write_file(&self, path: &Path, parts: &[&[u8]], durability: Durability) -> Result<(), StoreError> {
        self.write_file_with(path, durability, |file| {
            for part in parts {
                file.write_all(part)?;
                self.wrote(part.len() as u64);
            }
            Ok(())
        })
    }

    /// Replaces a file by a new one that `fill` writes, at once.
    pub(super) fn write_file_with(
        &self,
        path: &Path,
        durability: Durability,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        let (mut file, temp) = self.temp_file()?;
        let written = fill(&mut file).and_then(|()| match durability {
            Durability::Flushed => file.sync_data(),
            Durability::Checked => Ok(()),
        });
        let placed = written
            .map_err(StoreError::io("write", path))
            .and_then(|()| fs::rename(&temp, path).map_err(StoreError::io("put in place", path)));
        if let Err(error) = placed {
            let _ = fs::remove_file(&temp);
            return Err(error);
        }
        Ok(())
    }

    /// Makes an empty file of this process's own under `tmp/`, on the store's file system.
    pub(super) fn temp_file(&self) -> Result<(File, PathBuf), StoreError> {
        let path = self.temp_name("file")?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&path)
            .map_err(StoreError::io("make", &path))?;
        Ok((file, path))
    }
}

/// Opens a regular file for reading; never a link, a device or a pipe.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

/// Reads a whole file of at most `limit` bytes; `None` where there is none.
pub(super) fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
    let file = match open_regular(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("open", path)(error)),
    };
    let size = file.metadata().map_err(StoreError::io("read", path))?.len();
    if size > limit {
        let source = io::Error::new(io::ErrorKind::FileTooLarge, format!("it has {size} bytes, {limit} are allowed"));
        return Err(StoreError::Io { action: "read", path: path.to_owned(), source });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(limit).read_to_end(&mut bytes).map_err(StoreError::io("read", path))?;
    Ok(Some(bytes))
}

/// Notes a use of a file or folder in its modification time. Where that can't be written, the old one stays.
pub(super) fn touch(path: &Path) {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    let _ = rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
}

/// Removes a file; whether there was one.
pub(super) fn remove(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io("remove", path)(error)),
    }
}

/// Makes a folder of mode 0700 if there is none.
pub(super) fn create_dir(path: &Path) -> Result<(), StoreError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(StoreError::io("make the folder", path)(error))
        }
        _ => Ok(()),
    }
}

/// Makes a folder and the ones above it, as far as they are missing.
pub(super) fn create_dirs(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(StoreError::io("make the folder", path))
}

/// Asks the file system to put the folders that are made in this one far from each other on the disk, as far as it
/// can be asked.
pub(super) fn scatter(path: &Path) {
    let flags = || -> io::Result<()> {
        let folder = File::open(path)?;
        let flags = ioctl_getflags(&folder)? | IFlags::TOPDIR;
        Ok(ioctl_setflags(&folder, flags)?)
    };
    if let Err(error) = flags() {
        tracing::debug!(path = %path.display(), %error, "new folders stay close to each other");
    }
}

/// The names in a folder, sorted; none where there is no folder.
pub(super) fn list(path: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("list", path)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        // Names that are no UTF-8 are not ours.
        if let Ok(name) = entry.map_err(StoreError::io("list", path))?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Checks that a text can be a file name of the store: 1 to 200 letters, digits, `_`, `-` and `.`, no leading dot.
pub(super) fn name<'a>(kind: &'static str, text: &'a str) -> Result<&'a str, StoreError> {
    let valid = (1..=200).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    if valid { Ok(text) } else { Err(StoreError::BadName { kind, name: text.chars().take(200).collect() }) }
}

/// Makes the store's folder, or checks that an existing one is ours alone; gives its absolute path without links.
pub(super) fn prepare_root(root: &Path) -> Result<PathBuf, StoreError> {
    let unsafe_because = |reason: &str| StoreError::Unsafe { path: root.to_owned(), reason: reason.to_owned() };
    let user = rustix::process::geteuid().as_raw();
    let first = match fs::symlink_metadata(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_dirs(root)?;
            // The umask may have taken bits, and a parent's default ACL may have added some.
            fs::set_permissions(root, Permissions::from_mode(0o700)).map_err(StoreError::io("protect", root))?;
            fs::symlink_metadata(root).map_err(StoreError::io("look at", root))?
        }
        other => other.map_err(StoreError::io("look at", root))?,
    };
    if first.is_symlink() && first.uid() != user && first.uid() != 0 {
        return Err(unsafe_because("it is a link that belongs to someone else"));
    }
    let real = fs::canonicalize(root).map_err(StoreError::io("find", root))?;
    let metadata = fs::metadata(&real).map_err(StoreError::io("look at", &real))?;
    if !metadata.is_dir() {
        return Err(unsafe_because("it is not a folder"));
    }
    if metadata.uid() != user {
        return Err(unsafe_because("it belongs to someone else"));
    }
    let names = list(&real)?;
    let is_store = names.iter().any(|n| n == "version");
    // A first start may have been killed on its way, so a part of a store's own names is fine as well.
    let ours = ["oci-layout", "index.json", "blobs", "lost+found"];
    if !is_store && !names.iter().all(|n| ours.contains(&n.as_str()) || super::FOLDERS.contains(&n.as_str())) {
        return Err(StoreError::NotAStore { path: real });
    }
    if is_store && metadata.mode() & 0o022 != 0 {
        return Err(unsafe_because("other users may write to it"));
    }
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(&real, Permissions::from_mode(0o700)).map_err(StoreError::io("protect", &real))?;
    }
    Ok(real)
}

/// Reads a short text that the kernel offers as a file, whose size is not known before.
pub(super) fn read_kernel_text(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(4096).read_to_string(&mut text).ok()?;
    Some(text)
}
