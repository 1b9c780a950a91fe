//! Cache mounts in caches: `mounts=true`.
//!
//! A mount that this build's commands use goes along as layers of its own (`parts`), named by the annotation
//! `rbuild.cache.mount`. A store that does not have the mount begins it with what the cache has.

use std::io;
use std::path::Path;

use super::import::Carry;
use super::parts::{PartReader, PartWriter};
use super::place::{CarriedMount, Found, PART_LIMIT};
use super::{reason, warn};
use crate::error::{BuildError, During};
use crate::exec::build::Build;
use crate::exec::cache_mount;
use crate::exec::compression_progress::{Watched, stop_if};
use crate::layer::{self, Compression, Limits};
use crate::oci::Descriptor;
use crate::progress::Event;
use crate::store::CacheSharing;

impl Carry {
    /// Fills the folder of a new cache mount with what a cache has of it. Where that fails, it begins empty.
    pub(crate) fn fill_mount(&self, build: &Build<'_>, id: &str, folder: &Path) -> io::Result<()> {
        for cache in self.with_broken_mount(build, id) {
            let message = format!("a cache mount of the cache `{cache}` is not used: its parts are not complete");
            warn(&build.events, message, "");
        }
        for (number, (cache, opened, mount)) in self.mounts(build, id).into_iter().enumerate() {
            // Beside the folder, where all that is not used goes with the temporary folder that both are in.
            let unpacked = folder.with_file_name(format!("carried-{number}"));
            std::fs::create_dir(&unpacked)?;
            let read = || -> Result<(), BuildError> {
                let origin = opened.origin();
                let reader = PartReader::open(build.layers.store(), &origin, &mount.parts)?;
                layer::read_layer(reader, &mount.media_type, Some(mount.diff_id), Some(&unpacked), &Limits::default())
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
    let mut mounts = there.map(|there| there.mounts.clone()).unwrap_or_default();
    for id in build.carry.used_mounts() {
        if let Some(mount) = pack_one(build, &id, compression)? {
            mounts.insert(id, mount);
        }
    }
    let layers: Vec<Descriptor> = mounts.iter().flat_map(|(id, mount)| mount.layers(id)).collect();
    if layers.len() > PART_LIMIT {
        let message = format!("cache mounts are left out of a cache: they would be {} parts", layers.len());
        warn(&build.events, message, &format!("a cache holds {PART_LIMIT} at the most"));
        return Ok(Vec::new());
    }
    Ok(layers)
}

/// `None` where the mount is empty, or in use by another build.
fn pack_one(build: &Build<'_>, id: &str, compression: Compression) -> Result<Option<CarriedMount>, BuildError> {
    let store = build.layers.store();
    let action = || "pack a cache mount".to_owned();
    let absent = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
    let Ok(Some(mount)) = store.try_cache_mount(id, CacheSharing::Locked, absent) else { return Ok(None) };
    let changes = cache_mount::contents(mount.path()).during(action)?;
    if changes.is_empty() {
        return Ok(None);
    }
    let mut writer = PartWriter::new(store);
    let mut watched = Watched { out: &mut writer, before: || stop_if(build.cancel.is_cancelled()) };
    let encoded = layer::encode(&changes.into(), compression, &mut watched).during(action)?;
    let parts = writer.finish(encoded.media_type).during(action)?;
    Ok(Some(CarriedMount { diff_id: encoded.diff_id, media_type: encoded.media_type.to_owned(), parts }))
}
