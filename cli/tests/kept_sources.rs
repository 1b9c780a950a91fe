//! Sources from elsewhere are kept: what is asked again, what is not, and what is fetched.
#![allow(clippy::unwrap_used, reason = "the server is shared with the core's tests")]

#[path = "../../builder-core/tests/common/mod.rs"]
mod common;
mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use common::http::{Reply, Server};
use rbuild_core::oci::Digest;
use support::{Bench, Ran, RunCommand, have, wait_for};

/// A server with one file that has marks of its version, as servers do.
fn serve_with_marks(content: &Arc<Mutex<String>>) -> Server {
    let content = Arc::clone(content);
    Server::start(move |request| {
        let content = content.lock().unwrap().clone();
        let mark = format!("\"{}\"", &Digest::of(content.as_bytes()).hex()[..8]);
        if request.header("if-none-match") == Some(&mark) {
            return Reply::new(304).header("etag", mark);
        }
        let date = "Wed, 21 Oct 2015 07:28:00 GMT";
        Reply::new(200).header("etag", mark).header("last-modified", date).body(content)
    })
}

fn project(bench: &Bench, text: &str) -> std::path::PathBuf {
    bench.context("context", &[("Dockerfile", text)])
}

/// Builds, and gives what the file `/file` of the image holds.
fn build(bench: &Bench, context: &Path, flags: &[&str]) -> String {
    let out = bench.path("out");
    let _ = fs::remove_dir_all(&out);
    let output = format!("type=local,dest={}", out.display());
    let mut all = vec!["-o", &output];
    all.extend(flags);
    bench.build(context, &all).ok();
    fs::read_to_string(out.join("file")).unwrap()
}

#[test]
fn a_file_is_sent_again_only_when_it_changed() {
    let bench = Bench::new();
    let content = Arc::new(Mutex::new("one".to_owned()));
    let server = serve_with_marks(&content);
    let context = project(&bench, &format!("FROM scratch\nADD {} /file\n", server.url("/file")));
    let statuses = |server: &Server| {
        let asked = server.requests();
        asked.iter().map(|request| request.header("if-none-match").is_some()).collect::<Vec<_>>()
    };
    assert_eq!(build(&bench, &context, &[]), "one");
    assert_eq!(build(&bench, &context, &[]), "one");
    assert_eq!(build(&bench, &context, &["--no-cache"]), "one");
    assert_eq!(statuses(&server), [false, true, true]);
    "two".clone_into(&mut content.lock().unwrap());
    assert_eq!(build(&bench, &context, &[]), "two");
    // A damaged copy is no copy: the server is asked as if for the first time.
    let blob = bench.path("store/blobs/sha256").join(Digest::of(b"two").hex());
    let time = fs::metadata(&blob).unwrap().modified().unwrap();
    fs::write(&blob, "owt").unwrap();
    assert_eq!(build(&bench, &context, &["--no-cache"]), "two");
    assert_eq!(statuses(&server)[4..], [false]);
    // So it is where the damage shows only when the copy is read.
    fs::write(&blob, "wot").unwrap();
    fs::File::options().write(true).open(&blob).unwrap().set_modified(time).unwrap();
    assert_eq!(build(&bench, &context, &["--no-cache"]), "two");
    assert_eq!(statuses(&server)[5..], [true, false]);
}

#[test]
fn servers_that_only_know_times_are_asked_by_time() {
    let bench = Bench::new();
    let date = "Wed, 21 Oct 2015 07:28:00 GMT";
    let server = Server::start(move |request| match request.header("if-modified-since") {
        Some(asked) if asked == date => Reply::new(304),
        _ => Reply::new(200).header("last-modified", date).body("text"),
    });
    let context = project(&bench, &format!("FROM scratch\nADD {} /file\n", server.url("/file")));
    for _ in 0..2 {
        assert_eq!(build(&bench, &context, &["--no-cache"]), "text");
    }
    assert_eq!(server.requests()[1].header("if-modified-since"), Some(date));
}

#[test]
fn a_file_with_a_checksum_is_asked_for_once() {
    let bench = Bench::new();
    let content = Arc::new(Mutex::new("pinned".to_owned()));
    let server = serve_with_marks(&content);
    let add = |digest: &Digest| {
        let text = format!("FROM scratch\nADD --checksum={digest} {} /file\n", server.url("/file"));
        project(&bench, &text)
    };
    let context = add(&Digest::of(b"pinned"));
    for flags in [&[][..], &[], &["--no-cache"]] {
        assert_eq!(build(&bench, &context, flags), "pinned");
    }
    assert_eq!(server.requests().len(), 1);
    // Another checksum is another file, and a wrong one leaves what is kept as it is.
    bench.build(&add(&Digest::of(b"other")), &[]).fails(1, &["has the digest", "Dockerfile:2"]);
    assert_eq!(server.requests().len(), 2);
    bench
        .build(&add(&Digest::of(b"other")), &["--offline"])
        .fails(1, &["has not kept it, and --offline", "Dockerfile:2"]);
    assert_eq!(build(&bench, &add(&Digest::of(b"pinned")), &["--no-cache", "--offline"]), "pinned");
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn builds_at_the_same_time_fetch_a_pinned_file_once() {
    let bench = Bench::new();
    let server = serve_with_marks(&Arc::new(Mutex::new("pinned".to_owned())));
    let digest = Digest::of(b"pinned");
    let text = format!("FROM scratch\nADD --checksum={digest} {} /file\n", server.url("/file"));
    let context = project(&bench, &text);
    let start = |_| bench.build_command(&context, &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let children: Vec<Child> = (0..3).map(start).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_download_that_breaks_off_is_tried_again() {
    let bench = Bench::new();
    let content = Arc::new(Mutex::new("a text of some length".to_owned()));
    let server = serve_with_marks(&content);
    let context = project(&bench, &format!("FROM scratch\nADD {} /file\n", server.url("/file")));
    server.fault("GET", "/file", 1, Reply::new(200).body("a text of some length").cut_at(6));
    assert_eq!(build(&bench, &context, &[]), "a text of some length");
    // The kept version stays when a later request finds nobody.
    drop(server);
    let ran: Ran = bench.build(&context, &["--no-cache"]);
    ran.fails(1, &["could not add", "cannot fetch"]);
    assert_eq!(build(&bench, &context, &["--no-cache", "--offline"]), "a text of some length");
}

/// A process that ends with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

#[test]
fn commits_are_kept() {
    if !have("git", &["git"]) {
        return;
    }
    let bench = Bench::new();
    let repository = bench.context("project", &[("file", "first\n"), ("sub/file", "sub\n")]);
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(&repository).args(["-c", "user.name=Test", "-c", "user.email=test@example.org"]);
        command.args(words).ran().ok().stdout
    };
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "first"]);
    let commit = git(&["rev-parse", "HEAD"]).trim().to_owned();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let programs = Command::new("git").arg("--exec-path").ran().ok().stdout;
    let daemon = Command::new(Path::new(programs.trim()).join("git-daemon"))
        .args(["--export-all", "--listen=127.0.0.1", &format!("--port={port}"), "--reuseaddr"])
        .arg(format!("--base-path={}", bench.folder.path().display()))
        .arg(bench.folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let daemon = Daemon(daemon);
    wait_for("git", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let url = format!("git://127.0.0.1:{port}/project/.git");
    let pinned = project(&bench, &format!("FROM scratch\nADD {url}#{commit} /\n"));
    let branch = bench.context("branch", &[("Dockerfile", &format!("FROM scratch\nADD {url}#main /\n"))]);
    assert_eq!(build(&bench, &pinned, &[]), "first\n");
    assert_eq!(build(&bench, &branch, &[]), "first\n");
    fs::write(repository.join("file"), "second\n").unwrap();
    git(&["commit", "-q", "-a", "-m", "second"]);
    assert_eq!(build(&bench, &branch, &[]), "second\n", "a branch is looked up again");
    drop(daemon);
    assert_eq!(build(&bench, &pinned, &["--no-cache"]), "first\n", "nobody is asked for a commit that is kept");
    bench.build(&branch, &["--no-cache"]).fails(1, &["could not add", "git"]);
    assert_eq!(build(&bench, &branch, &["--no-cache", "--offline"]), "second\n", "what it was when last asked");
    let unknown = bench.context("unknown", &[("Dockerfile", &format!("FROM scratch\nADD {url}#other /\n"))]);
    bench.build(&unknown, &["--offline"]).fails(1, &["Dockerfile:2", "build once without it"]);
}

/// Nothing changed, and all that comes from elsewhere is pinned: no socket is opened.
#[test]
fn a_pinned_build_without_changes_opens_no_socket() {
    if !have("no sockets", &["strace"]) {
        return;
    }
    let bench = Bench::new();
    let server = serve_with_marks(&Arc::new(Mutex::new("pinned".to_owned())));
    let digest = Digest::of(b"pinned");
    let text = format!("FROM busybox\nADD --checksum={digest} {} /file\nRUN cat /file\n", server.url("/file"));
    let context = project(&bench, &text);
    bench.build(&context, &[]).ok();
    let trace = bench.path("trace");
    let command = bench.build_command(&context, &[]);
    let mut traced = support::clean_command("strace");
    traced.args(["-f", "-e", "trace=socket,connect", "-o"]).arg(&trace).arg(command.get_program());
    traced.args(command.get_args()).ran().ok().says(&["CACHED"]);
    let trace = fs::read_to_string(trace).unwrap();
    assert!(trace.contains("exited with 0") && !trace.contains("AF_INET"), "{trace}");
    assert_eq!(server.requests().len(), 1);
}
