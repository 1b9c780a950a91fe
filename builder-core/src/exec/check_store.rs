//! Reads everything that a store holds, unpacked layers too: `rbuild cache check`.

use rayon::prelude::*;

use super::layers::tree_of;
use crate::error::{BuildError, During};
use crate::rootfs::{Root, digest_file};
use crate::store::{CheckReport, Problem, Store, UnpackedLayer};
use crate::tree::{Node, TreeEntry};

/// Checks every blob, record and unpacked file of a store against its digest, and the names of images. Changes nothing.
///
/// # Errors
/// When the store's folders can't be listed.
pub fn check_store(store: &Store) -> Result<CheckReport, BuildError> {
    let action = || format!("check the store `{}`", store.root().display());
    let mut report = store.check().during(action)?;
    let layers = store.unpacked_layers().during(action)?;
    report.objects += layers.len() as u64;
    let damaged = layers.par_iter().filter_map(|layer| {
        let file = match layer.is_sealed {
            true => first_wrong_file(store, layer)?,
            false => String::new(),
        };
        // One that is gone by now was removed by another process.
        layer.unpacked.folder.exists().then_some(Problem::Unpacked { diff_id: layer.diff_id, file })
    });
    report.problems.extend(damaged.collect::<Vec<_>>());
    Ok(report)
}

/// The first file of an unpacked layer that is not what the layer's record says. What it shares with another layer is
/// checked once, with that one.
fn first_wrong_file(store: &Store, layer: &UnpackedLayer) -> Option<String> {
    // Without a record the folder is not used, and a damaged record is reported by itself.
    let tree = tree_of(store, layer.diff_id)?;
    let below = layer.unpacked.over.as_ref().and_then(|(base, _)| tree_of(store, *base));
    let roots: Result<Vec<Root>, _> = layer.unpacked.folders().map(Root::open).collect();
    let Ok(roots) = roots else { return Some(String::new()) };
    let is_shared = |entry: &TreeEntry| {
        below.as_ref().is_some_and(|tree| matches!(tree.get(&entry.entry.path), Ok(Some(found)) if found == *entry))
    };
    let is_wrong = |entry: &TreeEntry| !is_shared(entry) && !roots.iter().any(|root| is_right(root, entry));
    // What can't be read is as bad as what is wrong.
    let wrong = tree.iter().find(|entry| entry.as_ref().map_or(true, is_wrong))?;
    Some(wrong.map_or_else(|_| String::new(), |entry| entry.entry.path.to_string()))
}

/// Whether a folder has what an entry of a layer's record says.
pub(super) fn is_right(root: &Root, wanted: &TreeEntry) -> bool {
    let path = &wanted.entry.path;
    match &wanted.entry.node {
        Node::File { size } => root.open_file(path).is_ok_and(|file| {
            file.metadata().is_ok_and(|metadata| metadata.len() == *size)
                && wanted.digest.is_none_or(|digest| digest_file(&file).is_ok_and(|found| found == digest))
        }),
        Node::Symlink { target } => root.read_link(path).is_ok_and(|found| found == *target),
        Node::Directory { .. } => root.open_dir(path).is_ok(),
        // Where the disk can't hold it, the record does.
        Node::HardLink { .. } | Node::Fifo | Node::CharDevice { .. } | Node::BlockDevice { .. } | Node::Whiteout => {
            true
        }
    }
}
