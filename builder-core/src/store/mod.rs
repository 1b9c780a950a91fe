//! The content-addressed store: an OCI layout with unpacked layers, records and locks beside it.
//!
//! ```text
//! oci-layout index.json blobs/sha256/<hex>   an OCI image layout; other tools read it in place
//! version                                    format version, then one feature flag a line; a checksum
//! limit                                      the most bytes that the store may hold, where one was set
//! names                                      the index as rbuild wrote it last, to mend it from
//! layers/<diff-id-hex>/tree                  the layer's entries, as a checksummed record
//! layers/<diff-id-hex>/fs/                   the layer unpacked, ready to be an overlay lower directory: all files, or
//!                                            those that another layer has not, over whose folder this one goes
//! layers/<diff-id-hex>/unpacked              its seal: over which layer it goes if it does, which boot of the machine
//!                                            unpacked it, and what its files' status is
//! layers/<diff-id-hex>/blobs.json            the layer's known compressed forms, also those that are only in a registry
//! layers/<diff-id-hex>/chunks-<compression>  which chunks one of them consists of
//! steps/<key>                                step records
//! notes/<kind>/<hash of name>                small records by name, such as look-ups of tags
//! contexts/<id>                              stat caches of build contexts
//! mounts/<id>/<n>/                           folders of `RUN --mount=type=cache`; `about` beside them names the cache
//! builds/<id>/                               records of builds
//! tmp/<pid>-<random>/                        what a running process works on; its `lock` is held while it lives
//! locks/                                     advisory locks
//! ```
//!
//! Any number of processes share a store without a daemon. Every object is written under `tmp/` and renamed into
//! place, so that a reader sees all of it or nothing; only the index, a layer's list of blobs, moving a layer into place,
//! cache mounts and pruning need locks, and a killed process leaves none behind. Objects in use are claimed, so that
//! pruning leaves them alone while builds go on.
//!
//! # What survives a power failure
//!
//! Blobs are checked against their digest and records against their checksum whenever they are read, and a bad one
//! counts as absent. So none of them is flushed to disk: a torn object costs doing its step again. An unpacked layer
//! is checked by the status of its files only; it counts only within the boot of the machine that wrote it, or after
//! [`Store::settle`] flushed the file system, which long builds let happen for layers of earlier ones. The index alone is flushed at every change, because nothing could
//! make it again: after a power failure it is the old or the new one.
//!
//! There is no database, no reference count and no list of objects: what exists is what the folders hold.

mod blob;
mod builds;
mod check;
mod claim;
mod delete;
mod entries;
mod error;
mod file;
mod layer;
mod limit;
mod lock;
mod mounts;
#[cfg(test)]
mod process_tests;
mod prune;
mod record;
mod references;
mod seal;
mod sweep;
mod tags;
mod temp;
mod unpacked;
mod usage;
mod verify;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use self::record::{Looked, look_at_record};
use crate::oci::{DiffId, Digest};
use crate::sys::bulk::Pace;

pub use blob::{BlobWriter, HashedBlobWriter};
pub use check::{CheckReport, Problem};
pub use claim::Lease;
pub use delete::remove_tree;
pub use entries::{EntryKind, StoreEntry};
pub use error::StoreError;
pub use layer::{Layer, LayerBlob};
pub use limit::Overfull;
pub use lock::Lock;
pub use mounts::{CacheMount, CacheSharing, MountAbout, StoredMount};
pub use prune::{PruneOptions, Pruned};
pub use tags::StoredImage;
pub(crate) use tags::{IMAGE_NAME, REF_NAME};
pub use temp::TempDir;
pub use unpacked::{Unpacked, UnpackedLayer};
pub use usage::Usage;
pub use verify::{VerifiedReader, VerifyError};

/// The format that this version of rbuild writes, and the newest that it reads.
const FORMAT_VERSION: u32 = 1;

/// The folders of a store.
const FOLDERS: [&str; 9] = ["blobs/sha256", "layers", "steps", "notes", "contexts", "mounts", "builds", "tmp", "locks"];

/// The file that marks an OCI layout (OCI image spec, "oci-layout file").
pub(crate) const LAYOUT_FILE: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// A handle to a store on disk. Clones share one temp folder, which goes with the last of them.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    temp: Mutex<Option<temp::ProcessTemp>>,
    counter: AtomicU64,
    known_good: Mutex<BTreeSet<Digest>>,
    claims: claim::Claims,
    /// Unpacked layers that this process unpacked or looked at.
    known_sound: Mutex<BTreeSet<DiffId>>,
    room: limit::Room,
    pace: Pace,
    /// What was found damaged, in words.
    damage: Mutex<Vec<String>>,
}

impl Store {
    /// Opens the store at `root`, makes it where there is none, and removes what killed processes left in it.
    ///
    /// The folder is made with mode 0700, whatever the umask. A store on a read-only file system opens too.
    ///
    /// # Errors
    /// When the folder belongs to someone else, can be written by others, is neither empty nor a store, or is of a
    /// newer format; and when it can't be made.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let root = file::prepare_root(root)?;
        let inner = Inner {
            root,
            temp: Mutex::new(None),
            counter: AtomicU64::new(0),
            known_good: Mutex::new(BTreeSet::new()),
            claims: claim::Claims::default(),
            known_sound: Mutex::default(),
            room: limit::Room::default(),
            pace: Pace::default(),
            damage: Mutex::default(),
        };
        let store = Self { inner: Arc::new(inner) };
        store.initialise()?;
        store.remove_leftovers();
        Ok(store)
    }

    /// The store's folder, absolute.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// The file that caches what is known of a build context. `id` is the caller's hash of what the context is.
    ///
    /// # Errors
    /// When `id` can't be a file name.
    pub fn context_path(&self, id: &str) -> Result<PathBuf, StoreError> {
        Ok(self.path("contexts").join(file::name("context", id)?))
    }

    /// The folder of a build's record, made where it is missing.
    ///
    /// # Errors
    /// When `id` can't be a file name, or the folder can't be made.
    pub fn build_dir(&self, id: &str) -> Result<PathBuf, StoreError> {
        let path = self.path("builds").join(file::name("build", id)?);
        self.claim(claim::Claimed::named("build", id));
        file::create_dir(&path)?;
        Ok(path)
    }

    /// How fast this process has written to the store.
    pub(crate) fn pace(&self) -> &Pace {
        &self.inner.pace
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.inner.root.join(relative)
    }

    fn initialise(&self) -> Result<(), StoreError> {
        let version = self.path("version");
        match read_version(&version)? {
            Looked::Good(text) => {
                check_version(&version, &text)?;
                return self.mend_names();
            }
            Looked::Damaged => self.note_damage("the record `version` was damaged".to_owned()),
            Looked::Missing => {}
        }
        for folder in FOLDERS {
            file::create_dirs(&self.path(folder))?;
        }
        let index = serde_json::to_vec(&tags::empty_index()).expect("a JSON value can always be written");
        for (name, bytes) in [("oci-layout", LAYOUT_FILE.as_bytes()), ("index.json", &index)] {
            if file::read(&self.path(name), u64::MAX)?.is_none_or(|old| old.is_empty()) {
                self.write_file(&self.path(name), &[bytes], file::Durability::Checked)?;
            }
        }
        for name in ["index", "lease", "claims", "temp", "layer-blobs"] {
            lock::open_lock_file(&self.path("locks").join(name))?;
        }
        // Written last: a store without it is made again from the start, which is harmless.
        let text = format!("{FORMAT_VERSION}\n");
        self.write_record(&version, text.as_bytes())?;
        self.mend_names()
    }

    /// Remembers that this process wrote or checked a blob, so that it need not be read only to check it.
    fn remember_good(&self, digest: Digest) {
        self.inner.known_good.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
    }

    fn is_known_good(&self, digest: &Digest) -> bool {
        self.inner.known_good.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    fn remember_sound(&self, diff_id: DiffId) {
        self.inner.known_sound.lock().unwrap_or_else(PoisonError::into_inner).insert(diff_id);
    }

    fn is_known_sound(&self, diff_id: DiffId) -> bool {
        self.inner.known_sound.lock().unwrap_or_else(PoisonError::into_inner).contains(&diff_id)
    }

    /// Tells of damage that was found and is mended by making the thing anew.
    fn note_damage(&self, text: String) {
        tracing::warn!(damage = text, "the store was damaged");
        let mut damage = self.inner.damage.lock().unwrap_or_else(PoisonError::into_inner);
        if !damage.contains(&text) {
            damage.push(text);
        }
    }

    /// What was found damaged in the store through this handle since it was last asked, in words.
    #[must_use]
    pub fn take_damage(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.damage.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn forget_good(&self, digest: &Digest) {
        self.inner.known_good.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }
}

/// Reads the text of the `version` file.
///
/// It is a record; one without any trace of a checksum was written without one.
fn read_version(path: &Path) -> Result<Looked<Vec<u8>>, StoreError> {
    let looked = look_at_record(path)?;
    if looked != Looked::Damaged {
        return Ok(looked);
    }
    let text = file::read(path, 4096)?.unwrap_or_default();
    let is_plain = text.len() < 64 && text.is_ascii() && !text.is_empty() && !text.contains(&b'#');
    Ok(if is_plain { Looked::Good(text) } else { Looked::Damaged })
}

/// Reads the `version` file: a number, then one feature a line that a reader must know.
fn check_version(path: &Path, text: &[u8]) -> Result<(), StoreError> {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let found = lines.next().unwrap_or_default().to_owned();
    let features: Vec<String> = lines.map(str::to_owned).collect();
    if found == FORMAT_VERSION.to_string() && features.is_empty() {
        return Ok(());
    }
    Err(StoreError::NewerFormat { path: path.to_owned(), found, features, known: FORMAT_VERSION })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    pub(super) fn scratch() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        (dir, store)
    }

    #[test]
    fn opens_twice_and_keeps_others_out() {
        let (dir, store) = scratch();
        let again = Store::open(&dir.path().join("store")).unwrap();
        assert_eq!(again.root(), store.root());
        assert_eq!(std::fs::metadata(store.root()).unwrap().permissions().mode() & 0o7777, 0o700);
        assert!(store.path("blobs/sha256").is_dir());
    }

    #[test]
    fn one_that_several_make_at_the_same_time_is_not_damaged() {
        for _ in 0..400 {
            let dir = tempfile::tempdir().unwrap();
            let (root, barrier) = (dir.path().join("store"), std::sync::Barrier::new(8));
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        barrier.wait();
                        assert_eq!(Store::open(&root).unwrap().take_damage(), [""; 0]);
                    });
                }
            });
        }
    }

    #[test]
    fn refuses_a_newer_format_and_strange_folders() {
        let (dir, store) = scratch();
        let root = store.root().to_owned();
        for text in ["2\n", "1\nsomething-new\n"] {
            std::fs::write(root.join("version"), text).unwrap();
            let error = Store::open(&root).unwrap_err();
            assert!(matches!(error, StoreError::NewerFormat { .. }), "{error}");
        }
        let strange = dir.path().join("home");
        std::fs::create_dir(&strange).unwrap();
        std::fs::write(strange.join("letter"), "dear").unwrap();
        assert!(matches!(Store::open(&strange).unwrap_err(), StoreError::NotAStore { .. }));
        std::fs::write(root.join("version"), "1\n").unwrap();
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Store::open(&root).unwrap_err(), StoreError::Unsafe { .. }));
    }

    #[test]
    fn follows_a_link_of_the_same_user_to_its_store() {
        let (dir, store) = scratch();
        symlink(store.root(), dir.path().join("link")).unwrap();
        assert_eq!(Store::open(&dir.path().join("link")).unwrap().root(), store.root());
    }

    #[test]
    fn finishes_a_store_that_was_only_half_made() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        std::fs::create_dir_all(root.join("blobs/sha256")).unwrap();
        std::fs::write(root.join("oci-layout"), LAYOUT_FILE).unwrap();
        std::fs::write(root.join("version"), "").unwrap();
        Store::open(&root).unwrap();
        assert_eq!(read_version(&root.join("version")).unwrap(), Looked::Good(b"1\n".to_vec()));
        assert!(root.join("version").is_file() && root.join("index.json").is_file());
    }
}
