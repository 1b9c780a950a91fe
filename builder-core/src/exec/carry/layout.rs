//! Caches in folders: OCI layouts, in which nothing piles up.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use super::place::Found;
use crate::error::{BuildError, During};
use crate::image::{self, ArchiveOptions, LayoutSource};
use crate::oci::{Descriptor, Digest};
use crate::store::Store;

/// Puts a cache into the layout in a folder, in place of the one of the same tag.
///
/// Blobs that only the former cache had are removed. Nothing else of the layout is.
pub(super) fn write(
    store: &Store,
    manifest: &Descriptor,
    path: &Path,
    tag: &str,
    old: Option<&Found>,
) -> Result<(), BuildError> {
    let action = || format!("write the folder `{}`", path.display());
    let options = ArchiveOptions { names: vec![format!("rbuild-cache:{tag}")], ..ArchiveOptions::default() };
    image::export_folder(store, manifest, &options, path).during(action)?;
    if let Some(old) = old {
        remove_unnamed(path, &old.blobs).during(action)?;
    }
    Ok(())
}

/// Removes those of some blobs that no image of the layout names.
fn remove_unnamed(path: &Path, candidates: &BTreeSet<Digest>) -> Result<(), BuildError> {
    let layout = LayoutSource::open(path).during(|| "open it again".to_owned())?;
    let Some(named) = named(&layout) else { return Ok(()) };
    for digest in candidates.difference(&named) {
        let blob = path.join("blobs/sha256").join(digest.hex());
        match std::fs::remove_file(&blob) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(BuildError::failed(format!("remove `{}`", blob.display()), error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Every blob that the layout's images name; `None` where there is something else in it than images.
fn named(layout: &LayoutSource) -> Option<BTreeSet<Digest>> {
    let mut named = BTreeSet::new();
    for entry in layout.entries() {
        if entry.size > image::DOCUMENT_LIMIT {
            return None;
        }
        let mut bytes = Vec::new();
        layout.open_blob(entry).ok()?.read_to_end(&mut bytes).ok()?;
        let manifest = image::read_manifest(&bytes).ok()?;
        named.insert(entry.digest);
        named.extend(manifest.layers.iter().chain([&manifest.config]).map(|blob| blob.digest));
    }
    Some(named)
}
