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

/// A stack higher than one overlay can be: the lowest layers are in one below it.
#[test]
fn hundreds_of_layers() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return;
    }
    const LAYERS: usize = 600;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let make = |name: &str| {
        let path = folder.path().join(name);
        rustix::fs::mkdir(&path, Mode::RWXU).expect("a folder");
        path
    };
    let write = |path: &Path| drop(rustix::fs::open(path, OFlags::CREATE, Mode::RUSR).expect("a file"));
    // From the top: each has a file of its own name, and all have parts in `dir`.
    let lower: Vec<PathBuf> = (0..LAYERS).map(|number| make(&number.to_string())).collect();
    for (number, layer) in lower.iter().enumerate() {
        rustix::fs::mkdir(layer.join("dir"), Mode::RWXU).expect("a folder");
        write(&layer.join("dir").join(number.to_string()));
    }
    // The topmost layer removes a file of the lowest, and of one that is not in the inner overlay.
    for hidden in ["599", "50"] {
        let path = lower[0].join("dir").join(hidden);
        rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::CharacterDevice, Mode::empty(), 0).expect("a whiteout");
    }
    let writable = WritableLayer { upper: make("upper"), work: make("work") };
    let mounted = overlay(&Overlay { lower: lower.clone(), writable: Some(writable.clone()) }, Restrictions::PLAIN)
        .expect("an overlay");
    let directory = rustix::fs::openat(&mounted, "dir", OFlags::RDONLY, Mode::empty()).expect("the folder");
    let mut names: Vec<usize> = rustix::fs::Dir::read_from(&directory)
        .expect("its names")
        .filter_map(|entry| entry.expect("a name").file_name().to_str().ok()?.parse().ok())
        .collect();
    names.sort_unstable();
    assert_eq!(names, (0..LAYERS).filter(|number| ![50, 599].contains(number)).collect::<Vec<_>>());
    rustix::fs::unlinkat(&directory, "598", rustix::fs::AtFlags::empty()).expect("a file of the lowest layers goes");
    assert!(rustix::fs::statat(&directory, "598", rustix::fs::AtFlags::empty()).is_err());
    assert!(rustix::fs::lstat(writable.upper.join("dir/598")).is_ok(), "a whiteout above both");
    assert!(rustix::fs::stat(lower[LAYERS - 1].join("dir/0")).is_err(), "nothing is mounted here");

    // As many as one overlay takes, given in one option.
    overlay_classic(&Overlay { lower: lower[..MOST_OF_ONE].to_vec(), writable: None }, Restrictions::PLAIN)
        .expect("an overlay");

    let lower = (0..=MOST_LAYERS).map(|number| PathBuf::from(number.to_string())).collect();
    let error = overlay(&Overlay { lower, writable: None }, Restrictions::PLAIN).expect_err("too many");
    assert_eq!(error.to_string(), "cannot stack 1000 layers: the kernel takes 999 at most");
}
