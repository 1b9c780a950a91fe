//! Folders of `RUN --mount=type=cache`.
//!
//! `mounts/<id>/0/` is the folder that shared and locked mounts use; a private mount takes the first of `0`, `1`, ...
//! that nobody else uses. A new folder is filled under `tmp/` and renamed, so no step sees it half-made.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::claim::{Claimed, Unclaimed};
use super::lock::Lock;
use super::record::read_record;
use super::sweep::{REMOVED, Sweep};
use super::usage::disk_usage;
use super::{Store, StoreError, file};

/// The record beside a cache's folders.
const ABOUT: &str = "about";

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

/// What a cache mount is called in Dockerfiles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountAbout {
    /// Its `id=`, or its target where it has none.
    pub id: String,
    /// The namespace of caches (`BUILDKIT_CACHE_MOUNT_NS`); mostly empty.
    pub namespace: String,
}

/// A cache mount of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMount {
    /// The hash of what the cache is, which names its folder.
    pub hash: String,
    /// What it is called; `None` where that is not known.
    pub about: Option<MountAbout>,
    /// When it was used last.
    pub used: SystemTime,
    /// The disk space that it takes, in bytes.
    pub size_bytes: u64,
}

impl StoredMount {
    /// What it is called; the hash where that is not known.
    #[must_use]
    pub fn name(&self) -> &str {
        self.about.as_ref().map_or(&self.hash, |about| &about.id)
    }
}

impl Store {
    /// Writes down what a cache mount is called, unless that was done.
    ///
    /// # Errors
    /// When `hash` can't be a file name, or the record can't be written.
    pub fn describe_cache_mount(&self, hash: &str, about: &MountAbout) -> Result<(), StoreError> {
        let path = self.path("mounts").join(file::name("cache mount", hash)?).join(ABOUT);
        if path.exists() {
            return Ok(());
        }
        let text = serde_json::to_vec(about).expect("texts can always be written");
        self.write_record(&path, &text)
    }

    /// All cache mounts, sorted by what they are called.
    ///
    /// # Errors
    /// When they can't be listed.
    pub fn cache_mounts(&self) -> Result<Vec<StoredMount>, StoreError> {
        let folder = self.path("mounts");
        let mut mounts = Vec::new();
        for hash in file::list(&folder)?.into_iter().filter(|name| !name.starts_with(REMOVED)) {
            let path = folder.join(&hash);
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let about = read_record(&path.join(ABOUT))?.and_then(|text| serde_json::from_slice(&text).ok());
            mounts.push(StoredMount { size_bytes: disk_usage(&path, &mut BTreeSet::new()), hash, about, used });
        }
        mounts.sort_by(|a, b| (a.name(), &a.hash).cmp(&(b.name(), &b.hash)));
        Ok(mounts)
    }

    /// Takes a cache mount's first folder for itself, made empty where there is none; `None` where a step uses it.
    ///
    /// # Errors
    /// When `hash` can't be a file name, or the folder can't be made or locked.
    pub fn hold_cache_mount(&self, hash: &str) -> Result<Option<CacheMount>, StoreError> {
        self.try_cache_mount(hash, CacheSharing::Locked, |_| Ok(()))
    }

    /// Puts a folder in the place of a cache mount's, which is held: the next step that uses the cache finds it.
    ///
    /// # Errors
    /// When a folder can't be moved.
    pub fn replace_cache_mount(&self, held: &CacheMount, new: &Path) -> Result<(), StoreError> {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(rustix::fs::CWD, new, rustix::fs::CWD, &held.path, flags)
            .map_err(StoreError::errno("put in place", &held.path))
    }

    /// Removes a cache mount that no running build uses; whether it did.
    ///
    /// # Errors
    /// When `hash` can't be a file name, or something in the cache can't be removed.
    pub fn remove_unused_cache_mount(&self, hash: &str) -> Result<bool, StoreError> {
        let path = self.path("mounts").join(file::name("cache mount", hash)?);
        let unclaimed = Unclaimed::new(self)?;
        Sweep::new(self, &unclaimed, false)?.remove_folder(Claimed::named("mount", hash), &path)
    }

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
    fn mounts_are_listed_by_name_and_removed_when_unused() {
        let (_dir, store) = scratch();
        let about = MountAbout { id: "npm".to_owned(), namespace: String::new() };
        let mount = store.cache_mount("hash", CacheSharing::Private, |path| fs::write(path.join("a"), "x")).unwrap();
        store.describe_cache_mount("hash", &about).unwrap();
        let other = Store::open(store.root()).unwrap();
        let listed = other.cache_mounts().unwrap();
        assert_eq!(listed.iter().map(StoredMount::name).collect::<Vec<_>>(), ["npm"]);
        assert_eq!(listed[0].about, Some(about));
        assert!(other.hold_cache_mount("hash").unwrap().is_none());
        assert!(!other.remove_unused_cache_mount("hash").unwrap());
        drop(mount);
        // A build that used it may come back to it.
        assert!(!other.remove_unused_cache_mount("hash").unwrap());
        drop(store);
        assert!(other.remove_unused_cache_mount("hash").unwrap());
        assert_eq!(other.cache_mounts().unwrap(), []);
    }

    #[test]
    fn a_folder_that_could_not_be_filled_is_not_there() {
        let (_dir, store) = scratch();
        let fail = |_: &Path| Err(io::Error::other("no"));
        assert!(store.cache_mount("id", CacheSharing::Shared, fail).is_err());
        assert!(!store.path("mounts/id/0").exists());
    }
}
