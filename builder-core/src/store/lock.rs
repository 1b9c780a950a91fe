//! Advisory locks between processes. The kernel frees them when their holder ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::{Store, StoreError};

/// A lock that is held until it is dropped.
#[derive(Debug)]
#[must_use = "the lock is given up when this is dropped"]
pub struct Lock {
    file: File,
}

impl Store {
    /// Takes the lock of a note if it is free. Its holder is about to make the note, so who gets the lock later looks
    /// again whether the note is there. Some notes share a lock: no thread may hold two.
    ///
    /// # Errors
    /// When the lock can't be taken.
    pub fn try_lock_note(&self, kind: &str, name: &str) -> Result<Option<Lock>, StoreError> {
        let hash = blake3::hash(format!("{kind}\0{name}").as_bytes()).to_hex();
        self.try_lock(&format!("note-{}", &hash[..2]))
    }

    /// Waits for a lock of the store by name.
    pub(super) fn lock(&self, name: &str) -> Result<Lock, StoreError> {
        let path = self.path("locks").join(name);
        loop {
            let file = open_lock_file(&path)?;
            file.lock().map_err(StoreError::io("lock", &path))?;
            if is_current(&file) {
                return Ok(Lock { file });
            }
        }
    }

    /// Takes a lock of the store by name if it is free.
    pub(super) fn try_lock(&self, name: &str) -> Result<Option<Lock>, StoreError> {
        let path = self.path("locks").join(name);
        loop {
            match try_exclusive(open_lock_file(&path)?, &path)? {
                Some(lock) if !is_current(&lock.file) => {}
                other => return Ok(other),
            }
        }
    }

    /// Waits for a lock of the store by name that others may share.
    pub(super) fn lock_shared(&self, name: &str) -> Result<Lock, StoreError> {
        let path = self.path("locks").join(name);
        loop {
            let file = open_lock_file(&path)?;
            file.lock_shared().map_err(StoreError::io("lock", &path))?;
            if is_current(&file) {
                return Ok(Lock { file });
            }
        }
    }

    /// Takes a lock of the store by name that others may share, if nobody holds it alone.
    pub(super) fn try_lock_shared(&self, name: &str) -> Result<Option<Lock>, StoreError> {
        let path = self.path("locks").join(name);
        loop {
            let file = open_lock_file(&path)?;
            match file.try_lock_shared() {
                Ok(()) if !is_current(&file) => {}
                Ok(()) => return Ok(Some(Lock { file })),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", &path)(error)),
            }
        }
    }

    /// Removes a lock's file unless somebody holds it. Who waits for it meanwhile takes a new one.
    pub(super) fn remove_lock(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path("locks").join(name);
        if !path.exists() {
            return Ok(());
        }
        match self.try_lock(name)? {
            Some(_held) => super::file::remove(&path).map(|_| ()),
            None => Ok(()),
        }
    }
}

/// Whether a locked file is still the one that others find by its name, and was not removed before it was locked.
fn is_current(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
}

/// Locks an open lock file if nobody else has.
pub(super) fn try_exclusive(file: File, path: &Path) -> Result<Option<Lock>, StoreError> {
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock { file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", path)(error)),
    }
}

/// Opens a lock file, made where it is missing. What others may have planted there is refused.
pub(super) fn open_lock_file(path: &Path) -> Result<File, StoreError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(StoreError::io("open the lock", path))?;
    let metadata = file.metadata().map_err(StoreError::io("look at", path))?;
    if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
        let reason = "a lock must be a regular file of the same user".to_owned();
        return Err(StoreError::Unsafe { path: path.to_owned(), reason });
    }
    Ok(file)
}
