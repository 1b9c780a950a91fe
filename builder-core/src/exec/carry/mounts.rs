//! Cache mounts in caches: `mounts=true`.
//!
//! A mount that this build's commands use goes along as a layer of its own, named by the annotation
//! `rbuild.cache.mount`. A store that does not have the mount begins it with what the cache has.

use std::io;
use std::path::Path;

use super::import::Carry;
use super::place::{DIFF_ID_ANNOTATION, Found, MOUNT_ANNOTATION};
use super::{reason, warn};
use crate::error::{BuildError, During};
use crate::exec::build::Build;
use crate::exec::cache_mount;
use crate::exec::load::open_origin;
use crate::layer::{self, Compression, Limits};
use crate::oci::Descriptor;
use crate::progress::Event;
use crate::store::{CacheSharing, Store};

impl Carry {
    /// Fills the folder of a new cache mount with what a cache has of it. Where that fails, it begins empty.
    pub(crate) fn fill_mount(&self, build: &Build<'_>, id: &str, folder: &Path) -> io::Result<()> {
        for (number, (cache, opened, mount)) in self.mounts(build, id).into_iter().enumerate() {
            // Beside the folder, where all that is not used goes with the temporary folder that both are in.
            let unpacked = folder.with_file_name(format!("carried-{number}"));
            std::fs::create_dir(&unpacked)?;
            let read = || -> Result<(), BuildError> {
                let origin = opened.origin();
                let reader = open_origin(build.layers.store(), &origin, &mount.blob)?;
                let kind = &mount.blob.media_type;
                layer::read_layer(reader, kind, Some(mount.diff_id), Some(&unpacked), &Limits::default())
                    .during(|| "unpack it".to_owned())?;
                Ok(())
            };
            match read() {
                Ok(()) => {
                    build.events.event(Event::Note(format!("cache: a cache mount begins with that of `{cache}`")));
                    // An empty folder gives way.
                    return std::fs::rename(&unpacked, folder);
                }
                Err(error) => {
                    let message = format!("a cache mount of the cache `{cache}` is not used: {}", reason(&error));
                    warn(&build.events, message, "");
                }
            }
        }
        Ok(())
    }
}

/// The cache mounts that this build used, as layers; those that only the cache in the place has stay in it.
pub(super) fn pack(
    build: &Build<'_>,
    compression: Compression,
    there: Option<&Found>,
) -> Result<Vec<Descriptor>, BuildError> {
    let mut layers = Vec::new();
    let used = build.carry.used_mounts();
    for id in &used {
        if let Some(mut layer) = pack_one(build.layers.store(), id, compression)? {
            layer.annotations.insert(MOUNT_ANNOTATION.to_owned(), id.clone());
            layers.push(layer);
        }
    }
    let packed = |id: &str| layers.iter().any(|layer: &Descriptor| layer.annotations[MOUNT_ANNOTATION] == id);
    let mut kept = Vec::new();
    for (id, mount) in there.into_iter().flat_map(|there| &there.mounts) {
        if !packed(id) {
            let mut layer = mount.blob.clone();
            layer.annotations.insert(MOUNT_ANNOTATION.to_owned(), id.clone());
            layer.annotations.insert(DIFF_ID_ANNOTATION.to_owned(), mount.diff_id.to_string());
            kept.push(layer);
        }
    }
    layers.extend(kept);
    Ok(layers)
}

/// `None` where the mount is empty, or in use by another build.
fn pack_one(store: &Store, id: &str, compression: Compression) -> Result<Option<Descriptor>, BuildError> {
    let action = || "pack a cache mount".to_owned();
    let absent = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
    let Ok(Some(mount)) = store.try_cache_mount(id, CacheSharing::Locked, absent) else { return Ok(None) };
    let changes = cache_mount::contents(mount.path()).during(action)?;
    if changes.is_empty() {
        return Ok(None);
    }
    let mut writer = store.hashed_blob_writer().during(action)?;
    let encoded = layer::encode(&changes.into(), compression, &mut writer).during(action)?;
    let mut layer = writer.finish_with(encoded.media_type, encoded.digest, encoded.size).during(action)?;
    layer.annotations.insert(DIFF_ID_ANNOTATION.to_owned(), encoded.diff_id.to_string());
    Ok(Some(layer))
}
