//! Builds of folders that do not hold still. Files change at set moments: when the build tells of an event.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rbuild_core::error::BuildError;
use rbuild_core::exec::{BuildOptions, Cancel, Destination, Output, OutputKind, build};
use rbuild_core::progress::{Event, StepEnd};

/// What happens to the context's `data`.
type Change = (&'static str, fn(&Path));

/// What a build told.
#[derive(Default)]
struct Told {
    started: AtomicUsize,
    renewed: AtomicUsize,
    ends: Mutex<Vec<StepEnd>>,
}

impl Told {
    fn ends(&self) -> Vec<StepEnd> {
        self.ends.lock().unwrap().clone()
    }
}

/// Builds `context` into the folder `out`. `change` is called with the number of each step that begins, from 1.
fn build_while(root: &Path, change: impl Fn(usize) + Send + Sync + 'static) -> Result<Arc<Told>, BuildError> {
    let told = Arc::new(Told::default());
    let mut options = BuildOptions::new(root.join("store"), root.join("context"));
    options.outputs = vec![Output { kind: OutputKind::Local, destination: Destination::Path(root.join("out")) }];
    let _ = fs::remove_dir_all(root.join("out"));
    let heard = Arc::clone(&told);
    let sink = move |event| match event {
        Event::StepStarted { .. } => change(1 + heard.started.fetch_add(1, Ordering::SeqCst)),
        Event::StepEnded { end, .. } => heard.ends.lock().unwrap().push(end),
        Event::Note(text) if text.contains("begins anew") => {
            heard.renewed.fetch_add(1, Ordering::SeqCst);
        }
        _ => {}
    };
    build(&options, Arc::new(sink), &Cancel::new()).map(|_| told)
}

/// A folder with a context that was built once, and has changed since.
fn built_once(dockerfile: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("context/data");
    fs::create_dir_all(data.join("sub")).unwrap();
    fs::write(root.path().join("context/Dockerfile"), dockerfile).unwrap();
    for number in 0..20 {
        fs::write(data.join(format!("{number}")), format!("text {number}")).unwrap();
        fs::write(data.join(format!("sub/{number}")), "below").unwrap();
    }
    build_while(root.path(), |_| ()).unwrap();
    fs::write(data.join("edited"), "an edit").unwrap();
    root
}

/// All that is in a folder, by path: the bytes of files, the targets of links.
fn listed(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = walkdir::WalkDir::new(folder).min_depth(1).into_iter().map(Result::unwrap);
    let entries = entries.filter(|entry| !entry.file_type().is_dir());
    let content = |path: &Path| match fs::read_link(path) {
        Ok(target) => target.into_os_string().into_encoded_bytes(),
        Err(_) => fs::read(path).unwrap(),
    };
    entries
        .map(|entry| (entry.path().strip_prefix(folder).unwrap().display().to_string(), content(entry.path())))
        .collect()
}

#[test]
fn a_step_begins_anew_when_its_files_changed_since_it_was_prepared() {
    let changes: [Change; 6] = [
        ("longer", |data| fs::write(data.join("3"), "longer than before").unwrap()),
        ("as long", |data| fs::write(data.join("3"), "TEXT 3").unwrap()),
        ("removed", |data| fs::remove_file(data.join("3")).unwrap()),
        ("a link now", |data| {
            fs::remove_file(data.join("3")).unwrap();
            symlink("elsewhere", data.join("3")).unwrap();
        }),
        ("a folder is gone", |data| fs::remove_dir_all(data.join("sub")).unwrap()),
        ("a file where a folder was", |data| {
            fs::remove_dir_all(data.join("sub")).unwrap();
            fs::write(data.join("sub"), "a file").unwrap();
        }),
    ];
    for (what, change) in changes {
        let root = built_once("FROM scratch\nCOPY data /data\nCOPY data /again\n");
        let data = root.path().join("context/data");
        let changed = data.clone();
        let told = build_while(root.path(), move |step| {
            if step == 1 {
                change(&changed);
            }
        })
        .expect(what);
        let (begun, renewed) = (told.started.load(Ordering::SeqCst), told.renewed.load(Ordering::SeqCst));
        assert_eq!((begun, renewed, told.ends()), (2, 1, vec![StepEnd::Done; 2]), "{what}");
        let now = listed(&data);
        assert!(
            listed(&root.path().join("out/data")) == now && listed(&root.path().join("out/again")) == now,
            "{what}"
        );
        // What was recorded is what is in the image.
        let told = build_while(root.path(), |_| ()).expect(what);
        assert_eq!(told.ends(), [StepEnd::Cached; 2], "{what}");
    }
}

/// A file that changed once is used as it was then: another change makes nothing begin anew.
#[test]
fn what_changes_again_and_again_is_used_as_it_was_first_seen_to_change() {
    let root = built_once("FROM scratch\nCOPY data /data\nCOPY data/3 /one/\nCOPY data /again\n");
    let data = root.path().join("context/data");
    let told = build_while(root.path(), move |step| {
        fs::write(data.join("3"), "word ".repeat(step)).unwrap();
        if step > 1 {
            fs::remove_file(data.join("3")).unwrap();
        }
    })
    .unwrap();
    assert_eq!((told.renewed.load(Ordering::SeqCst), told.ends()), (1, vec![StepEnd::Done; 3]));
    let out = listed(&root.path().join("out"));
    let once = b"word ".to_vec();
    assert_eq!(["data/3", "one/3", "again/3"].map(|path| out.get(path)), [Some(&once); 3]);
}

/// Files that never changed before do so each time: then all are copied, and the build comes to an end.
#[test]
fn other_files_change_each_time() {
    let lines: String = (0..12).map(|n| format!("COPY data /copy{n}\n")).collect();
    let root = built_once(&format!("FROM scratch\n{lines}"));
    let data = root.path().join("context/data");
    let told = build_while(root.path(), move |step| {
        fs::write(data.join(format!("{step}")), format!("changed by {step}")).unwrap();
    })
    .unwrap();
    // Three times files that change are copied, the fourth time all.
    assert_eq!((told.renewed.load(Ordering::SeqCst), told.ends()), (4, vec![StepEnd::Done; 12]));
    let out = listed(&root.path().join("out"));
    for copy in 0..12 {
        for file in 0..20 {
            let changed = (1..=4).contains(&file) && file <= copy + 1;
            let want = if changed { format!("changed by {file}") } else { format!("text {file}") };
            assert_eq!(out[&format!("copy{copy}/{file}")], want.into_bytes(), "copy {copy}, file {file}");
        }
    }
}

/// A store that lies in the context is no part of it.
#[test]
fn the_store_is_left_out() {
    let root = tempfile::tempdir().unwrap();
    let context = root.path().join("context");
    fs::create_dir_all(context.join("deep")).unwrap();
    symlink("context/deep/store", root.path().join("store")).unwrap();
    fs::create_dir(context.join("deep/store")).unwrap();
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY . /all\nCOPY deep /deep\nCOPY d* /entries/\n").unwrap();
    fs::write(context.join("deep/file"), "text").unwrap();
    build_while(root.path(), |_| ()).unwrap();
    let out = listed(&root.path().join("out"));
    assert_eq!(out.keys().collect::<Vec<_>>(), ["all/Dockerfile", "all/deep/file", "deep/file", "entries/file"]);
    let told = build_while(root.path(), |_| ()).unwrap();
    assert_eq!(told.ends(), [StepEnd::Cached; 3]);

    for source in ["deep/store", "deep/store/blobs"] {
        fs::write(context.join("Dockerfile"), format!("FROM scratch\nCOPY {source} /s\n")).unwrap();
        let error = build_while(root.path(), |_| ()).map(drop).unwrap_err();
        assert_eq!(error.to_string(), format!("could not copy `{source}` from the build context"));
        assert_eq!(error.help(), "rbuild keeps its store there, which is no part of a build context");
    }
}
