//! Builds of a folder that a program writes to all the time.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use support::{Bench, RunCommand};

const DOCKERFILE: &str = "FROM busybox\n\
    RUN --mount=type=bind,target=/context cp /context/log /seen\n\
    COPY . /all\n\
    COPY log /log\n";

/// Appends to a log, replaces a file and makes others that soon go, until told to stop.
fn write_all_the_time(folder: &Path, stop: &AtomicBool) {
    let mut log = OpenOptions::new().append(true).create(true).open(folder.join("log")).expect("log");
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        writeln!(log, "line {number}").expect("write");
        fs::write(folder.join("state.new"), number.to_string()).expect("write");
        fs::rename(folder.join("state.new"), folder.join("state")).expect("rename");
        File::create(folder.join(format!("passing{number}"))).expect("file");
        if number >= 5 {
            fs::remove_file(folder.join(format!("passing{}", number - 5))).expect("remove");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_folder_that_does_not_hold_still_is_built_all_the_same() {
    let bench = Bench::new();
    // So much that looking at it and copying it takes a while.
    let text = "some text that is looked at before it is copied\n".repeat(4000);
    let names: Vec<String> = (0..100).map(|number| format!("file{number}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), text.as_str())).collect();
    let context = bench.context("context", &files);
    fs::write(context.join("Dockerfile"), DOCKERFILE).expect("write");
    fs::write(context.join("log"), "").expect("write");

    let out = format!("type=local,dest={}", bench.path("out").display());
    let build = || {
        let _ = fs::remove_dir_all(bench.path("out"));
        bench.build(&context, &["--network=host", "-o", &out])
    };
    // The first build of a folder looks at nothing before it copies.
    build().ok();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = thread::spawn({
        let (context, stop) = (context.clone(), Arc::clone(&stop));
        move || write_all_the_time(&context, &stop)
    });
    let logs: Vec<String> = (0..8)
        .flat_map(|_| {
            build().ok();
            ["seen", "all/log", "log"].map(|path| fs::read_to_string(bench.path("out").join(path)).expect("a log"))
        })
        .collect();
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("the writer ends well");

    // Each image has the log as it was at one time.
    let log = fs::read_to_string(context.join("log")).expect("log");
    assert!(logs.iter().all(|seen| log.starts_with(seen.as_str()) && seen.len() < log.len()));
    let checked = bench.rbuild().args(["cache", "check"]).ran().ok();
    assert!(checked.stdout.contains(" 0 problems"), "{}", checked.stdout);
    build().ok();
    build().ok().says(&["(3 steps, 3 cached)"]);
    assert_eq!(fs::read_to_string(bench.path("out/all/log")).expect("a log"), log);
}
