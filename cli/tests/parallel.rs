//! Steps that run at the same time: what bounds them.

mod support;

use std::fs;

use support::Bench;

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
        command.env("XDG_RUNTIME_DIR", &session).stderr(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::null()).spawn().expect("rbuild starts")
    };
    let children: Vec<_> = (0..4).map(start).collect();
    for child in children {
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(session.join("rbuild").is_dir(), "the tokens lie in the session's folder");
}
