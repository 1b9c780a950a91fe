//! Records of builds: one folder each.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;

use super::record::read_record;
use super::{Store, StoreError, delete, file};

/// The file of a build's folder that says what the build came to.
const RECORD: &str = "record";

impl Store {
    /// The names of all builds on record, sorted as texts.
    ///
    /// # Errors
    /// When the folder of builds can't be read.
    pub fn builds(&self) -> Result<Vec<String>, StoreError> {
        file::list(&self.path("builds"))
    }

    /// Makes the folder of a new build, `PREFIX-NUMBER` with the first number from `first` on that no build has; gives
    /// its name.
    ///
    /// # Errors
    /// When `prefix` can't be part of a file name, or the folder can't be made.
    pub fn create_build(&self, prefix: &str, first: u64) -> Result<String, StoreError> {
        for number in first.. {
            let id = format!("{prefix}-{number}");
            let path = self.path("builds").join(file::name("build", &id)?);
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(id),
                // Another process was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(StoreError::io("make the folder", &path)(error)),
            }
        }
        unreachable!("no store holds so many builds")
    }

    /// Writes the record of a build, at once.
    ///
    /// # Errors
    /// When there is no such build, or the record can't be written.
    pub fn write_build(&self, id: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.write_record(&self.path("builds").join(file::name("build", id)?).join(RECORD), bytes)
    }

    /// Reads the record of a build; `None` when there is none, or a damaged one.
    ///
    /// # Errors
    /// When `id` can't be a file name, or the file can't be read.
    pub fn read_build(&self, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        read_record(&self.path("builds").join(file::name("build", id)?).join(RECORD))
    }

    /// Removes a build's folder; does nothing where there is none.
    ///
    /// # Errors
    /// When `id` can't be a file name, or the folder can't be removed.
    pub fn remove_build(&self, id: &str) -> Result<(), StoreError> {
        let path = self.path("builds").join(file::name("build", id)?);
        match delete::remove_path(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", &path)(error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::scratch;

    #[test]
    fn builds_are_numbered_and_kept_apart() {
        let (_dir, store) = scratch();
        assert_eq!(store.builds().unwrap(), Vec::<String>::new());
        assert_eq!(store.create_build("ab", 1).unwrap(), "ab-1");
        assert_eq!(store.create_build("ab", 1).unwrap(), "ab-2");
        assert_eq!(store.create_build("cd", 7).unwrap(), "cd-7");
        assert_eq!(store.read_build("ab-1").unwrap(), None);
        store.write_build("ab-1", b"one").unwrap();
        assert_eq!(store.read_build("ab-1").unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(store.builds().unwrap(), ["ab-1", "ab-2", "cd-7"]);
        store.remove_build("ab-1").unwrap();
        store.remove_build("ab-1").unwrap();
        assert_eq!(store.builds().unwrap(), ["ab-2", "cd-7"]);
        assert!(store.create_build("../x", 1).is_err() && store.read_build("..").is_err());
    }
}
