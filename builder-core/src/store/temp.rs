//! What a running process works on, and how it goes when the process is killed.
//!
//! Each process that needs it has one folder `tmp/<pid>-<random>/` with a file `lock` in it, locked as long as the
//! process lives. A folder whose lock is free is a leftover. So that a folder just made is not taken for one, making
//! and judging them happens under the store's `temp` lock.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};

use super::delete::remove_path;
use super::lock::{Lock, open_lock_file, try_exclusive};
use super::{Store, StoreError, file};

/// The temp folder of this process, removed when it is dropped.
#[derive(Debug)]
pub(super) struct ProcessTemp {
    path: PathBuf,
    /// A folder in it that is elsewhere on the disk, for all that is made since it was needed.
    far: Option<PathBuf>,
    _lock: Lock,
}

impl Drop for ProcessTemp {
    fn drop(&mut self) {
        if let Err(error) = remove_path(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "could not remove the temporary folder");
        }
    }
}

/// A folder under `tmp/`, removed with everything in it when it is dropped.
#[derive(Debug)]
pub struct TempDir {
    // Keeps the process's folder, and with it the lock.
    store: Store,
    path: Option<PathBuf>,
}

impl TempDir {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.path.as_deref().expect("the path is taken only when the value is consumed")
    }

    /// Leaves the folder for the caller to rename elsewhere; it still goes when the store's last handle is dropped.
    #[must_use]
    pub fn keep(mut self) -> PathBuf {
        self.path.take().expect("the path is taken only when the value is consumed")
    }

    /// The store that it belongs to.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Removes the folder now and says whether that worked.
    ///
    /// # Errors
    /// When something in it can't be removed, such as a mounted file system.
    pub fn close(self) -> Result<(), StoreError> {
        let path = self.keep();
        remove_path(&path).map_err(StoreError::io("remove", &path))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        if let Err(error) = remove_path(&path) {
            tracing::warn!(path = %path.display(), %error, "could not remove a temporary folder");
        }
    }
}

impl Store {
    /// Makes a folder of mode 0700 under `tmp/`, on the same file system as everything else in the store. `purpose`
    /// is a part of its name.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn temp_dir(&self, purpose: &str) -> Result<TempDir, StoreError> {
        let path = self.temp_name(file::name("temporary folder", purpose)?)?;
        DirBuilder::new().mode(0o700).create(&path).map_err(StoreError::io("make the folder", &path))?;
        Ok(TempDir { store: self.clone(), path: Some(path) })
    }

    /// As [`Self::temp_dir`], for a folder that may get thousands of files.
    ///
    /// It is made far from those of other processes on the disk, and so is all that this one makes from now on: where
    /// ext4 has no journal, whoever makes files beside those that somebody has just removed by the thousand does nearly
    /// nothing but pass over what these leave.
    pub(super) fn temp_dir_for_many(&self, purpose: &str) -> Result<TempDir, StoreError> {
        self.temp_folder()?;
        let mut guard = self.process_temp();
        let temp = guard.as_mut().expect("it was made just now");
        if temp.far.is_none() {
            // What is made in a folder is kept close together, but for what is made in the scattered one itself, whose
            // place is chosen by its name.
            let scattered = temp.path.join("far");
            let far = scattered.join(temp.path.file_name().expect("the name was chosen by `make_process_temp`"));
            file::create_dir(&scattered)?;
            file::scatter(&scattered);
            file::create_dir(&far)?;
            temp.far = Some(far);
        }
        drop(guard);
        self.temp_dir(purpose)
    }

    /// The folder under `tmp/` that this process may put files without a name into. It stays as long as any handle of
    /// the store.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn temp_folder(&self) -> Result<PathBuf, StoreError> {
        let mut temp = self.process_temp();
        if temp.is_none() {
            *temp = Some(self.make_process_temp()?);
        }
        let temp = temp.as_ref().expect("it was made just now");
        Ok(temp.far.as_ref().unwrap_or(&temp.path).clone())
    }

    /// A name under `tmp/` that nothing has yet.
    pub(super) fn temp_name(&self, purpose: &str) -> Result<PathBuf, StoreError> {
        let number = self.inner.counter.fetch_add(1, Ordering::Relaxed);
        Ok(self.temp_folder()?.join(format!("{purpose}-{number}")))
    }

    fn process_temp(&self) -> MutexGuard<'_, Option<ProcessTemp>> {
        self.inner.temp.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_process_temp(&self) -> Result<ProcessTemp, StoreError> {
        let tmp = self.path("tmp");
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(StoreError::errno("choose a name in", &tmp))?;
        let path = tmp.join(format!("{}-{:016x}", std::process::id(), u64::from_ne_bytes(random)));
        let _making = self.lock("temp")?;
        DirBuilder::new().mode(0o700).create(&path).map_err(StoreError::io("make the folder", &path))?;
        let lock_path = path.join("lock");
        let lock = try_exclusive(open_lock_file(&lock_path)?, &lock_path)?;
        let lock = lock.ok_or_else(|| StoreError::Busy { path: path.clone() })?;
        Ok(ProcessTemp { path, far: None, _lock: lock })
    }

    /// Removes the folders of processes that are gone. What can't be removed stays, and is tried again another time.
    pub(super) fn remove_leftovers(&self) {
        for (path, _lock) in self.leftovers() {
            if let Err(error) = remove_path(&path) {
                tracing::warn!(path = %path.display(), %error, "could not remove a leftover of another process");
            }
        }
    }

    /// Folders under `tmp/` that belong to nobody, and their locks where they have one.
    fn leftovers(&self) -> Vec<(PathBuf, Option<Lock>)> {
        let tmp = self.path("tmp");
        let names = file::list(&tmp).unwrap_or_default();
        if names.is_empty() {
            return Vec::new();
        }
        let Ok(_judging) = self.lock("temp") else { return Vec::new() };
        let mut found = Vec::new();
        // Listed again, because only now no folder is in the making.
        for name in file::list(&tmp).unwrap_or_default() {
            let path = tmp.join(&name);
            let lock_path = path.join("lock");
            if !lock_path.exists() {
                found.push((path, None));
            } else if let Ok(Some(lock)) = open_lock_file(&lock_path).and_then(|f| try_exclusive(f, &lock_path)) {
                found.push((path, Some(lock)));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::scratch;
    use super::*;

    #[test]
    fn temp_folders_go_with_their_owner() {
        let (dir, store) = scratch();
        let root = dir.path().join("store");
        let temp = store.temp_dir("work").unwrap();
        fs::create_dir_all(temp.path().join("a/b")).unwrap();
        let path = temp.path().to_owned();
        let other = Store::open(&root).unwrap();
        assert!(path.exists(), "another handle must not remove what is in use");
        drop(temp);
        assert!(!path.exists());
        let kept = other.temp_dir("work").unwrap().keep();
        assert!(kept.exists());
        drop((store, other));
        assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn folders_for_many_files_stay_together_far_from_those_of_other_processes() {
        use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

        let (dir, store) = scratch();
        let flags = |path: &Path| ioctl_getflags(fs::File::open(path).unwrap()).unwrap_or(IFlags::empty());
        let [one, other] = [(); 2].map(|()| store.temp_dir_for_many("work").unwrap());
        let together = one.path().parent().unwrap();
        assert_eq!(other.path().parent(), Some(together));
        assert!(!flags(together).contains(IFlags::TOPDIR));
        let probe = fs::File::open(dir.path()).unwrap();
        let can = ioctl_setflags(&probe, flags(dir.path()) | IFlags::TOPDIR).is_ok();
        assert_eq!(flags(together.parent().unwrap()).contains(IFlags::TOPDIR), can);
        drop((one, other, store));
        assert_eq!(fs::read_dir(dir.path().join("store/tmp")).unwrap().count(), 0);
    }

    #[test]
    fn removes_what_killed_processes_left() {
        let (dir, store) = scratch();
        let root = dir.path().join("store");
        let tmp = root.join("tmp");
        for name in ["1-locked", "2-half-removed"] {
            fs::create_dir_all(tmp.join(name).join("x/y")).unwrap();
        }
        fs::write(tmp.join("1-locked/lock"), "").unwrap();
        fs::write(tmp.join("stray"), "").unwrap();
        let alive = store.temp_dir("work").unwrap();
        Store::open(&root).unwrap();
        let left: Vec<_> = fs::read_dir(&tmp).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(left, [alive.path().parent().unwrap().to_owned()]);
    }
}
