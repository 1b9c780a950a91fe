//! A build that is killed at any moment leaves nothing behind, and the same command succeeds afterwards.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::{Bench, RunCommand, digest_in, have, held_folders, is_root, processes_with, wait_for};

const ROUNDS: u32 = 20;

/// Steps that take long enough to be hit: waiting, writing, copying many files, two stages side by side.
fn dockerfile(marker: &str) -> String {
    format!(
        "FROM busybox AS one\n\
         RUN --mount=type=cache,target=/cache for n in 1 2 3 4 5; do echo {marker} > /cache/$n; sleep 0.05; done; echo one > /one\n\
         FROM busybox AS two\n\
         COPY files /files\n\
         RUN i=0; while [ $i -lt 300 ]; do echo $i > /n$i; i=$((i+1)); done; (sleep 600; echo {marker}) & sleep 0.2\n\
         FROM busybox\n\
         COPY --from=two / /two\n\
         COPY --from=one /one /one\n\
         RUN sleep 0.1; echo {marker} > /end\n"
    )
}

fn context(bench: &Bench, marker: &str) -> std::path::PathBuf {
    let texts: Vec<(String, String)> =
        (0..400).map(|n| (format!("files/{}/{n}", n % 7), format!("{n}\n").repeat(200))).collect();
    let files: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let context = bench.context("context", &files);
    fs::write(context.join("Dockerfile"), dockerfile(marker)).expect("write");
    context
}

/// Fails when a process of the build lives, or something is mounted below the folder of the test.
fn nothing_left(bench: &Bench, marker: &str) {
    let mut left = Vec::new();
    for _ in 0..3000 {
        left = processes_with(marker);
        left.extend(processes_with(&bench.folder.path().display().to_string()));
        // A process that rbuild was starting when it was killed has its locks for a moment.
        left.extend(["store", "user/store"].into_iter().flat_map(|store| held_folders(&bench.path(store))));
        if left.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(left.is_empty(), "processes are left: {left:#?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(&bench.folder.path().display().to_string()), "something is mounted:\n{mounts}");
}

fn tidy(store: &Path) {
    let left: Vec<_> = fs::read_dir(store.join("tmp")).expect("tmp").filter_map(Result::ok).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn start(mut command: Command) -> Child {
    command.env("SOURCE_DATE_EPOCH", "1700000000").stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("rbuild starts")
}

/// Kills builds at moments spread over a whole one, and builds to the end after each.
fn survive(bench: &Bench, marker: &str, store: &Path, build: &dyn Fn(&[&str]) -> Command) {
    let file = bench.path("id");
    fs::write(&file, "").expect("file");
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("mode");
    let file = file.display().to_string();
    let begun = std::time::Instant::now();
    let whole = |flags: &[&str]| {
        let mut all = vec!["-t", "killed", "--iidfile", file.as_str()];
        all.extend(flags);
        build(&all).env("SOURCE_DATE_EPOCH", "1700000000").ran().ok();
        digest_in(Path::new(&file))
    };
    let wanted = whole(&[]);
    let length = begun.elapsed();
    for round in 0..ROUNDS {
        let (spread, noise) = (length * (round + 1) / (ROUNDS + 1), length / 40);
        let noise = noise * (std::process::id().wrapping_mul(2_654_435_761).rotate_left(round) % 3);
        let mut child = start(build(&["-t", "killed", "--no-cache"]));
        std::thread::sleep(spread + noise);
        child.kill().expect("kill");
        child.wait().expect("wait");
        nothing_left(bench, marker);
        // Every other round takes what the killed build finished.
        let flags: &[&str] = if round % 4 == 0 { &["--no-cache"] } else { &[] };
        assert_eq!(whole(flags), wanted, "after a kill at {spread:?}");
        tidy(store);
        nothing_left(bench, marker);
    }
}

#[test]
fn killed_builds_leave_nothing_and_can_be_repeated() {
    let bench = Bench::new();
    let marker = format!("marker-root-{}", std::process::id());
    let context = context(&bench, &marker);
    survive(&bench, &marker, &bench.path("store"), &|flags| bench.build_command(&context, flags));
}

#[test]
fn killed_builds_of_an_ordinary_user_leave_nothing() {
    if !have("kill rootless", &["setpriv", "newuidmap"]) || !is_root("kill rootless") {
        return;
    }
    let bench = Bench::new();
    let user = bench.user();
    let marker = format!("marker-user-{}", std::process::id());
    let context = context(&bench, &marker);
    survive(&bench, &marker, &user.path("store"), &|flags| user.build_command(&bench, &context, flags));
}

#[test]
fn interrupted_builds_end_cleanly() {
    let bench = Bench::new();
    let marker = format!("marker-signal-{}", std::process::id());
    let text = format!("FROM busybox\nRUN touch /begun; sleep 600; echo {marker}\n");
    let context = bench.context("context", &[("Dockerfile", &text)]);
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let mut command = bench.build_command(&context, &["-t", "interrupted"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("rbuild starts");
        wait_for("the step", || processes_with(&marker).iter().any(|line| line.starts_with("/bin/sh")));
        Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).ran().ok();
        let output = child.wait_with_output().expect("wait");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{text}");
        assert!(!text.contains("panicked"), "{text}");
        nothing_left(&bench, &marker);
        tidy(&bench.path("store"));
    }
}
