use std::fs;
use std::os::unix::fs::MetadataExt;

use super::super::encoding::AddOptions;
use super::super::layers::{StackLayer, Stops};
use super::*;
use crate::store::{Store, StoreError};
use crate::tree::{Entry, Metadata, Timestamp};

/// Layers in a store of their own.
fn layers() -> (tempfile::TempDir, Arc<Layers>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, Arc::new(Layers::new(store, Stops::default(), None)))
}

fn change(path: &str, node: Node, text: &str) -> Change {
    let metadata = Metadata { mode: 0o750, modified: Timestamp::from_seconds(1_000_000), ..Metadata::default() };
    let entry = Entry { path: TreePath::clean(path.as_bytes()), node, metadata };
    Change { entry, content: Content::Bytes(text.as_bytes().into()) }
}

fn file(path: &str, text: &str) -> Change {
    change(path, Node::File { size: text.len() as u64 }, text)
}

/// A folder of ten files, of which one holds `text`.
fn ten_files(text: &str) -> Vec<Change> {
    let mut changes = vec![change("d", Node::Directory { opaque: false }, "")];
    changes.extend((0..10).map(|number| file(&format!("d/{number}"), if number == 3 { text } else { "same" })));
    changes
}

fn add(layers: &Layers, changes: &[Change], earlier: Option<DiffId>) -> DiffId {
    layers.add(&changes.into(), AddOptions { unpack: true, earlier, ..AddOptions::default() }).unwrap()
}

/// What is in a layer's own folder, by name.
fn own_files(layers: &Layers, diff_id: DiffId) -> Vec<String> {
    let folder = layers.unpacked(diff_id).unwrap().folder;
    let items = walkdir::WalkDir::new(&folder).min_depth(1).sort_by_file_name().into_iter();
    items.map(|item| item.unwrap().path().strip_prefix(&folder).unwrap().display().to_string()).collect()
}

fn read(layers: &Arc<Layers>, diff_id: DiffId, path: &str) -> String {
    let view = layers.view(&super::super::materialize::single(diff_id)).unwrap();
    let bytes = crate::tree::read_small(&view, path.as_bytes(), 100).unwrap().unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn only_what_changed_is_unpacked_again() {
    let (_dir, layers) = layers();
    let first = add(&layers, &ten_files("one"), None);
    assert_eq!(own_files(&layers, first).len(), 11);
    let second = add(&layers, &ten_files("other"), Some(first));
    assert_eq!(own_files(&layers, second), ["d", "d/3"]);
    // The third lies over the first, too.
    let third = add(&layers, &ten_files("yet another"), Some(second));
    assert_eq!(layers.unpacked(third).unwrap().over.map(|(base, _)| base), Some(first));
    for (layer, text) in [(first, "one"), (second, "other"), (third, "yet another")] {
        assert_eq!((read(&layers, layer, "d/3").as_str(), read(&layers, layer, "d/4").as_str()), (text, "same"));
    }
    let status = fs::metadata(layers.unpacked(third).unwrap().folder.join("d")).unwrap();
    assert_eq!((status.mode() & 0o7777, status.mtime()), (0o750, 1_000_000));
    // The first again is there already.
    assert_eq!(add(&layers, &ten_files("one"), Some(third)), first);
    assert_eq!(layers.unpacked(first).unwrap().over, None);
}

#[test]
fn another_content_of_the_same_size_and_time_is_noticed() {
    let (_dir, layers) = layers();
    let first = add(&layers, &ten_files("one"), None);
    let second = add(&layers, &ten_files("two"), Some(first));
    assert_eq!(own_files(&layers, second), ["d", "d/3"]);
    assert_eq!(read(&layers, second, "d/3"), "two");
    // All of them: then there is nothing to save.
    let all: Vec<Change> = ten_files("one")
        .into_iter()
        .map(
            |change| {
                if change.entry.node.is_directory() { change } else { file(&change.entry.path.to_string(), "SAME") }
            },
        )
        .collect();
    let base = add(&layers, &all, None);
    let mut changed = all.clone();
    changed[1..].iter_mut().for_each(|change| change.content = Content::Bytes(b"EMAS"[..].into()));
    let third = add(&layers, &changed, Some(base));
    assert_eq!(layers.unpacked(third).unwrap().over, None);
    assert_eq!(read(&layers, third, "d/9"), "EMAS");
}

#[test]
fn a_removed_file_needs_a_whole_folder() {
    let (_dir, layers) = layers();
    let first = add(&layers, &ten_files("one"), None);
    let second = add(&layers, &ten_files("one")[..10], Some(first));
    assert_eq!(layers.unpacked(second).unwrap().over, None);
    assert_eq!(own_files(&layers, second).len(), 10);
}

/// A file that has other bytes each time it is opened.
struct Restless(std::sync::atomic::AtomicU8);

impl OpenContent for Restless {
    fn open(&self, _: &TreePath, _: u64) -> io::Result<File> {
        use std::io::{Seek, Write};
        let mut file = tempfile::tempfile()?;
        file.write_all(&[self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed); 100])?;
        file.rewind()?;
        Ok(file)
    }
}

#[test]
fn a_file_that_changes_while_it_is_copied_is_an_error() {
    let (_dir, layers) = layers();
    let first = add(&layers, &ten_files("one"), None);
    let mut changes = ten_files("one");
    changes[4] = change("d/3", Node::File { size: 100 }, "");
    changes[4].content = Content::Source(SourceFile {
        opener: Arc::new(Restless(0.into())),
        path: TreePath::root(),
        stamp: 0,
        mark: None,
    });
    let error = layers
        .add(&changes.into(), AddOptions { unpack: true, earlier: Some(first), ..AddOptions::default() })
        .unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string);
    assert!(
        format!("{error} {source:?}").contains("its files changed while the build used them"),
        "{error} {source:?}"
    );
}

#[test]
fn a_stack_with_too_many_folders_gets_whole_copies() {
    let (_dir, layers) = layers();
    let first = add(&layers, &ten_files("one"), None);
    let second = add(&layers, &ten_files("other"), Some(first));
    let stack = [second].map(|diff_id| (diff_id, layers.unpacked(diff_id).unwrap()));
    assert_eq!(layers.stack_folders(&stack, 2).unwrap().len(), 2);
    let folders = layers.stack_folders(&stack, 1).unwrap();
    let texts = ["d/3", "d/4"].map(|path| fs::read_to_string(folders[0].join(path)).unwrap());
    assert_eq!((folders.len(), texts), (1, ["other".to_owned(), "same".to_owned()]));
    assert_eq!(layers.stack_folders(&stack, 1).unwrap(), folders);
}

#[test]
fn a_layer_over_another_is_compressed_like_any() {
    let (_dir, layers) = layers();
    let first = add(&layers, &ten_files("one"), None);
    let second = add(&layers, &ten_files("other"), Some(first));
    let compression = crate::layer::Compression::default();
    let layer = StackLayer { diff_id: second, base_blob: None };
    let blob = layers.blob(&layer, compression).unwrap();
    let mut bytes = Vec::new();
    assert_eq!(crate::layer::encode(&ten_files("other").into(), compression, &mut bytes).unwrap().digest, blob.digest);
}

#[test]
fn damage_in_the_files_below_loses_the_layer() {
    let (_dir, layers) = layers();
    let first = add(&layers, &ten_files("one"), None);
    let second = add(&layers, &ten_files("other"), Some(first));
    // Another file of the same status, as after rot on the disk.
    let path = layers.unpacked(first).unwrap().folder.join("d/4");
    fs::write(&path, "emas").unwrap();
    let layer = StackLayer { diff_id: second, base_blob: None };
    let error = layers.blob(&layer, crate::layer::Compression::default()).unwrap_err();
    let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref());
    assert!(matches!(source, Some(StoreError::LayerLost { diff_id }) if *diff_id == second), "{error:?}");
    let store = layers.store();
    assert!(store.sound_layer(second).unwrap().is_none() && store.sound_layer(first).unwrap().is_none());
}

#[test]
fn a_check_reads_shared_files_once_and_finds_damage_where_it_is() {
    let (_dir, layers) = layers();
    let store = layers.store();
    let first = add(&layers, &ten_files("one"), None);
    let second = add(&layers, &ten_files("other"), Some(first));
    assert_eq!(super::super::check_store(store).unwrap().problems, []);
    let rot = |diff_id: DiffId, name: &str| {
        let path = layers.unpacked(diff_id).unwrap().folder.join(name);
        fs::write(path, "rot").unwrap();
    };
    let damaged = || {
        let problems = super::super::check_store(store).unwrap().problems;
        let ids = problems.iter().filter_map(|problem| match problem {
            crate::store::Problem::Unpacked { diff_id, .. } => Some(*diff_id),
            _ => None,
        });
        ids.collect::<Vec<_>>()
    };
    rot(first, "d/4");
    assert_eq!(damaged(), [first]);
    rot(second, "d/3");
    let mut both = [first, second];
    both.sort();
    assert_eq!(damaged(), both);
}
