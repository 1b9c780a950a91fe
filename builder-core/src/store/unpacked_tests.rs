use super::super::PruneOptions;
use super::super::tests::scratch;
use super::*;
use crate::oci::Digest;

fn unpacked(store: &Store, content: &str) -> PathBuf {
    let dir = store.unpack_dir().unwrap();
    fs::write(dir.path().join("file"), content).unwrap();
    dir.keep()
}

#[test]
fn adopts_a_layer_once() {
    let (_dir, store) = scratch();
    let id = DiffId(Digest::of(b"layer"));
    assert!(store.layer(id).is_none());
    let first = unpacked(&store, "one");
    let path = store.adopt_unpacked(id, &first).unwrap();
    assert!(!first.exists());
    let second = unpacked(&store, "two");
    assert_eq!(store.adopt_unpacked(id, &second).unwrap(), path);
    assert!(!second.exists());
    assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "one");
    let layer = store.layer(id).unwrap();
    assert_eq!(layer.unpacked(), Some(Unpacked { folder: path, over: None }));
    assert!(layer.tree().unwrap().is_none());
    store.add_layer_tree(id, &mut &b"entries"[..]).unwrap();
    assert_eq!(layer.tree().unwrap().unwrap().length, b"entries".len() as u64);
}

#[test]
fn a_layer_of_another_boot_counts_only_when_settled() {
    let (_dir, store) = scratch();
    let id = DiffId(Digest::of(b"layer"));
    let path = store.adopt_unpacked(id, &unpacked(&store, "one")).unwrap();
    let mark = path.with_file_name("unpacked");
    fs::write(&mark, "another boot\n").unwrap();
    assert_eq!(store.layer(id).unwrap().unpacked(), None);
    store.adopt_unpacked(id, &unpacked(&store, "two")).unwrap();
    assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "two");
    let (before, after) = (SystemTime::UNIX_EPOCH, SystemTime::now() + std::time::Duration::from_secs(60));
    assert_eq!(store.settle(before).unwrap(), 0);
    assert_eq!(store.settle(after).unwrap(), 1);
    assert_eq!(store.settle(after).unwrap(), 0);
    assert_eq!(Seal::read(&mark).unwrap().boot, None);
    assert!(store.layer(id).unwrap().unpacked().is_some());
}

#[test]
fn threads_that_adopt_the_same_layer_agree() {
    let (_dir, store) = scratch();
    let id = DiffId(Digest::of(b"layer"));
    std::thread::scope(|scope| {
        for n in 0..8 {
            let store = &store;
            scope.spawn(move || {
                let dir = unpacked(store, &n.to_string());
                let path = store.adopt_unpacked(id, &dir).unwrap();
                assert!(path.join("file").is_file());
            });
        }
    });
    assert!(store.layer(id).unwrap().unpacked().is_some());
}

/// A whole layer of two files, and one that has another second file.
fn whole_and_delta(store: &Store) -> (DiffId, DiffId) {
    let [base, other] = ["base", "other"].map(|name| DiffId(Digest::of(name.as_bytes())));
    make_base(store, base);
    store.adopt_unpacked_over(other, &unpacked(store, "two"), base).unwrap();
    (base, other)
}

fn make_base(store: &Store, base: DiffId) {
    let dir = unpacked(store, "one");
    fs::write(dir.join("same"), "same").unwrap();
    store.adopt_unpacked(base, &dir).unwrap();
}

#[test]
fn a_folder_over_another_counts_while_the_other_does() {
    let (_dir, store) = scratch();
    let (base, other) = whole_and_delta(&store);
    let found = store.sound_layer(other).unwrap().unwrap();
    let texts = found.folders().map(|folder| fs::read_to_string(folder.join("file")).unwrap());
    assert_eq!(texts.collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(found.over.as_ref().map(|(below, _)| *below), Some(base));
    assert!(!found.folder.join("same").exists());
    fs::remove_dir_all(store.layer_path(base)).unwrap();
    assert_eq!(store.sound_layer(other).unwrap(), None);
    // The same layer again is as good, whoever made it.
    make_base(&store, base);
    assert_eq!(store.sound_layer(other).unwrap().as_ref(), Some(&found));
    assert!(store.take_damage().is_empty());
}

#[test]
fn a_folder_whose_base_is_gone_is_replaced() {
    let (_dir, store) = scratch();
    let (base, other) = whole_and_delta(&store);
    fs::remove_dir_all(store.layer_path(base)).unwrap();
    let path = store.adopt_unpacked(other, &unpacked(&store, "three")).unwrap();
    assert_eq!(store.sound_layer(other).unwrap(), Some(Unpacked { folder: path.clone(), over: None }));
    assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "three");
    // A folder of what the other has not would be wrong as a base.
    store.adopt_unpacked_over(base, &unpacked(&store, "four"), other).unwrap();
    let third = DiffId(Digest::of(b"third"));
    store.adopt_unpacked_over(third, &unpacked(&store, "five"), base).unwrap();
    assert!(store.sound_layer(base).unwrap().is_some());
    assert_eq!(store.sound_layer(third).unwrap(), None);
}

#[test]
fn damage_below_is_damage() {
    let (_dir, store) = scratch();
    let (base, other) = whole_and_delta(&store);
    fs::write(store.layer_path(base).join("fs/same"), "else").unwrap();
    let next = Store::open(store.root()).unwrap();
    assert_eq!(next.unpacked_layers().unwrap().iter().filter(|layer| layer.is_sealed).count(), 1);
    assert_eq!(next.sound_layer(other).unwrap(), None);
    assert_eq!(next.take_damage(), [format!("files of the unpacked layer {base} were changed or are gone")]);
    make_base(&next, base);
    assert!(next.sound_layer(other).unwrap().is_some());
    fs::write(store.layer_path(other).join("fs/file"), "tWo").unwrap();
    let next = Store::open(store.root()).unwrap();
    assert_eq!(next.sound_layer(other).unwrap(), None);
    assert_eq!(next.take_damage(), [format!("files of the unpacked layer {other} were changed or are gone")]);
    assert!(next.sound_layer(base).unwrap().is_some());
}

#[test]
fn both_folders_must_be_settled_to_outlast_a_restart() {
    let (_dir, store) = scratch();
    let (base, other) = whole_and_delta(&store);
    let restart = |diff_id: DiffId| {
        let mark = mark_in(&store.layer_path(diff_id));
        let seal = Seal { boot: Some("another".to_owned()), ..Seal::read(&mark).unwrap() };
        store.write_record(&mark, seal.to_text().as_bytes()).unwrap();
    };
    assert_eq!(store.settle(SystemTime::now() + std::time::Duration::from_secs(60)).unwrap(), 2);
    assert!(store.sound_layer(other).unwrap().is_some());
    restart(base);
    assert_eq!(store.sound_layer(other).unwrap(), None);
    make_base(&store, base);
    restart(other);
    assert_eq!(store.sound_layer(other).unwrap(), None);
}

#[test]
fn a_layer_keeps_what_it_lies_over_from_a_prune() {
    let (_dir, store) = scratch();
    let (base, other) = whole_and_delta(&store);
    let nobody = DiffId(Digest::of(b"nobody"));
    store.adopt_unpacked(nobody, &unpacked(&store, "")).unwrap();
    store.write_step("step", other.to_string().as_bytes()).unwrap();
    store.give_up_claims();
    let options = PruneOptions {
        now: SystemTime::now(),
        unused_for: None,
        keep_bytes: None,
        cache_mounts: false,
        dry_run: false,
    };
    assert_eq!(store.prune(&options).unwrap().layers, 1);
    assert!(store.sound_layer(other).unwrap().is_some());
    // Who uses the one uses the other.
    let process = Store::open(store.root()).unwrap();
    store.give_up_claims();
    assert!(process.layer(other).unwrap().unpacked().is_some());
    let all = PruneOptions { unused_for: Some(std::time::Duration::ZERO), ..options };
    assert_eq!(store.prune(&all).unwrap().in_use, 2);
    assert!(process.sound_layer(other).unwrap().is_some());
    drop(process);
    assert_eq!(store.prune(&all).unwrap().layers, 2);
    assert!(store.layer(base).is_none() && store.layer(other).is_none());
}
