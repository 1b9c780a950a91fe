//! Folders of `RUN --mount=type=cache`.
//!
//! `mounts/<id>/0/` is the folder that shared and locked mounts use; a private mount takes the first of `0`, `1`, ...
//! that nobody else uses. A new folder is filled under `tmp/` and renamed, so no step sees it half-made.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::claim::Claimed;
use super::lock::Lock;
use super::{Store, StoreError, file};

/// Who may use a cache mount at the same time (`RUN --mount=type=cache,sharing=…`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CacheSharing {
    /// Any number of steps at once.
    #[default]
    Shared,
    /// A step gets another folder while one is in use.
    Private,
    /// A step waits while another uses the folder.
    Locked,
}

/// A cache folder in use. Others see that until it is dropped.
#[derive(Debug)]
#[must_use = "the folder is in use only as long as this lives"]
pub struct CacheMount {
    path: PathBuf,
    _lock: Lock,
}

impl CacheMount {
    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Store {
    /// Takes the cache folder of an identity for use; waits as `sharing` says. `id` is the caller's hash of what the
    /// cache is; `fill` gives a new folder its first content, owner and mode.
    ///
    /// # Errors
    /// When `id` can't be a file name, or the folder can't be made, filled or locked.
    pub fn cache_mount(
        &self,
        id: &str,
        sharing: CacheSharing,
        fill: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<CacheMount, StoreError> {
        let id = file::name("cache mount", id)?;
        let name = |number: u32| format!("mount-{id}-{number}");
        let (lock, number) = match sharing {
            CacheSharing::Shared => (self.lock_shared(&name(0))?, 0),
            CacheSharing::Locked => (self.lock(&name(0))?, 0),
            CacheSharing::Private => {
                let mut number = 0;
                loop {
                    if let Some(lock) = self.try_lock(&name(number))? {
                        break (lock, number);
                    }
                    number += 1;
                }
            }
        };
        let path = self.cache_mount_dir(id, number, fill)?;
        Ok(CacheMount { path, _lock: lock })
    }

    /// As [`Self::cache_mount`], but gives `None` where it would wait, so that the caller can be cancelled meanwhile.
    ///
    /// # Errors
    /// As [`Self::cache_mount`].
    pub fn try_cache_mount(
        &self,
        id: &str,
        sharing: CacheSharing,
        fill: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<Option<CacheMount>, StoreError> {
        let name = format!("mount-{}-0", file::name("cache mount", id)?);
        let lock = match sharing {
            CacheSharing::Private => return self.cache_mount(id, sharing, fill).map(Some),
            CacheSharing::Locked => self.try_lock(&name)?,
            CacheSharing::Shared => self.try_lock_shared(&name)?,
        };
        let Some(lock) = lock else { return Ok(None) };
        Ok(Some(CacheMount { path: self.cache_mount_dir(id, 0, fill)?, _lock: lock }))
    }

    /// Removes the folders of a cache, so that its next use begins with an empty one. Waits for those who use it.
    ///
    /// # Errors
    /// When `id` can't be a file name, or a folder can't be locked or removed.
    pub fn remove_cache_mount(&self, id: &str) -> Result<(), StoreError> {
        let id = file::name("cache mount", id)?;
        let _lock = self.lock(&format!("mount-{id}-0"))?;
        let folder = self.path("mounts").join(id);
        let temp = self.temp_dir("removed")?;
        match fs::rename(&folder, temp.path().join("cache")) {
            Ok(()) => temp.close(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StoreError::io("remove", &folder)(error)),
        }
    }

    fn cache_mount_dir(
        &self,
        id: &str,
        number: u32,
        fill: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<PathBuf, StoreError> {
        self.claim(Claimed::named("mount", id));
        let folder = self.path("mounts").join(id);
        let path = folder.join(number.to_string());
        if path.is_dir() {
            file::touch(&folder);
            return Ok(path);
        }
        file::create_dir(&folder)?;
        let temp = self.temp_dir("mount")?;
        // Inside, so that the folder itself may get any mode and owner.
        let new = temp.path().join("new");
        fs::create_dir(&new).map_err(StoreError::io("make the folder", &new))?;
        fill(&new).map_err(StoreError::io("fill", &new))?;
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(rustix::fs::CWD, &new, rustix::fs::CWD, &path, flags) {
            // Another step that shares the mount was faster.
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(path),
            Err(errno) => Err(StoreError::errno("put in place", &path)(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;
    use super::*;

    #[test]
    fn sharing() {
        use CacheSharing::{Locked, Private, Shared};
        let (_dir, store) = scratch();
        let fill = |path: &Path| fs::write(path.join("first"), "x");
        let shared = store.cache_mount("id", Shared, fill).unwrap();
        assert!(shared.path().join("first").exists());
        let again = store.cache_mount("id", Shared, |_| panic!("filled twice")).unwrap();
        assert_eq!(shared.path(), again.path());
        assert!(store.try_cache_mount("id", Locked, fill).unwrap().is_none());
        let private = store.cache_mount("id", Private, fill).unwrap();
        assert_ne!(private.path(), shared.path());
        drop((shared, again));
        let locked = store.try_cache_mount("id", Locked, fill).unwrap().unwrap();
        assert!(store.try_cache_mount("id", Shared, fill).unwrap().is_none());
        drop((locked, private));
        let private = store.cache_mount("id", Private, fill).unwrap();
        assert!(private.path().ends_with("mounts/id/0"));
    }

    #[test]
    fn a_folder_that_could_not_be_filled_is_not_there() {
        let (_dir, store) = scratch();
        let fail = |_: &Path| Err(io::Error::other("no"));
        assert!(store.cache_mount("id", CacheSharing::Shared, fail).is_err());
        assert!(!store.path("mounts/id/0").exists());
    }
}
