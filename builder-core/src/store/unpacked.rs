//! The unpacked form of layers: folders of files, ready to be overlay lower directories.
//!
//! A layer's folder `fs` holds all of its files, or only what differs from another layer that is unpacked whole: then its
//! mark names that layer, both folders are stacked, and it counts as unpacked only while the other one does.
//!
//! ```text
//! layers/<diff-id-hex>/fs/          whole: all files              a/x  b/y  b/z
//! layers/<other-hex>/fs/            over the first: the rest      b/  b/y
//! layers/<other-hex>/unpacked       "over sha256:<diff-id-hex>", and the seal
//! ```
//!
//! Nothing is stacked higher: a folder that goes over another one never lies below a third.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rayon::prelude::*;

use super::layer::Layer;
use super::seal::{Seal, look};
use super::{Store, StoreError, TempDir, file};
use crate::oci::{DiffId, Digest};

/// The folders that a layer is unpacked in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// The layer's own folder.
    pub folder: PathBuf,
    /// Where the own folder does not hold all files: the layer over whose files it goes, and the folder of that one.
    pub over: Option<(DiffId, PathBuf)>,
}

impl Unpacked {
    /// The folders in the order in which they are stacked, lowest first.
    pub fn folders(&self) -> impl DoubleEndedIterator<Item = &Path> {
        self.over.iter().map(|(_, folder)| folder.as_path()).chain([self.folder.as_path()])
    }
}

/// An unpacked layer, as a look at the status of its files found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackedLayer {
    /// The layer.
    pub diff_id: DiffId,
    /// Where it is.
    pub unpacked: Unpacked,
    /// Whether nothing in its own folder was changed since it was unpacked, as far as the status of its files says.
    pub is_sealed: bool,
}

impl Layer {
    /// Where the layer is unpacked; `None` when it is not, when the store is a copy, when a restart of the machine makes
    /// it doubtful that all of it reached the disk, or when this process can give files owners, and who unpacked it could not. It stays as long as this handle. [`Store::sound_layer`] looks
    /// at its files.
    #[must_use]
    pub fn unpacked(&self) -> Option<Unpacked> {
        let (seal, folder) = self.own_folder()?;
        let Some(base) = seal.over else { return Some(Unpacked { folder, over: None }) };
        let (below, path) = self.store().layer(base)?.own_folder()?;
        below.over.is_none().then_some(Unpacked { folder, over: Some((base, path)) })
    }

    /// The layer's own folder and its seal, where it is the one that was sealed.
    fn own_folder(&self) -> Option<(Seal, PathBuf)> {
        let path = self.dir().join("fs");
        let seal = Seal::parse(self.store().read_noted(&mark_in(&self.dir())).ok()??)?;
        let in_place = fs::symlink_metadata(&path).is_ok_and(|status| status.is_dir() && status.ino() == seal.place);
        // Whoever can run commands must show them the right owners. Others only read the files.
        let has_owners = !seal.without_ids || !rustix::process::geteuid().is_root();
        (in_place && has_owners && seal.boot.as_ref().is_none_or(|boot| boot == boot_id().trim()))
            .then_some((seal, path))
    }
}

impl Store {
    /// A new folder on the store's file system, to unpack a layer into or to run a step in. It goes when it is dropped.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn unpack_dir(&self) -> Result<TempDir, StoreError> {
        self.make_room_when_due();
        self.temp_dir_for_many("unpack")
    }

    /// Makes a finished folder under `tmp/` the unpacked form of a layer, and gives where it is then.
    ///
    /// At once, and harmless to repeat: where the layer is unpacked already, `dir` is removed. A file system mounted
    /// with `dir` in it must be unmounted before.
    ///
    /// # Errors
    /// When the folder can't be moved.
    pub fn adopt_unpacked(&self, diff_id: DiffId, dir: &Path) -> Result<PathBuf, StoreError> {
        self.adopt(diff_id, dir, None)
    }

    /// As [`Self::adopt_unpacked`], for a folder that holds only what `base` has not, a layer that is unpacked whole.
    ///
    /// # Errors
    /// When the folder can't be moved.
    pub fn adopt_unpacked_over(&self, diff_id: DiffId, dir: &Path, base: DiffId) -> Result<PathBuf, StoreError> {
        self.adopt(diff_id, dir, Some(base))
    }

    fn adopt(&self, diff_id: DiffId, dir: &Path, over: Option<DiffId>) -> Result<PathBuf, StoreError> {
        let folder = self.layer_dir(diff_id)?;
        let target = folder.join("fs");
        let old = self.temp_dir("old")?;
        // What is there already may be damaged, and then it does not count.
        self.sound_layer(diff_id)?;
        let seal = Seal { over, ..Seal::of(dir, boot_id()).map_err(StoreError::io("look at", dir))? };
        let lock = self.lock("adopt")?;
        let adopted = self.layer(diff_id).and_then(|layer| layer.unpacked()).is_none();
        if adopted {
            // Left by an earlier boot, by a prune that was stopped, or by one that removed what it goes over; nobody
            // uses it, or it would count.
            match fs::rename(&target, old.path().join("fs")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("move away", &target)(error));
                }
                _ => {}
            }
            // The mark comes first: a folder never stands without knowing which boot wrote it.
            self.write_record(&mark_in(&folder), seal.to_text().as_bytes())?;
            fs::rename(dir, &target).map_err(StoreError::io("put in place", &target))?;
            self.remember_sound(diff_id);
            self.wrote(seal.bytes);
        }
        drop(lock);
        self.make_room_when_due();
        if !adopted {
            super::delete::remove_path(dir).map_err(StoreError::io("remove", dir))?;
        }
        Ok(target)
    }

    /// Where a layer is unpacked, as far as the status of its files says that nobody changed them since. Looks at
    /// every file, once for each handle. A damaged folder counts as not unpacked from now on.
    ///
    /// # Errors
    /// When the mark of a damaged one can't be removed.
    pub fn sound_layer(&self, diff_id: DiffId) -> Result<Option<Unpacked>, StoreError> {
        let Some(unpacked) = self.layer(diff_id).and_then(|layer| layer.unpacked()) else { return Ok(None) };
        let is_sound = self.is_sound_folder(diff_id, &unpacked.folder)?
            && match &unpacked.over {
                Some((base, folder)) => self.is_sound_folder(*base, folder)?,
                None => true,
            };
        Ok(is_sound.then_some(unpacked))
    }

    fn is_sound_folder(&self, diff_id: DiffId, folder: &Path) -> Result<bool, StoreError> {
        if self.is_known_sound(diff_id) {
            return Ok(true);
        }
        let mark = folder.with_file_name(MARK);
        let Some(seal) = Seal::read(&mark) else { return Ok(false) };
        if seal.stamp.is_none_or(|stamp| look(folder).is_ok_and(|(found, _)| found == stamp)) {
            self.remember_sound(diff_id);
            return Ok(true);
        }
        file::remove(&mark)?;
        self.note_damage(format!("files of the unpacked layer {diff_id} were changed or are gone"));
        Ok(false)
    }

    /// Makes a layer's own folder count as not unpacked, because its files are not what they should be.
    ///
    /// # Errors
    /// When its mark can't be removed.
    pub fn discard_unpacked(&self, diff_id: DiffId) -> Result<(), StoreError> {
        self.note_damage(format!("files of the unpacked layer {diff_id} were damaged"));
        file::remove(&mark_in(&self.layer_path(diff_id))).map(|_| ())
    }

    /// All unpacked layers. Changes nothing.
    ///
    /// # Errors
    /// When the layers can't be listed.
    pub fn unpacked_layers(&self) -> Result<Vec<UnpackedLayer>, StoreError> {
        let names = self.layer_names()?;
        let unpacked = names.par_iter().filter_map(|name| {
            let diff_id = DiffId(format!("sha256:{name}").parse().ok()?);
            let unpacked = self.layer(diff_id)?.unpacked()?;
            let stamp = Seal::read(&unpacked.folder.with_file_name(MARK))?.stamp;
            let is_sealed = stamp.is_none_or(|stamp| look(&unpacked.folder).is_ok_and(|(found, _)| found == stamp));
            Some(UnpackedLayer { diff_id, unpacked, is_sealed })
        });
        Ok(unpacked.collect())
    }

    /// The layer over whose files the folder of a layer goes, if it does, as its mark says.
    pub(super) fn lies_over(&self, layer: &Digest) -> Option<Digest> {
        Some(Seal::read(&mark_in(&self.layer_path(DiffId(*layer))))?.over?.0)
    }

    /// Flushes the file system, so that layers that were unpacked by then count after a restart of the machine too.
    ///
    /// Is quick where that is so long ago that the kernel has written them by itself, else may take seconds. Gives how
    /// many layers it settled.
    ///
    /// # Errors
    /// When the file system can't be flushed.
    pub fn settle(&self, unpacked_by: SystemTime) -> Result<usize, StoreError> {
        let boot = boot_id();
        let layers = self.path("layers");
        let read = |mark: &Path| Seal::read(mark).filter(|seal| seal.boot.as_deref() == Some(boot.trim()));
        let old = |mark: &Path| fs::metadata(mark).and_then(|m| m.modified()).is_ok_and(|time| time <= unpacked_by);
        let open = |name: &String| {
            let folder = layers.join(name);
            let mark = mark_in(&folder);
            let seal = read(&mark).filter(|_| old(&mark) && folder.join("fs").is_dir())?;
            Some((mark, seal))
        };
        let marks: Vec<(PathBuf, Seal)> = self.layer_names()?.iter().filter_map(open).collect();
        if marks.is_empty() {
            return Ok(0);
        }
        let folder = fs::File::open(&layers).map_err(StoreError::io("open", &layers))?;
        rustix::fs::syncfs(&folder).map_err(StoreError::errno("flush the file system of", &layers))?;
        // Nobody else writes marks meanwhile.
        let _lock = self.lock("adopt")?;
        let mut count = 0;
        for (mark, seal) in marks {
            // Another folder may have taken the place of the flushed one.
            if read(&mark).as_ref() == Some(&seal) {
                self.write_record(&mark, Seal { boot: None, ..seal }.to_text().as_bytes())?;
                count += 1;
            }
        }
        Ok(count)
    }
}

/// The name of the record that says what a layer's folder is.
const MARK: &str = "unpacked";

fn mark_in(layer_folder: &Path) -> PathBuf {
    layer_folder.join(MARK)
}

/// What tells this run of the machine from earlier ones. Where the kernel does not say, every run is taken for the same.
fn boot_id() -> String {
    let unknown = || "unknown\n".to_owned();
    file::read_kernel_text(Path::new("/proc/sys/kernel/random/boot_id")).unwrap_or_else(unknown)
}

#[cfg(test)]
#[path = "unpacked_tests.rs"]
mod tests;
