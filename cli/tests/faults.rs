//! Bad input: what is said, and with which exit status.

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use support::{Bench, Ran, Registry, RunCommand, clean_command, have, is_root};

/// Builds a Dockerfile beside `files`, which must fail and leave no image and nothing in progress.
fn failing(bench: &Bench, dockerfile: &str, files: &[(&str, &str)], flags: &[&str]) -> Ran {
    let _ = fs::remove_dir_all(bench.path("context"));
    let context = bench.context("context", files);
    fs::write(context.join("Dockerfile"), dockerfile).expect("write");
    let output = bench.path("out.tar");
    let mut all = vec!["-t", "example/broken:1"];
    let written = format!("type=oci,dest={}", output.display());
    all.extend(["-o", &written]);
    all.extend(flags);
    let ran = bench.build(&context, &all);
    assert_ne!(ran.code, 0, "{}", ran.stderr);
    assert!(!output.exists(), "a half-written output");
    nothing_left(bench);
    ran
}

fn nothing_left(bench: &Bench) {
    let temporary = bench.path("store/tmp");
    if temporary.exists() {
        let left: Vec<_> = fs::read_dir(temporary).expect("readable").filter_map(Result::ok).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let index = fs::read_to_string(bench.path("store/index.json")).unwrap_or_default();
    assert!(!index.contains("example/broken"), "{index}");
    let beside: Vec<_> = fs::read_dir(bench.folder.path())
        .expect("readable")
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| name.contains("out.tar"))
        .collect();
    assert!(beside.is_empty(), "{beside:?}");
}

#[test]
fn what_is_missing_is_named() {
    let bench = Bench::new();
    let empty = bench.context("empty", &[]);
    fs::create_dir_all(&empty).expect("folder");
    bench.build(&empty, &[]).fails(2, &["there is no `Dockerfile` in", "hint: name another file with -f"]);
    bench.build(&empty, &["-f", "other"]).fails(2, &["other"]);
    bench.build(&bench.path("absent"), &[]).fails(2, &["the build context", "absent", "does not exist"]);
    failing(&bench, "FROM scratch\nCOPY main.cc /\n", &[("main.c", "")], &[])
        .fails(1, &["could not copy `main.cc`", "Dockerfile:2:6", "`main.cc` was not found", "did you mean `main.c`?"]);
    failing(
        &bench,
        "FROM scratch\nCOPY data/notes.txt /\n",
        &[("data/notes.txt", ""), (".dockerignore", "# all\n*.txt\ndata/*.txt\n")],
        &[],
    )
    .fails(1, &["`data/notes.txt` was not found", ".dockerignore:3"]);
    failing(&bench, "FROM busybox\nCOPY --from=buidl /a /b\nFROM busybox AS build\n", &[], &["--target=nope"])
        .fails(1, &["nope"]);
}

#[test]
fn errors_of_the_text_show_the_line() {
    let bench = Bench::new();
    failing(&bench, "FROM busybox\n\nRUNN echo\nCOPPY a b\n", &[], &[]).fails(
        1,
        &[
            "unknown instruction: RUNN",
            "Dockerfile:3:1",
            "3 | RUNN echo",
            "^^^^",
            "did you mean `RUN`?",
            "COPPY",
            "`COPY`",
        ],
    );
    failing(&bench, "", &[], &[]).fails(1, &["Dockerfile"]);
    failing(&bench, "RUN true\n", &[], &[]).fails(1, &["FROM"]);
}

#[test]
fn failing_commands_keep_their_status_and_last_words() {
    let bench = Bench::new();
    let text = "FROM busybox\nRUN echo begun; echo gone wrong >&2; \\\n    exit 42\n";
    failing(&bench, text, &[], &[]).fails(
        42,
        &["exit status 42", "Dockerfile:2:1", "RUN echo begun", "the last lines of its output", "    gone wrong"],
    );
    failing(&bench, "FROM busybox\nRUN nosuchprogram\n", &[], &[])
        .fails(1, &["nosuchprogram: not found", "exit status 127", "Dockerfile:2:1"]);
    failing(&bench, "FROM busybox\nRUN [\"/no/such/program\"]\n", &[], &[])
        .fails(1, &["`/no/such/program` was not found", "Dockerfile:2:1"]);
    failing(&bench, "FROM busybox\nRUN kill -9 $$\n", &[], &[]).fails(1, &["signal 9", "Dockerfile:2:1"]);
    failing(&bench, "FROM busybox\nUSER nobodyhere\nRUN true\n", &[], &[]).fails(1, &["nobodyhere"]);
}

/// The steps before and beside a failing one are kept.
#[test]
fn failing_commands_come_with_what_to_do() {
    let bench = Bench::new();
    for (lines, hint) in [
        ("RUN [\"echo\", \"a\" \"b\"]", "hint: this is no JSON array, so a shell got it as it stands"),
        ("RUN --mount=type=secret,id=tok cat /run/secrets/tok", "hint: the secret `tok` was not given: hand it over"),
        ("RUN exit 137", "hint: a program was killed"),
        ("USER nobody-here\nRUN id", "hint: USER or the base image chose it"),
    ] {
        let ran = failing(&bench, &format!("FROM busybox\n{lines}\n"), &[], &[]);
        assert!(ran.stderr.contains(hint), "{lines}: {}", ran.stderr);
    }
}

#[test]
fn what_was_done_before_a_failure_is_not_done_again() {
    let bench = Bench::new();
    let text = "FROM busybox\nRUN echo once\nRUN false\n";
    failing(&bench, text, &[], &[]).fails(1, &["exit status 1"]);
    failing(&bench, text, &[], &[]).fails(1, &["#1 CACHED"]);
}

#[test]
fn registries_that_cannot_help() {
    let bench = Bench::new();
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let text = format!("FROM localhost:{port}/team/base:1\nRUN true\n");
    failing(&bench, &text, &[], &[]).fails(1, &[&format!("localhost:{port}/team/base:1"), "refused"]);
    if !have("unknown base", &["docker-registry"]) {
        return;
    }
    let registry = Registry::start(&bench.path("registry"));
    let text = format!("FROM {}/team/absent:1\nRUN true\n", registry.host);
    failing(&bench, &text, &[], &[]).fails(1, &["team/absent:1", "Dockerfile:1:6", "manifest unknown"]);
}

#[test]
fn corrupt_layers_of_a_base_are_refused() {
    let bench = Bench::new();
    let blobs = bench.path("busybox/blobs/sha256");
    let largest = fs::read_dir(&blobs)
        .expect("blobs")
        .filter_map(Result::ok)
        .max_by_key(|entry| entry.metadata().map(|m| m.len()).unwrap_or(0))
        .expect("a blob")
        .path();
    let mut bytes = fs::read(&largest).expect("layer");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&largest, &bytes).expect("write");
    let digest = largest.file_name().expect("named").to_string_lossy().into_owned();
    for isolation in ["--isolation=auto", "--isolation=chroot"] {
        if isolation.ends_with("chroot") && !is_root("corrupt layer with chroot") {
            return;
        }
        failing(&bench, "FROM busybox\nRUN true\n", &[], &[isolation]).fails(1, &[&digest[..12]]);
    }
    failing(&bench, "FROM busybox\nCMD x\n", &[], &[]).fails(1, &[&digest[..12]]);
    bytes.truncate(middle);
    fs::write(&largest, &bytes).expect("write");
    failing(&bench, "FROM busybox\nRUN true\n", &[], &[]).fails(1, &[&digest[..12]]);
}

#[test]
fn flags_that_cannot_be_meant() {
    let bench = Bench::new();
    let context = bench.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    for (flags, texts) in [
        (&["--wrong"][..], &["--wrong"][..]),
        (&["-o", "type=foo"], &["unknown type `foo`"]),
        (&["--platform=a/b/c/d"], &["a/b/c/d"]),
        (&["--jobs=0"], &["--jobs"]),
        (&["--network=moon"], &["moon"]),
        (&["--secret", "src=x"], &["--secret"]),
        (&["-t", "team/CASE"], &["team/CASE"]),
        (&["--build-context", "x"], &["--build-context"]),
        (&["--isolation=vm"], &["vm"]),
    ] {
        bench.build(&context, flags).fails(2, texts);
    }
}

#[test]
fn outputs_that_cannot_be_written() {
    let bench = Bench::new();
    let context = bench.context("context", &[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]);
    let file = bench.path("file");
    fs::write(&file, "").expect("write");
    let below = format!("{}/x", file.display());
    for output in [
        format!("type=oci,dest={below}.tar"),
        format!("type=local,dest={below}"),
        format!("type=docker,dest={below}.tar"),
    ] {
        let ran = bench.build(&context, &["-o", &output]);
        assert!(matches!(ran.code, 1 | 3), "{ran:?}");
        ran.says(&[&below]);
    }
    let ran = bench.build(&context, &["--iidfile", &below]);
    assert!(matches!(ran.code, 1 | 3), "{ran:?}");
    ran.says(&[&below]);
    let mut store = clean_command(env!("CARGO_BIN_EXE_rbuild"));
    let ran = store.arg("--root").arg(&below).arg("build").arg(&context).ran();
    ran.fails(3, &[&below]);
}

#[test]
fn context_files_that_cannot_be_read() {
    if !have("unreadable file", &["setpriv", "newuidmap"]) || !is_root("unreadable file") {
        return;
    }
    let bench = Bench::new();
    let user = bench.user();
    let context = bench.context("context", &[("Dockerfile", "FROM scratch\nCOPY . /\n"), ("deep/key", "x")]);
    fs::set_permissions(context.join("deep/key"), fs::Permissions::from_mode(0o600)).expect("mode");
    user.build_command(&bench, &context, &[]).ran().fails(1, &["deep/key", "Permission denied", "Dockerfile:2:1"]);
    fs::set_permissions(context.join("deep"), fs::Permissions::from_mode(0o700)).expect("mode");
    user.build_command(&bench, &context, &[]).ran().fails(1, &["deep", "Permission denied"]);
    fs::write(context.join(".dockerignore"), "deep\n").expect("write");
    user.build_command(&bench, &context, &[]).ran().ok();
    fs::set_permissions(context.join("Dockerfile"), fs::Permissions::from_mode(0o600)).expect("mode");
    user.build_command(&bench, &context, &[]).ran().fails(1, &["could not read `Dockerfile`", "Permission denied"]);
}

/// A small disk for a store, gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(folder: &Path) -> Option<Self> {
        fs::create_dir_all(folder).expect("folder");
        let ran = clean_command("mount").args(["-t", "tmpfs", "-o", "size=12m,mode=755", "tmpfs"]).arg(folder).ran();
        (ran.code == 0).then(|| Self(folder.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        clean_command("umount").arg("-l").arg(&self.0).ran();
    }
}

#[test]
fn full_disks_are_told_and_mended() {
    if !is_root("full disk") {
        return;
    }
    let bench = Bench::new();
    let Some(disk) = SmallDisk::new(&bench.path("disk")) else {
        eprintln!("skipped: full disk cannot mount a tmpfs");
        return;
    };
    let big: String = (0..2_000_000u64).map(|n| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    let context = bench.context(
        "context",
        &[
            (
                "Dockerfile",
                "FROM busybox\nCOPY small /\nRUN head -c 3000000 /dev/urandom > /random; echo made > /made\n",
            ),
            ("Dockerfile.copy", "FROM scratch\nCOPY big /\n"),
            ("small", "small"),
            ("big", &big),
        ],
    );
    let store = disk.0.join("store");
    let build = |dockerfile: &str| {
        let mut command = clean_command(env!("CARGO_BIN_EXE_rbuild"));
        command.arg("--root").arg(&store).args(["build", "--progress=plain", "-t", "small", "--build-context"]);
        command.arg(format!("busybox=oci-layout://{}", bench.path("busybox").display()));
        command.arg("-f").arg(context.join(dockerfile)).arg(&context).ran()
    };
    build("Dockerfile.copy").fails(3, &["No space left on device"]);
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![0; 9 << 20]).expect("room");
    let ran = build("Dockerfile");
    assert_ne!(ran.code, 0, "{ran:?}");
    ran.says(&["No space left on device"]);
    let left: Vec<_> = fs::read_dir(store.join("tmp")).expect("tmp").filter_map(Result::ok).collect();
    assert!(left.is_empty(), "{left:?}");
    fs::remove_file(&ballast).expect("remove");
    build("Dockerfile").ok();
    let mut run = clean_command(env!("CARGO_BIN_EXE_rbuild"));
    assert_eq!(run.arg("--root").arg(&store).args(["run", "small", "cat", "/made"]).ran().ok().stdout, "made\n");
}
