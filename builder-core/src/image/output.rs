//! Files that a build leaves for its user: complete, or not there at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::ImageError;

/// A file being written. Only [`Self::finish`] makes it appear under its name; dropped, it leaves nothing.
///
/// A pipe, a device or a terminal as the target is written directly, since there is nothing to replace.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    target: PathBuf,
    temp: Option<tempfile::TempPath>,
}

impl OutputFile {
    /// Starts the file; folders above it are made. The file gets the mode that a new file gets.
    ///
    /// # Errors
    /// When the target is a folder, or nothing can be made beside it.
    pub fn create(target: &Path) -> Result<Self, ImageError> {
        let metadata = fs::metadata(target);
        if metadata.as_ref().is_ok_and(fs::Metadata::is_dir) {
            let source = io::Error::from(io::ErrorKind::IsADirectory);
            return Err(ImageError::Io { action: "write", path: target.to_owned(), source });
        }
        if metadata.as_ref().is_ok_and(|m| !m.is_file()) {
            let file = OpenOptions::new().write(true).open(target).map_err(ImageError::io("open", target))?;
            return Ok(Self { file, target: target.to_owned(), temp: None });
        }
        // The file that a link points to is replaced, not the link.
        let target = if metadata.is_ok() { fs::canonicalize(target) } else { Ok(target.to_owned()) }
            .map_err(ImageError::io("find", target))?;
        let folder = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(folder).map_err(ImageError::io("make the folder", folder))?;
        let new = |path: &Path| OpenOptions::new().read(true).write(true).create_new(true).open(path);
        let named = tempfile::Builder::new().prefix(".rbuild-").suffix(".part").make_in(folder, new);
        let (file, temp) = named.map_err(ImageError::io("make a file in", folder))?.into_parts();
        Ok(Self { file, target, temp: Some(temp) })
    }

    /// Puts the file in place, over one of the same name.
    ///
    /// # Errors
    /// When it can't be renamed.
    pub fn finish(self) -> Result<(), ImageError> {
        let Some(temp) = self.temp else { return Ok(()) };
        temp.persist(&self.target).map_err(|error| ImageError::io("put in place", &self.target)(error.error))
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn appears_only_when_finished() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("sub/out.tar");
        let mut file = OutputFile::create(&target).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(names(&dir.path().join("sub")), Vec::<String>::new());
        let mut file = OutputFile::create(&target).unwrap();
        file.write_all(b"whole").unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"whole");
        assert_eq!(names(&dir.path().join("sub")), ["out.tar"]);
    }

    #[test]
    fn writes_through_links_and_into_devices() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("real"), "old").unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        let mut file = OutputFile::create(&dir.path().join("link")).unwrap();
        file.write_all(b"new").unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read(dir.path().join("real")).unwrap(), b"new");
        let mut file = OutputFile::create(Path::new("/dev/null")).unwrap();
        file.write_all(b"gone").unwrap();
        file.finish().unwrap();
        assert!(OutputFile::create(dir.path()).is_err());
    }
}
