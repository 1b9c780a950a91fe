//! Seals: how damage is noticed without reading everything again.
//!
//! The mark `unpacked` of a layer is a record that says what the status of its files adds up to, which any write to
//! one of them changes:
//!
//! ```text
//! "over " <diff ID> "\n"                 only where the folder goes over the one of that layer
//! "boot " <boot id> or "settled" "\n"     which boot of the machine unpacked it, or that it is on disk for good
//! "place " <inode of the folder> "\n"       a copy of the store has other ones: what it says does not hold there
//! "bytes " <disk space> "\n"
//! "stamp " <64 hex digits> "\n"           BLAKE3 of path, inode, mode, size, mtime and ctime of every entry
//! "without ids\n"                        only where an ordinary user unpacked it, who can't give files other owners
//! ```
//!
//! A blob has no mark: its modification time is set to a constant when it is put into the store, so that one that was
//! written to since stands out.
//!
//! Bits that rot on the disk change no status. They are found where the bytes are read and checked, which is always so
//! for blobs, and for unpacked files when the whole store is checked.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, StatxFlags};

use super::record::read_record;
use crate::oci::DiffId;

/// The modification time of blobs: seconds since 1970.
const BLOB_TIME: i64 = 1;

/// What the mark of an unpacked layer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seal {
    /// The layer over whose folder this one goes. The line comes first: a version of rbuild that does not know it must
    /// take the mark for a damaged one.
    pub(super) over: Option<DiffId>,
    /// Whether it is on disk for good, or the boot that unpacked it.
    pub(super) boot: Option<String>,
    /// The inode of the folder.
    pub(super) place: u64,
    pub(super) bytes: u64,
    /// None where the tree is too deep to be looked at by path.
    pub(super) stamp: Option<blake3::Hash>,
    /// Whether owners and modes are not all those of the layer.
    pub(super) without_ids: bool,
}

impl Seal {
    /// Looks at a folder that is complete.
    pub(super) fn of(folder: &Path, boot: String) -> io::Result<Self> {
        let (stamp, bytes) = match look(folder) {
            Ok((stamp, bytes)) => (Some(stamp), bytes),
            Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => {
                (None, super::usage::disk_usage(folder, &mut BTreeSet::new()))
            }
            Err(error) => return Err(error),
        };
        let place = fs::symlink_metadata(folder)?.ino();
        Ok(Self {
            over: None,
            boot: Some(boot),
            place,
            bytes,
            stamp,
            without_ids: !rustix::process::geteuid().is_root(),
        })
    }

    pub(super) fn to_text(&self) -> String {
        let boot = self.boot.as_ref().map_or_else(|| "settled".to_owned(), |boot| format!("boot {}", boot.trim()));
        let stamp = self.stamp.map_or_else(String::new, |stamp| stamp.to_hex().to_string());
        let over = self.over.map_or_else(String::new, |base| format!("over {base}\n"));
        let without_ids = if self.without_ids { "without ids\n" } else { "" };
        format!("{over}{boot}\nplace {}\nbytes {}\nstamp {stamp}\n{without_ids}", self.place, self.bytes)
    }

    /// Reads a mark; `None` where there is none or only a damaged one.
    pub(super) fn read(mark: &Path) -> Option<Self> {
        Self::parse(read_record(mark).ok()??)
    }

    /// Understands a mark's text.
    pub(super) fn parse(text: Vec<u8>) -> Option<Self> {
        let text = String::from_utf8(text).ok()?;
        let mut lines = text.lines().peekable();
        let over = lines.next_if(|line| line.starts_with("over ")).map(|line| line["over ".len()..].parse());
        let over = over.transpose().ok()?.map(DiffId);
        let boot = match lines.next()? {
            "settled" => None,
            line => Some(line.strip_prefix("boot ")?.to_owned()),
        };
        let place = lines.next()?.strip_prefix("place ")?.parse().ok()?;
        let bytes = lines.next()?.strip_prefix("bytes ")?.parse().ok()?;
        let stamp = match lines.next()?.strip_prefix("stamp ")? {
            "" => None,
            hex => Some(blake3::Hash::from_hex(hex).ok()?),
        };
        Some(Self { over, boot, place, bytes, stamp, without_ids: lines.next() == Some("without ids") })
    }
}

/// Whether nobody wrote to a blob since it was put into the store.
pub(super) fn is_sealed_blob(metadata: &fs::Metadata) -> bool {
    metadata.mtime() == BLOB_TIME && metadata.mtime_nsec() == 0
}

/// Marks a blob as it is as the right one.
pub(super) fn seal_blob(file: impl AsFd) {
    let omit = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let time = rustix::fs::Timespec { tv_sec: BLOB_TIME, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: omit, last_modification: time };
    // A blob without a seal is only read once more than needed.
    let _ = rustix::fs::futimens(file, &times);
}

/// What a look at a folder's entries gave.
struct Looked {
    hash: blake3::Hash,
    bytes: u64,
    folders: Vec<PathBuf>,
    /// Inodes with several names, counted in `bytes` only by who puts the parts together.
    shared: Vec<(u64, u64)>,
}

/// Looks at every entry of a tree; gives the digest of all, and the disk space that they take.
pub(super) fn look(folder: &Path) -> io::Result<(blake3::Hash, u64)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(folder, flags, Mode::empty())?;
    let mut bytes = rustix::fs::fstat(&root).map(|status| u64::try_from(status.st_blocks).unwrap_or(0) * 512)?;
    let mut all = blake3::Hasher::new();
    let mut shared = BTreeSet::new();
    let mut level = vec![PathBuf::from(".")];
    while !level.is_empty() {
        let looked = level.par_iter().map(|path| look_into(&root, path)).collect::<io::Result<Vec<Looked>>>()?;
        level.clear();
        for part in looked {
            all.update(part.hash.as_bytes());
            bytes += part.bytes;
            bytes += part.shared.iter().filter(|inode| shared.insert(inode.0)).map(|inode| inode.1).sum::<u64>();
            level.extend(part.folders);
        }
    }
    Ok((all.finalize(), bytes))
}

fn look_into(root: &OwnedFd, path: &Path) -> io::Result<Looked> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(root, path, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    let mut hasher = blake3::Hasher::new();
    hasher.update(path.as_os_str().as_bytes());
    let (mut bytes, mut folders, mut shared) = (0, Vec::new(), Vec::new());
    for name in names {
        let status = rustix::fs::statx(&folder, &name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
        hasher.update(&[0]);
        hasher.update(name.to_bytes());
        hasher.update(&[0]);
        for time in [status.stx_mtime, status.stx_ctime] {
            hasher.update(&time.tv_sec.to_le_bytes());
            hasher.update(&time.tv_nsec.to_le_bytes());
        }
        for number in [status.stx_ino, status.stx_size, u64::from(status.stx_mode)] {
            hasher.update(&number.to_le_bytes());
        }
        let is_folder = u32::from(status.stx_mode) & libc::S_IFMT == libc::S_IFDIR;
        match status.stx_nlink {
            _ if is_folder => bytes += status.stx_blocks * 512,
            0 | 1 => bytes += status.stx_blocks * 512,
            _ => shared.push((status.stx_ino, status.stx_blocks * 512)),
        }
        if is_folder {
            folders.push(path.join(OsStr::from_bytes(name.to_bytes())));
        }
    }
    Ok(Looked { hash: hasher.finalize(), bytes, folders, shared })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::Store;
    use super::super::tests::scratch;
    use super::*;
    use crate::oci::Digest;

    #[test]
    fn marks_are_read_as_written() {
        let (_dir, store) = scratch();
        for seal in [
            Seal { over: None, boot: None, place: 3, bytes: 7, stamp: Some(blake3::hash(b"x")), without_ids: false },
            Seal { over: None, boot: Some("abc".to_owned()), place: 4, bytes: 0, stamp: None, without_ids: true },
            Seal {
                over: Some(DiffId(Digest::of(b"a"))),
                boot: None,
                place: 5,
                bytes: 1,
                stamp: None,
                without_ids: false,
            },
        ] {
            store.write_record(&store.path("mark"), seal.to_text().as_bytes()).unwrap();
            assert_eq!(Seal::read(&store.path("mark")), Some(seal));
        }
        fs::write(store.path("mark"), "settled\n").unwrap();
        assert_eq!(Seal::read(&store.path("mark")), None);
    }

    /// What is done to a layer's folder.
    type Change = fn(&Path);

    #[test]
    fn every_change_of_an_unpacked_layer_is_noticed() {
        let changes: [(&str, Change); 6] = [
            ("content", |at| fs::write(at.join("a/file"), "tWo").unwrap()),
            ("mode", |at| fs::set_permissions(at.join("a"), fs::Permissions::from_mode(0o700)).unwrap()),
            ("removed", |at| fs::remove_file(at.join("link")).unwrap()),
            ("added", |at| fs::write(at.join("new"), "").unwrap()),
            ("renamed", |at| fs::rename(at.join("a/file"), at.join("a/other")).unwrap()),
            ("link", |at| {
                fs::remove_file(at.join("link")).unwrap();
                symlink("b", at.join("link")).unwrap();
            }),
        ];
        for (name, change) in changes {
            let (_dir, store) = scratch();
            let id = DiffId(Digest::of(b"layer"));
            let make = |store: &Store| {
                let dir = store.unpack_dir().unwrap();
                fs::create_dir(dir.path().join("a")).unwrap();
                fs::write(dir.path().join("a/file"), "two").unwrap();
                symlink("a", dir.path().join("link")).unwrap();
                store.adopt_unpacked(id, &dir.keep()).unwrap()
            };
            let path = make(&store);
            let other = Store::open(store.root()).unwrap();
            assert_eq!(other.sound_layer(id).unwrap().map(|found| found.folder).as_ref(), Some(&path));
            change(&path);
            let other = Store::open(store.root()).unwrap();
            assert_eq!(other.sound_layer(id).unwrap(), None, "{name}");
            let told = other.take_damage();
            assert_eq!(told, [format!("files of the unpacked layer {id} were changed or are gone")], "{name}");
            make(&other);
            assert_eq!(fs::read_to_string(path.join("a/file")).unwrap(), "two", "{name}");
            let other = Store::open(store.root()).unwrap();
            assert!(other.sound_layer(id).unwrap().is_some(), "{name}");
        }
    }

    #[test]
    fn layers_of_a_copied_store_do_not_count() {
        let (_dir, store) = scratch();
        let id = DiffId(Digest::of(b"layer"));
        let dir = store.unpack_dir().unwrap();
        fs::write(dir.path().join("file"), "two").unwrap();
        let path = store.adopt_unpacked(id, &dir.keep()).unwrap();
        let copy = path.with_file_name("copy");
        fs::create_dir(&copy).unwrap();
        fs::copy(path.join("file"), copy.join("file")).unwrap();
        fs::rename(&path, path.with_file_name("gone")).unwrap();
        fs::rename(&copy, &path).unwrap();
        let other = Store::open(store.root()).unwrap();
        assert_eq!(other.sound_layer(id).unwrap(), None);
        assert_eq!(other.take_damage(), Vec::<String>::new());
    }

    #[test]
    fn a_blob_that_was_written_to_is_looked_at() {
        let (_dir, store) = scratch();
        let blob = store.put_blob(b"0123456789", "x/y").unwrap();
        let has = || {
            let other = Store::open(store.root()).unwrap();
            (other.has_blob(&blob.digest, blob.size), other.take_damage().len())
        };
        assert_eq!(has(), (true, 0));
        fs::write(store.blob_path(&blob.digest), b"0123456789").unwrap();
        assert_eq!(has(), (true, 0));
        assert!(is_sealed_blob(&fs::metadata(store.blob_path(&blob.digest)).unwrap()));
        fs::write(store.blob_path(&blob.digest), b"0123456780").unwrap();
        assert_eq!(has(), (false, 1));
        assert!(!store.blob_path(&blob.digest).exists());
    }
}
