//! Several processes on one store, processes that are killed, and disks that are full.
//!
//! The other processes are this test program, started anew with one test that works only then.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use rustix::mount::{MountFlags, UnmountFlags};

use super::*;
use crate::oci::{Descriptor, DiffId};

const STORE_VARIABLE: &str = "RBUILD_TEST_STORE";
const NAME_VARIABLE: &str = "RBUILD_TEST_NAME";

fn start(root: &Path, name: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::process_tests::child", "--nocapture"])
        .env(STORE_VARIABLE, root)
        .env(NAME_VARIABLE, name)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What another process does: it works on objects that the others work on too, and says after each round that it did.
#[test]
fn child() {
    let (Some(root), Ok(name)) = (std::env::var_os(STORE_VARIABLE), std::env::var(NAME_VARIABLE)) else { return };
    let endless = name == "endless";
    let store = Store::open(Path::new(&root)).unwrap();
    let _lease = store.lease().unwrap();
    let mut round = 0_u32;
    while endless || round < 20 {
        let bytes = round.to_le_bytes().repeat(5000);
        let descriptor = store.put_blob(&bytes, "x/y").unwrap();
        assert_eq!(store.read_blob(&descriptor, 100_000).unwrap(), bytes);
        let layer = DiffId(descriptor.digest);
        let guard = store.lock_layer(layer).unwrap();
        if store.layer(layer).and_then(|layer| layer.unpacked()).is_none() {
            let dir = store.unpack_dir().unwrap();
            std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
            std::fs::write(dir.path().join("a/b/file"), &bytes).unwrap();
            store.adopt_unpacked(layer, &dir.keep()).unwrap();
        }
        drop(guard);
        store.add_layer_tree(layer, &mut &bytes[..]).unwrap();
        let blob = LayerBlob {
            descriptor: descriptor.clone(),
            compression: name.clone(),
            encoder: String::new(),
            source: None,
        };
        store.add_layer_blob(layer, blob).unwrap();
        store.write_step(&format!("step-{round}"), layer.to_string().as_bytes()).unwrap();
        store.tag(&format!("{name}:{}", round % 5), &descriptor).unwrap();
        println!("round {round}");
        round = (round + 1) % 1000;
    }
}

/// Waits until the process has worked `rounds` times.
fn wait_for_rounds(child: &mut Child, rounds: usize) {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert_eq!(lines.filter(|line| line.as_ref().unwrap().starts_with("round")).take(rounds).count(), rounds);
}

/// Whether only the temp folders of living handles are there, of which each has made one.
fn no_leftovers(handles: &[&Store]) -> bool {
    let own: Vec<TempDir> = handles.iter().map(|store| store.temp_dir("own").unwrap()).collect();
    std::fs::read_dir(handles[0].path("tmp")).unwrap().count() == own.len()
}

#[test]
fn processes_share_a_store() {
    let (_dir, store) = tests::scratch();
    let children: Vec<Child> = (0..3).map(|n| start(store.root(), &format!("p{n}"))).collect();
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    assert_eq!(store.images().unwrap().len(), 15);
    let report = store.check().unwrap();
    assert_eq!((report.objects, report.problems), (101, Vec::new()));
    assert!(no_leftovers(&[&store]));
}

#[test]
fn a_killed_process_leaves_a_sound_store() {
    let (_dir, store) = tests::scratch();
    let options = PruneOptions {
        now: SystemTime::now(),
        unused_for: Some(Duration::ZERO),
        keep_bytes: None,
        cache_mounts: false,
        dry_run: false,
    };
    for rounds in 1..8 {
        let mut victim = start(store.root(), "endless");
        wait_for_rounds(&mut victim, rounds);
        // What it works with stays, and it goes on.
        let pruned = store.prune(&options).unwrap();
        // Its five names protect what they name.
        assert!(pruned.in_use > 0 || rounds <= 5, "{pruned:?}");
        wait_for_rounds(&mut victim, 2);
        victim.kill().unwrap();
        victim.wait().unwrap();
        let next = Store::open(store.root()).unwrap();
        assert!(no_leftovers(&[&store, &next]), "after {rounds} rounds");
        assert_eq!(next.check().unwrap().problems, []);
        for name in file::list(&next.path("layers")).unwrap() {
            let layer = next.layer(DiffId(format!("sha256:{name}").parse().unwrap())).unwrap();
            if let Some(unpacked) = layer.unpacked() {
                assert_eq!(std::fs::metadata(unpacked.folder.join("a/b/file")).unwrap().len(), 20_000);
            }
        }
    }
    assert!(store.prune(&options).unwrap().records > 0);
    assert_eq!(store.check().unwrap().problems, []);
}

/// A small file system of its own, for as long as this lives.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = Some(c"size=600k");
        match rustix::mount::mount("rbuild-test", dir.path(), "tmpfs", MountFlags::empty(), size) {
            Ok(()) => Some(Self(dir)),
            Err(errno) => {
                println!("skipped: can't mount a file system: {errno}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_an_error_and_prune_helps() {
    let Some(disk) = SmallDisk::new() else { return };
    let store = Store::open(&disk.0.path().join("store")).unwrap();
    let big = store.put_blob(&vec![1; 300 << 10], "x/y").unwrap();
    store.tag("app:1", &store.put_blob(b"image", "x/y").unwrap()).unwrap();
    let is_full = |error: &StoreError| match error {
        StoreError::Io { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
        _ => false,
    };
    let error = store.put_blob(&vec![2; 500 << 10], "x/y").unwrap_err();
    assert!(is_full(&error), "{error}");
    // To the last byte.
    let mut rest = std::fs::File::create(disk.0.path().join("rest")).unwrap();
    while rest.write_all(&[0; 4096]).is_ok() {}
    assert!(is_full(&store.write_step("step", &[3; 9000]).unwrap_err()));
    assert!(is_full(&store.tag("app:2", &big).unwrap_err()));
    assert_eq!(store.read_step("step").unwrap(), None);
    assert_eq!(store.images().unwrap().len(), 1);
    assert!(no_leftover_files(&store));
    let now = SystemTime::now();
    let options = PruneOptions { now, unused_for: None, keep_bytes: None, cache_mounts: false, dry_run: false };
    store.give_up_claims();
    assert_eq!(store.prune(&options).unwrap().blobs, 1);
    store.put_blob(&vec![4; 200 << 10], "x/y").unwrap();
    assert_eq!(store.check().unwrap().problems, []);
}

fn no_leftover_files(store: &Store) -> bool {
    let folders = std::fs::read_dir(store.path("tmp")).unwrap().map(|entry| entry.unwrap().path());
    folders.flat_map(|folder| std::fs::read_dir(folder).unwrap()).all(|e| e.unwrap().file_name() == "lock")
}

#[test]
fn a_read_only_store_can_be_read() {
    let Some(disk) = SmallDisk::new() else { return };
    let root = disk.0.path().join("store");
    let descriptor: Descriptor = {
        let store = Store::open(&root).unwrap();
        let descriptor = store.put_blob(b"image", "x/y").unwrap();
        store.tag("app:1", &descriptor).unwrap();
        store.write_step("step", b"record").unwrap();
        descriptor
    };
    rustix::mount::mount_remount(disk.0.path(), MountFlags::RDONLY, "").unwrap();
    let store = Store::open(&root).unwrap();
    let _lease = store.lease().unwrap();
    assert_eq!(store.resolve_tag("app:1").unwrap(), Some(descriptor.clone()));
    assert_eq!(store.read_blob(&descriptor, 10).unwrap(), b"image");
    assert_eq!(store.read_step("step").unwrap().as_deref(), Some(&b"record"[..]));
    assert!(store.put_blob(b"new", "x/y").is_err());
}
