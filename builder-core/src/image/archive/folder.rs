//! An image as a layout in a folder: `type=oci,tar=false`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use serde_json::Value;

use crate::oci::Descriptor;
use crate::store::{IMAGE_NAME, LAYOUT_FILE, Store};

use super::super::ImageError;
use super::{ArchiveOptions, collect, index_of};

/// Puts an image, or the images of an index, into a layout in a folder, which is made where it is missing.
///
/// Blobs that are there stay. A new one shares its disk space with the store where the file system can do that (as a
/// clone, or as a further name of the same file), and is copied elsewhere. Other images of the layout stay, unless
/// they have one of the names. The index is written last and at once.
///
/// # Errors
/// When the image is incomplete or damaged, or the folder can't be written.
pub fn export_folder(
    store: &Store,
    image: &Descriptor,
    options: &ArchiveOptions,
    target: &Path,
) -> Result<(), ImageError> {
    let contents = collect(store, image, options)?;
    fs::create_dir_all(target).map_err(ImageError::io("make the folder", target))?;
    let error = |action, name: &str| ImageError::io(action, &target.join(name));
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open(target, flags, Mode::empty()).map_err(|e| error("open", "")(e.into()))?;
    let blobs = open_folder(&top, "blobs").map_err(error("make the folder", "blobs"))?;
    let blobs = open_folder(&blobs, "sha256").map_err(error("make the folder", "blobs/sha256"))?;
    for (hex, blob) in &contents.blobs {
        let there = rustix::fs::statat(&blobs, hex, AtFlags::SYMLINK_NOFOLLOW);
        let regular = |mode| rustix::fs::FileType::from_raw_mode(mode).is_file();
        if there.is_ok_and(|stat| regular(stat.st_mode) && u64::try_from(stat.st_size) == Ok(blob.size)) {
            continue;
        }
        put_blob(store, blob, &blobs, hex, target)?;
    }
    if let Some(docker) = &contents.docker {
        replace(&top, "manifest.json", docker).map_err(error("write", "manifest.json"))?;
    }
    replace(&top, "oci-layout", LAYOUT_FILE.as_bytes()).map_err(error("write", "oci-layout"))?;
    let index = merge(read_index(&top).map_err(error("read", "index.json"))?, contents.entries);
    let bytes = serde_json::to_vec(&index).expect("a JSON value can always be written");
    replace(&top, "index.json", &bytes).map_err(error("write", "index.json"))
}

/// Opens a folder, made where it is missing; a link in its place is refused.
fn open_folder(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

fn put_blob(store: &Store, blob: &Descriptor, folder: &OwnedFd, hex: &str, target: &Path) -> Result<(), ImageError> {
    let path = target.join("blobs/sha256").join(hex);
    let temp = temp_name(hex);
    let clone_or_link = || -> io::Result<bool> {
        let source = File::open(store.blob_path(&blob.digest))?;
        let file = create(folder, &temp)?;
        if rustix::fs::ioctl_ficlone(&file, &source).is_ok() {
            return Ok(true);
        }
        rustix::fs::unlinkat(folder, &temp, AtFlags::empty())?;
        Ok(rustix::fs::linkat(CWD, store.blob_path(&blob.digest), folder, &temp, AtFlags::empty()).is_ok())
    };
    // Shared bytes are not read by us, so they are checked apart, unless this process made them just now.
    store.verify_blob(blob).map_err(ImageError::store("check a blob"))?;
    if !clone_or_link().map_err(ImageError::io("write", &path))? {
        let mut reader = store.open_blob(blob).map_err(ImageError::store("open a blob"))?;
        let copied = create(folder, &temp).and_then(|mut file| io::copy(&mut reader, &mut file));
        if let Err(error) = copied {
            let _ = rustix::fs::unlinkat(folder, &temp, AtFlags::empty());
            return Err(ImageError::io("write", &path)(error));
        }
    }
    rename(folder, &temp, hex).map_err(ImageError::io("put in place", &path))
}

fn replace(folder: &OwnedFd, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temp = temp_name(name);
    let written = create(folder, &temp).and_then(|mut file| file.write_all(bytes));
    if let Err(error) = written {
        let _ = rustix::fs::unlinkat(folder, &temp, AtFlags::empty());
        return Err(error);
    }
    rename(folder, &temp, name)
}

fn temp_name(name: &str) -> String {
    format!(".rbuild-{}-{name}.part", std::process::id())
}

fn create(folder: &OwnedFd, name: &str) -> io::Result<File> {
    // What a killed process of the same number left is in the way.
    let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o644))?.into())
}

fn rename(folder: &OwnedFd, from: &str, to: &str) -> io::Result<()> {
    rustix::fs::renameat(folder, from, folder, to)?;
    // Renaming one name of a file to another name of the same file does nothing.
    match rustix::fs::unlinkat(folder, from, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn read_index(top: &OwnedFd) -> io::Result<Option<Value>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(top.as_fd(), "index.json", flags, Mode::empty()) {
        Ok(fd) => Ok(serde_json::from_reader(io::BufReader::new(File::from(fd))).ok()),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Adds entries to an index in place of those with the same full reference, or the same digest where they have none.
fn merge(old: Option<Value>, entries: Vec<Value>) -> Value {
    let Some(mut index) = old.filter(|index| index["manifests"].is_array()) else { return index_of(&entries) };
    let key = |entry: &Value| {
        let name = entry["annotations"][IMAGE_NAME].as_str();
        (name.map(str::to_owned), name.is_none().then(|| entry["digest"].clone()))
    };
    let keys: Vec<_> = entries.iter().map(key).collect();
    let list = index["manifests"].as_array_mut().expect("it was looked at just now");
    list.retain(|entry| !keys.contains(&key(entry)));
    list.extend(entries);
    index
}
