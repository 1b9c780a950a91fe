use std::fs::File;
use std::io;

use rustix::fs::{Mode, OFlags};

use super::*;

/// Both ways to mount layers give the same tree, and neither is seen outside.
#[test]
fn layers_one_by_one_and_in_one_option() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let make = |name: &str| {
        let path = folder.path().join(name);
        rustix::fs::mkdir(&path, Mode::RWXU).expect("a folder");
        path
    };
    let write = |path: PathBuf, text: &str| {
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).expect("a file");
        rustix::io::write(file, text.as_bytes()).expect("its content");
    };
    let lower = vec![make("top"), make("bottom")];
    for layer in &lower {
        write(layer.join("a"), &layer.to_string_lossy());
    }
    write(lower[1].join("b"), "");
    for (i, mount) in [overlay_by_layer, overlay_classic].into_iter().enumerate() {
        let writable = WritableLayer { upper: make(&format!("upper-{i}")), work: make(&format!("work-{i}")) };
        for writable in [None, Some(writable)] {
            let layers = Overlay { lower: lower.clone(), writable: writable.clone() };
            let mounted = mount(&layers, Restrictions::PLAIN).expect("an overlay");
            let file = rustix::fs::openat(&mounted, "a", OFlags::RDONLY, Mode::empty()).expect("the file");
            let mut text = String::new();
            io::Read::read_to_string(&mut File::from(file), &mut text).expect("its content");
            assert_eq!(Path::new(&text), lower[0]);
            let made = rustix::fs::mkdirat(&mounted, "made", Mode::RWXU);
            assert_eq!(made.is_ok(), writable.is_some());
            if let Some(writable) = writable {
                assert!(rustix::fs::stat(writable.upper.join("made")).is_ok());
                assert!(rustix::fs::stat(writable.upper.join("b")).is_err(), "nothing is mounted here");
            }
        }
    }
}

/// Steps that change nothing have the same layer, which the kernel takes only once.
#[test]
fn a_layer_may_be_there_twice() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [same, between, upper, work] = ["same", "between", "upper", "work"].map(|name| {
        let path = folder.path().join(name);
        rustix::fs::mkdir(&path, Mode::RWXU).expect("a folder");
        path
    });
    let lower = vec![same.clone(), between.clone(), same.clone()];
    assert_eq!(without_repetitions(&lower), [same, between]);
    overlay(&Overlay { lower, writable: Some(WritableLayer { upper, work }) }, Restrictions::PLAIN)
        .expect("an overlay");
}
