//! Steps that run at the same time: what bounds them.

mod support;

use std::fs;
use std::path::Path;
use std::process::Stdio;

use support::{Bench, wait_for};

/// The largest peak that a step record of the store tells.
fn recorded_peak(bench: &Bench) -> u64 {
    let texts = fs::read_dir(bench.path("store/steps")).expect("records").map(|entry| {
        let path = entry.expect("an entry").path();
        String::from_utf8_lossy(&fs::read(path).expect("a record")).into_owned()
    });
    let peak = |text: String| {
        let (_, rest) = text.split_once("\"peak_bytes\":")?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
    };
    texts.filter_map(peak).max().expect("a step was recorded")
}

#[test]
fn the_memory_of_a_command_is_recorded() {
    let bench = Bench::new();
    let text = "FROM busybox\nRUN x=$(head -c 90000000 /dev/zero | tr '\\0' a); echo ${#x}\n";
    let context = bench.context("context", &[("Dockerfile", text)]);
    bench.build(&context, &[]).ok().says(&["90000000"]);
    let peak = recorded_peak(&bench);
    assert!((90_000_000..2_000_000_000).contains(&peak), "{peak}");
}

/// Stages that could run at once, in builds that share their tokens: all end, whatever the others hold.
#[test]
fn builds_that_share_tokens_all_end() {
    let bench = Bench::new();
    let session = bench.context("session", &[]);
    let start = |build: usize| {
        let stages: String =
            (0..4).map(|stage| format!("FROM busybox AS s{stage}\nRUN echo {build} {stage} > /f{stage}\n")).collect();
        let copies: String = (0..4).map(|stage| format!("COPY --from=s{stage} /f{stage} /\n")).collect();
        let text = format!("{stages}FROM busybox\n{copies}");
        let context = bench.context(&format!("context{build}"), &[("Dockerfile", &text)]);
        let mut command = bench.build_command(&context, &["--jobs=3"]);
        command.env("XDG_RUNTIME_DIR", &session).stderr(Stdio::piped());
        command.stdout(Stdio::null()).spawn().expect("rbuild starts")
    };
    let children: Vec<_> = (0..4).map(start).collect();
    for child in children {
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(session.join("rbuild").is_dir(), "the tokens lie in the session's folder");
}

/// Whether a file of that name lies somewhere below a folder.
fn is_below(folder: &Path, name: &str) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.filter_map(Result::ok).any(|entry| entry.file_name() == name || is_below(&entry.path(), name))
}

/// Two stages, each of which goes on only when the other one runs too, and then does `last`.
fn meeting(bench: &Bench, name: &str, last: &str) -> std::process::Child {
    let stage = |own: u8, other: u8| {
        let meet = format!(
            "touch /c/{name}{own}; n=0; until [ -e /c/{name}{other} ]; do n=$((n+1)); [ $n -lt 600 ] || exit 9; sleep 0.1; done"
        );
        format!("FROM busybox AS s{own}\nRUN --mount=type=cache,target=/c,id=meet {meet}; {last}\n")
    };
    let text = format!("{}{}FROM busybox\nCOPY --from=s1 /bin /x\nCOPY --from=s2 /bin /y\n", stage(1, 2), stage(2, 1));
    let context = bench.context(name, &[("Dockerfile", &text)]);
    let mut command = bench.build_command(&context, &["--jobs=2"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("rbuild starts")
}

#[test]
fn a_killed_build_gives_its_tokens_back() {
    let bench = Bench::new();
    let mut killed = meeting(&bench, "killed", "touch /c/met; sleep 1000");
    wait_for("both stages", || is_below(&bench.path("store/mounts"), "met"));
    killed.kill().expect("kill");
    killed.wait().expect("wait");
    let output = meeting(&bench, "next", "true").wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The sizes of a store's blobs.
fn blob_sizes(store: &Path) -> Vec<u64> {
    let blobs = fs::read_dir(store.join("blobs/sha256")).expect("blobs");
    blobs.map(|blob| blob.expect("an entry").metadata().expect("status").len()).collect()
}

/// A command that fails at once ends the build long before the layer below it could be compressed, which would take
/// the slowest level many seconds.
#[test]
fn a_command_does_not_wait_for_the_layer_below_it_to_be_compressed() {
    const LARGE: u64 = 10_000_000;
    let bench = Bench::new();
    let context = bench.context("context", &[]);
    let mut state = 1_u64;
    let mut digit = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        b'0' + (state >> 33) as u8 % 10
    };
    let digits: Vec<u8> = (0..30_000_000).map(&mut digit).collect();
    fs::write(context.join("data"), &digits).expect("data");
    let build = |command: &str, compression: &str| {
        let text = format!("FROM busybox\nCOPY data /\nRUN {command}\n");
        fs::write(context.join("Dockerfile"), text).expect("Dockerfile");
        let output = format!("--output=type=oci,dest={},{compression}", bench.path("image.tar").display());
        bench.build(&context, &[&output])
    };
    build("echo it failed; exit 7", "compression=zstd,compression-level=22").fails(7, &["it failed"]);
    assert!(blob_sizes(&bench.path("store")).iter().all(|size| *size < LARGE));
    build("ls data", "compression=zstd,compression-level=1").ok();
    assert!(blob_sizes(&bench.path("store")).iter().any(|size| *size > LARGE));
}
