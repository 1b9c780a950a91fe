//! Build contexts that are no folder: archives and Dockerfiles on standard input, git, HTTP.

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::UNIX_EPOCH;

use support::{Bench, Ran, RunCommand, have, ran_with_input, wait_for};

const DOCKERFILE: &str = "FROM busybox\nCOPY text /text\nRUN cat /text > /copy\n";

fn project(bench: &Bench) -> std::path::PathBuf {
    bench.context(
        "project",
        &[("Dockerfile", DOCKERFILE), ("text", "text\n"), ("sub/Dockerfile", DOCKERFILE), ("sub/text", "sub\n")],
    )
}

fn archive(folder: &Path, flag: &str) -> Vec<u8> {
    let output = Command::new("tar").args(["-c", flag, "-f", "-", "-C"]).arg(folder).arg(".").output().expect("tar");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

fn build_from(bench: &Bench, context: &str, flags: &[&str], input: &[u8]) -> Ran {
    let mut all = vec!["-t", "source"];
    all.extend(flags);
    ran_with_input(&mut bench.build_command(Path::new(context), &all), input)
}

/// Fails the test unless the image says that it was made at this time, seconds since 1970.
fn made_at(bench: &Bench, seconds: i64) {
    let time = jiff::Timestamp::from_second(seconds).expect("a time");
    let told = bench.rbuild().args(["inspect", "source"]).ran().ok().stdout;
    assert!(told.contains(&format!("\"created\": \"{time}\"")), "{time} is not in {told}");
}

fn holds(bench: &Bench, text: &str) {
    assert_eq!(bench.rbuild().args(["run", "source", "cat", "/copy"]).ran().ok().stdout, text);
}

#[test]
fn archives_on_standard_input() {
    let bench = Bench::new();
    let project = project(&bench);
    for (flag, program) in [("--sparse", "tar"), ("-z", "gzip"), ("-j", "bzip2"), ("-J", "xz"), ("--zstd", "zstd")] {
        if have(&format!("archive by {program}"), &[program]) {
            build_from(&bench, "-", &["--no-cache"], &archive(&project, flag)).ok();
            holds(&bench, "text\n");
        }
    }
    build_from(&bench, "-", &["-f", "sub/Dockerfile"], &archive(&project, "-z")).ok();
    build_from(&bench, "-", &["--build-arg", "SOURCE_DATE_EPOCH=context"], &archive(&project, "--mtime=@1234567890"))
        .ok();
    made_at(&bench, 1_234_567_890);
    let mut torn = archive(&project, "-z");
    torn.truncate(torn.len() / 2);
    build_from(&bench, "-", &[], &torn).fails(1, &["the build context's archive", "incomplete"]);
}

#[test]
fn dockerfiles_on_standard_input() {
    let bench = Bench::new();
    let project = project(&bench);
    build_from(&bench, "-", &[], b"FROM busybox\nRUN echo alone > /copy\n").ok();
    holds(&bench, "alone\n");
    build_from(&bench, &project.display().to_string(), &["-f", "-"], DOCKERFILE.as_bytes()).ok();
    holds(&bench, "text\n");
    build_from(&bench, "-", &[], b"").fails(1, &["standard input"]);
    build_from(&bench, "-", &[], b"FROM busybox\nRUNN x\n").fails(1, &["unknown instruction", "2 | RUNN x"]);
    build_from(&bench, "-", &["-f", "-"], b"FROM busybox\n").fails(2, &["standard input"]);
}

/// A process that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

fn serve(command: &mut Command, port: u16) -> Server {
    let server = Server(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts"));
    wait_for("the server", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    server
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

#[test]
fn repositories_of_git() {
    if !have("git", &["git"]) {
        return;
    }
    let bench = Bench::new();
    let project = project(&bench);
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(&project).args(["-c", "user.name=Test", "-c", "user.email=test@example.org"]);
        command.args(words).ran().ok();
    };
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "first"]);
    git(&["tag", "v1"]);
    fs::write(project.join("text"), "later\n").expect("write");
    git(&["commit", "-q", "-a", "-m", "second"]);
    let port = free_port();
    // Not `git daemon`, which would leave its child behind when it is killed.
    let programs = Command::new("git").arg("--exec-path").ran().ok().stdout;
    let _server = serve(
        Command::new(Path::new(programs.trim()).join("git-daemon"))
            .args(["--export-all", "--listen=127.0.0.1", &format!("--port={port}"), "--reuseaddr"])
            .arg(format!("--base-path={}", bench.folder.path().display()))
            .arg(bench.folder.path()),
        port,
    );
    let url = format!("git://127.0.0.1:{port}/project/.git");
    for (suffix, text) in [
        ("", "later\n"),
        ("#v1", "text\n"),
        ("#main:sub", "sub\n"),
        ("?tag=v1", "text\n"),
        ("?branch=main&subdir=sub", "sub\n"),
    ] {
        build_from(&bench, &format!("{url}{suffix}"), &[], b"").ok();
        holds(&bench, text);
    }
    let looks = b"FROM busybox\nCOPY . /all\nRUN if [ -d /all/.git ]; then echo kept; else echo left; fi > /copy\n";
    let keep = ["-f", "-", "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"];
    for (suffix, flags, text) in [
        ("", &keep[..], "kept\n"),
        ("", &keep[..2], "left\n"),
        ("?keep-git-dir=false", &keep, "left\n"),
        ("?keep-git-dir=true", &keep[..2], "kept\n"),
    ] {
        build_from(&bench, &format!("{url}{suffix}"), flags, looks).ok();
        holds(&bench, text);
    }
    let committed = Command::new("git").arg("-C").arg(&project).args(["show", "-s", "--format=%ct", "v1"]).ran().ok();
    let named = format!("source={url}#v1");
    let stage = format!("FROM scratch AS source\nARG AT=v1\nADD {url}#$AT /\nFROM scratch\nLABEL a=b\n");
    let alone = b"FROM scratch\nLABEL a=b\n";
    for (context, flags, input) in [
        (format!("{url}#v1"), vec!["--build-arg", "SOURCE_DATE_EPOCH=context"], &b""[..]),
        ("-".to_owned(), vec!["--build-context", &named, "--build-arg", "SOURCE_DATE_EPOCH=Source"], alone),
        ("-".to_owned(), vec!["--build-arg", "SOURCE_DATE_EPOCH=SOURCE"], stage.as_bytes()),
    ] {
        build_from(&bench, &context, &flags, input).ok();
        made_at(&bench, committed.stdout.trim().parse().expect("a number"));
    }
    build_from(&bench, &format!("{url}#v9"), &[], b"").fails(1, &["v9"]);
    build_from(&bench, &format!("git://127.0.0.1:{port}/absent.git"), &[], b"").fails(1, &["absent.git"]);
}

#[test]
fn archives_over_http() {
    if !have("http", &["python3"]) {
        return;
    }
    let bench = Bench::new();
    let project = project(&bench);
    let served = bench.context("served", &[("Dockerfile.alone", "FROM busybox\nRUN echo alone > /copy\n")]);
    fs::write(served.join("project.tar.gz"), archive(&project, "-z")).expect("write");
    let port = free_port();
    let _server = serve(
        Command::new("python3")
            .args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string()])
            .current_dir(&served),
        port,
    );
    let url = format!("http://127.0.0.1:{port}");
    build_from(&bench, &format!("{url}/project.tar.gz"), &[], b"").ok();
    holds(&bench, "text\n");
    build_from(&bench, &format!("{url}/Dockerfile.alone"), &[], b"").ok();
    holds(&bench, "alone\n");
    let changed = served.join("project.tar.gz").metadata().and_then(|m| m.modified()).expect("it is there");
    let changed = changed.duration_since(UNIX_EPOCH).expect("after 1970").as_secs().try_into().expect("of this age");
    build_from(&bench, &format!("{url}/project.tar.gz"), &["--build-arg", "SOURCE_DATE_EPOCH=context"], b"").ok();
    made_at(&bench, changed);
    build_from(&bench, &format!("{url}/absent.tar.gz"), &[], b"").fails(1, &["absent.tar.gz", "404"]);
    build_from(&bench, &format!("http://127.0.0.1:{}/x.tar", free_port()), &[], b"").fails(1, &["refused"]);
}
