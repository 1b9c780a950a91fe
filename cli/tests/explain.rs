//! What rbuild says about its cache: why a step is done, what a build would do, and what it must not do.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::{Bench, RunCommand, have, is_root};

const EPOCH: &str = "1700000000";

/// A context with a build of it in the store.
struct Built {
    bench: Bench,
    context: PathBuf,
}

impl Built {
    fn new(files: &[(&str, &str)], flags: &[&str]) -> Self {
        let bench = Bench::new();
        let context = bench.context("context", files);
        let built = Self { bench, context };
        built.build(flags);
        built
    }

    fn build(&self, flags: &[&str]) -> String {
        self.bench.build_command(&self.context, flags).env("SOURCE_DATE_EPOCH", EPOCH).ran().ok().stderr
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.context.join(path), text).expect("write");
    }

    /// `rbuild why STEP CONTEXT FLAGS --format json`.
    fn why(&self, step: &str, flags: &[&str]) -> Value {
        let mut command = self.bench.rbuild();
        command.args(["why", step]).arg(&self.context).args(flags).args(["--format", "json"]);
        let answers: Value = serde_json::from_str(&command.ran().ok().stdout).expect("JSON");
        assert_eq!(answers.as_array().map(Vec::len), Some(1), "{answers}");
        answers[0].clone()
    }

    fn plan_command(&self, flags: &[&str]) -> Command {
        let mut command = self.bench.rbuild();
        command.args(["plan", "--build-context"]);
        command.arg(format!("busybox=oci-layout://{}", self.bench.path("busybox").display()));
        command.args(flags).arg(&self.context).env("SOURCE_DATE_EPOCH", EPOCH);
        command
    }

    /// `rbuild plan --format json`, whose status must agree with what it says.
    fn plan(&self, flags: &[&str]) -> Value {
        let ran = self.plan_command(&[&["--format", "json"], flags].concat()).ran();
        let plan: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        assert_eq!(ran.code, if plan["cached"] == true { 0 } else { 3 }, "{plan}");
        plan
    }

    /// What the build's output says of the step with this number.
    fn said(output: &str, step: usize) -> &str {
        let prefix = format!("#{step} not cached: ");
        let found = output.lines().find_map(|line| line.strip_prefix(&prefix));
        found.unwrap_or_else(|| panic!("step {step} says no reason:\n{output}"))
    }
}

const DOCKERFILE: &str = "FROM busybox AS made\n\
    RUN mkdir /made && echo x > /made/f && chown 0:0 /made/f\n\
    FROM busybox\n\
    ARG VERSION=1\n\
    ENV MODE=fast\n\
    COPY src /src\n\
    RUN echo $VERSION > /version\n\
    COPY --from=made /made /made\n\
    RUN <<EOF\n\
    echo one > /one\n\
    EOF\n";

/// A cause of a miss: how it comes about, which step it is told of, and what is told.
struct Case {
    name: &'static str,
    /// Makes the change, and gives the flags of the build that meets it.
    change: fn(&Built) -> Vec<String>,
    step: usize,
    /// The kind of the first cause, and a field of it with the beginning of its value.
    cause: (&'static str, &'static str, &'static str),
    text: &'static str,
}

fn edit(built: &Built, from: &str, to: &str) -> Vec<String> {
    assert!(DOCKERFILE.contains(from), "{from}");
    built.write("Dockerfile", &DOCKERFILE.replace(from, to));
    Vec::new()
}

/// A capability as the kernel keeps it with a file: version 2, `CAP_NET_BIND_SERVICE` permitted.
fn capability() -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[3] = 2;
    bytes[5] = 4;
    bytes
}

/// Another base image, as if its tag had been moved.
fn other_base(built: &Built) -> Vec<String> {
    let context = built.bench.context("base", &[("Dockerfile", "FROM busybox\nRUN echo new > /new\n")]);
    let output = format!("type=oci,tar=false,dest={}", built.bench.path("other").display());
    built.bench.build(&context, &["-o", &output]).ok();
    vec!["--build-context".to_owned(), format!("busybox=oci-layout://{}", built.bench.path("other").display())]
}

#[rustfmt::skip]
const CASES: [Case; 12] = [
    Case {
        name: "content", step: 2, cause: ("files", "change", "content"), text: "content of `src/a`",
        change: |built| { built.write("src/a", "other"); Vec::new() },
    },
    Case {
        name: "mode", step: 2, cause: ("files", "change", "mode"), text: "mode of `src/a` 0644 -> 0755",
        change: |built| {
            fs::set_permissions(built.context.join("src/a"), fs::Permissions::from_mode(0o755)).expect("mode");
            Vec::new()
        },
    },
    Case {
        name: "owner", step: 4, cause: ("files", "change", "owner"), text: "owner of `made/f` 0:0 -> 1:2",
        change: |built| edit(built, "chown 0:0", "chown 1:2"),
    },
    Case {
        name: "xattr", step: 2, cause: ("files", "change", "xattr"),
        text: "extended attributes of `src/b` unset -> security.capability=",
        change: |built| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(built.context.join("src/b"), "security.capability", &capability(), flags).expect("set");
            Vec::new()
        },
    },
    Case {
        name: "renamed", step: 2, cause: ("files", "change", "renamed"), text: "renamed: `src/a` -> `src/c`",
        change: |built| {
            fs::rename(built.context.join("src/a"), built.context.join("src/c")).expect("rename");
            Vec::new()
        },
    },
    Case {
        name: "added", step: 2, cause: ("files", "change", "added"), text: "added: `src/c`",
        change: |built| { built.write("src/c", "new"); Vec::new() },
    },
    Case {
        name: "removed", step: 2, cause: ("files", "change", "removed"), text: "removed: `src/b`",
        change: |built| { fs::remove_file(built.context.join("src/b")).expect("remove"); Vec::new() },
    },
    Case {
        name: "ARG", step: 3, cause: ("variable", "kind", "ARG"), text: "ARG VERSION changed: `1` -> `2`",
        change: |_| vec!["--build-arg".to_owned(), "VERSION=2".to_owned()],
    },
    Case {
        name: "ENV", step: 3, cause: ("variable", "kind", "ENV"), text: "ENV MODE changed: `fast` -> `slow`",
        change: |built| edit(built, "MODE=fast", "MODE=slow"),
    },
    Case {
        name: "base digest", step: 2, cause: ("base-image", "now", "sha256:"), text: "the base image changed: `sha256:",
        change: other_base,
    },
    Case {
        name: "instruction text", step: 3, cause: ("instruction", "now", "RUN echo v$VERSION > /version"),
        text: "the instruction changed: `RUN echo $VERSION > /version` -> `RUN echo v$VERSION > /version`",
        change: |built| edit(built, "echo $VERSION >", "echo v$VERSION >"),
    },
    Case {
        name: "heredoc body", step: 5, cause: ("heredoc", "now", "echo two > /one"),
        text: "line 1 of the heredoc `EOF` changed: `echo one > /one` -> `echo two > /one`",
        change: |built| edit(built, "echo one", "echo two"),
    },
];

#[test]
fn every_cause_of_a_miss_is_named() {
    if !is_root("every_cause_of_a_miss_is_named") {
        return;
    }
    for case in CASES {
        let bench = Bench::new();
        let context = bench.context("context", &[("Dockerfile", DOCKERFILE), ("src/a", "a"), ("src/b", "b")]);
        // Only programs are looked at for capabilities.
        fs::set_permissions(context.join("src/b"), fs::Permissions::from_mode(0o755)).expect("mode");
        let built = Built { bench, context };
        built.build(&[]);
        let flags = (case.change)(&built);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let plan = built.plan(&flags);
        let output = built.build(&flags);
        let said = Built::said(&output, case.step);
        assert!(said.starts_with(case.text), "{}: the build says: {said}", case.name);
        // What another stage will hand over is not known before that was built.
        let planned = if case.name == "owner" { ("depends", Value::Null) } else { ("runs", Value::from(said)) };
        let step = &plan["steps"][case.step - 1];
        assert_eq!((&step["outlook"], &step["miss"]), (&planned.0.into(), &planned.1), "{}: plan", case.name);
        let why = built.why(&case.step.to_string(), &[]);
        assert_eq!(why["miss"], said, "{}: why", case.name);
        let (kind, field, value) = case.cause;
        let cause = &why["causes"][0];
        assert_eq!(cause["cause"], kind, "{}: {why}", case.name);
        assert!(cause[field].as_str().is_some_and(|text| text.starts_with(value)), "{}: {why}", case.name);
    }
}

/// How each step ended, as a build's output tells it.
fn ends(output: &str) -> Vec<String> {
    let mut ends = Vec::new();
    for step in 1.. {
        let prefix = format!("#{step} ");
        let mut words = output.lines().filter_map(|line| line.strip_prefix(&prefix)?.split(' ').next());
        match words.find(|word| ["CACHED", "DONE", "FAILED"].contains(word)) {
            Some(word) => ends.push(word.to_owned()),
            None => break,
        }
    }
    ends
}

#[test]
fn plan_says_what_the_build_does() {
    let dockerfile = "FROM busybox AS one\n\
        COPY a /a\n\
        RUN cat /a > /b\n\
        FROM busybox AS two\n\
        COPY --link c /c\n\
        RUN echo two > /two\n\
        FROM busybox\n\
        COPY --from=two /two /two\n\
        COPY --from=one /b /b\n\
        COPY --link c /d\n\
        RUN cat /b /two > /e\n";
    let files = [("Dockerfile", dockerfile), ("a", "a"), ("c", "c")];
    let bench = Bench::new();
    let context = bench.context("context", &files);
    let built = Built { bench, context };
    let outlooks = |plan: &Value| -> Vec<String> {
        let steps = plan["steps"].as_array().expect("steps");
        steps.iter().map(|step| step["outlook"].as_str().expect("outlook").to_owned()).collect()
    };
    // Nothing is done by looking.
    for _ in 0..2 {
        let plan = built.plan(&[]);
        assert_eq!(plan["steps"][0]["miss"], "never built", "{plan}");
        let (runs, depends) = ("runs", "depends");
        assert_eq!(outlooks(&plan), [runs, depends, runs, depends, depends, depends, runs, depends], "{plan}");
    }
    built.build(&[]);
    let plan = built.plan(&[]);
    assert_eq!((&plan["cached"], outlooks(&plan)), (&Value::Bool(true), vec!["cached".to_owned(); 8]));
    let text = built.plan_command(&[]).ran().ok().stdout;
    assert!(text.ends_with("8 steps, all cached\n"), "{text}");

    built.write("a", "other");
    let plan = built.plan(&[]);
    let cached = "cached";
    assert_eq!(outlooks(&plan), ["runs", "depends", cached, cached, cached, "depends", cached, "depends"], "{plan}");
    assert!(plan["last_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{plan}");
    let ran = built.plan_command(&[]).ran();
    assert_eq!(ran.code, 3);
    assert!(
        ran.stdout.contains("content of `a`") && ran.stdout.contains("depends on an earlier step"),
        "{}",
        ran.stdout
    );
    let output = built.build(&[]);
    let (done, hit) = ("DONE", "CACHED");
    assert_eq!(ends(&output), [done, done, hit, hit, hit, done, hit, done], "{output}");
}

#[test]
fn steps_that_give_the_same_again_keep_the_rest() {
    let dockerfile =
        "FROM busybox\nCOPY a /a\nRUN wc -l < /a > /b && rm /a\nFROM busybox\nCOPY --from=0 /b /b\nRUN cat /b > /c\n";
    let built = Built::new(&[("Dockerfile", dockerfile), ("a", "1\n")], &[]);
    built.write("a", "2\n");
    let output = built.build(&[]);
    assert_eq!(ends(&output), ["DONE", "DONE", "CACHED", "CACHED"], "{output}");
    let why = built.why("2", &[]);
    assert_eq!((&why["end"], &why["miss"]), (&"unchanged".into(), &"an earlier step gave another result".into()));
    let why = built.why("4", &[]);
    assert_eq!((&why["end"], &why["miss"]), (&"cached".into(), &Value::Null));
    assert_eq!(why["last_run"]["miss"], "never built");
}

#[test]
fn why_finds_steps_and_builds() {
    let dockerfile = "FROM busybox\nARG API_TOKEN\nCOPY a /a\nRUN echo $API_TOKEN | wc -c > /length\n";
    let bench = Bench::new();
    let context = bench.context("context", &[("Dockerfile", dockerfile), ("a", "1")]);
    let built = Built { bench, context };
    let why = |words: &[&str]| {
        let mut command = built.bench.rbuild();
        command.arg("why").args(words).arg(&built.context);
        command
    };
    why(&["1"]).ran().fails(1, &["no build of the Dockerfile in", "is on record"]);
    built.build(&["--build-arg", "API_TOKEN=hunter2"]);
    built.write("a", "2");
    built.build(&["--build-arg", "API_TOKEN=hunter2"]);
    let output = built.build(&["--build-arg", "API_TOKEN=hunter22"]);
    assert_eq!(Built::said(&output, 2), "ARG API_TOKEN changed (its value is not shown)");

    let list = why(&["--list"]).ran().ok().stdout;
    let ids: Vec<&str> = list.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert!(ids.len() == 3 && ids[0].ends_with("-3"), "{list}");
    let text = why(&["COPY a"]).ran().ok().stdout;
    for part in ["#1 [stage-0 1/2] COPY a /a", "cached, because", "last done in build", "because: content of `a`"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    let text = why(&["0/1", "--against", ids[2]]).ran().ok().stdout;
    assert!(text.contains("its inputs differ from those in build") && text.contains("content of `a`"), "{text}");
    let text = why(&["1", "--build", ids[2]]).ran().ok().stdout;
    assert!(text.contains("because: never built"), "{text}");
    let same = built.why("1", &["--against", ids[1]]);
    assert_eq!(same["compared"]["result"], "same");
    why(&["7"]).ran().fails(1, &["has no step `7`", "its steps are: #1 [stage-0 1/2] COPY a /a"]);
    why(&["1", "--against", "x-9"]).ran().fails(1, &["no build `x-9` of this Dockerfile is on record", "--list"]);
    let mut nothing = built.bench.rbuild();
    nothing.arg("why").ran().fails(2, &["the step is missing"]);
    assert!(!everything_in(&built.bench.path("store/steps")).contains("hunter2"));
    assert!(!everything_in(&built.bench.path("store/builds")).contains("hunter2"));
}

/// The texts of all files below a folder.
fn everything_in(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).expect("folder").filter_map(Result::ok) {
        if entry.file_type().expect("kind").is_dir() {
            text.push_str(&everything_in(&entry.path()));
        } else {
            text.push_str(&String::from_utf8_lossy(&fs::read(entry.path()).expect("file")));
        }
    }
    text
}

#[test]
fn failed_and_stopped_steps_are_on_record() {
    let dockerfile = |end: &str| format!("FROM busybox\nCOPY a /a\nRUN {end}\n");
    let bench = Bench::new();
    let context = bench.context("context", &[("Dockerfile", &dockerfile("exit 7")), ("a", "1")]);
    let built = Built { bench, context };
    built.bench.build(&built.context, &[]).fails(7, &[]);
    let ran = built.bench.build(&built.context, &[]).fails(7, &[]);
    assert_eq!(Built::said(&ran.stderr, 2), "it was not finished the last time");
    assert_eq!(built.why("2", &[])["end"], "failed");
    // Under other inputs too, there never was a result that could be lost.
    built.write("Dockerfile", &dockerfile("exit 8"));
    let ran = built.bench.build(&built.context, &[]).fails(8, &[]);
    assert_eq!(Built::said(&ran.stderr, 2), "it was not finished the last time");
    built.write("Dockerfile", &dockerfile("true"));
    let output = built.bench.build(&built.context, &[]).ok().stderr;
    assert!(output.contains("#1 CACHED"), "{output}");
}

#[test]
fn what_is_expected_to_be_cached_is_not_done() {
    let dockerfile =
        "FROM busybox AS tools\nCOPY a /a\nRUN cat /a > /b\nFROM busybox\nCOPY c /c\nCOPY --from=tools /b /b\n";
    let built = Built::new(&[("Dockerfile", dockerfile), ("a", "1"), ("c", "1")], &[]);
    let expect = |flag: &str| built.bench.build_command(&built.context, &[flag]).env("SOURCE_DATE_EPOCH", EPOCH).ran();
    expect("--expect-cached").ok();
    built.write("c", "2");
    let ran = expect("--expect-cached").fails(
        4,
        &[
            "error: the step is not cached, but was expected to be: content of `c`",
            "Dockerfile:5",
            "step: [stage-1 1/2] COPY c /c",
        ],
    );
    assert_eq!(ends(&ran.stderr), ["CACHED", "CACHED", "FAILED"], "{}", ran.stderr);
    assert_eq!(built.why("3", &[])["end"], Value::Null);
    expect("--expect-cached=tools").ok();
    built.write("a", "2");
    expect("--expect-cached=TOOLS").fails(4, &["content of `a`", "[tools 1/2] COPY a /a"]);
    expect("--expect-cached=tool")
        .fails(2, &["--expect-cached names the stage `tool`, which is not part of this build", "tools"]);
}

#[test]
fn offline_builds_ask_nobody() {
    let built = Built::new(&[("Dockerfile", "FROM busybox\nCOPY a /a\nRUN true\n"), ("a", "1")], &[]);
    built.build(&["--offline"]);
    let offline = |dockerfile: &str| {
        built.write("Dockerfile", dockerfile);
        built.bench.build(&built.context, &["--offline"])
    };
    offline("FROM busybox\nADD http://127.0.0.1:9/x /x\n").fails(1, &["--offline allows no request", "Dockerfile:2"]);
    offline("FROM busybox\nADD https://example.com/r.git /x\n")
        .fails(1, &["--offline allows no request", "Dockerfile:2"]);
    offline("FROM busybox\n\nFROM example.com/not/here:1\n").fails(
        1,
        &[
            "could not load the image `example.com/not/here:1`",
            "--offline allows no request",
            "Dockerfile:3",
            "hint: build once without --offline",
        ],
    );
    built
        .bench
        .build(&built.context, &["--offline", "--pull"])
        .fails(2, &["`--offline` and `--pull` cannot be used together"]);
    let push = ["--offline", "--push", "-t", "localhost:1/x"];
    built.bench.build(&built.context, &push).fails(2, &["`--offline` and `--push` cannot be used together"]);
}

#[test]
fn builds_with_nothing_to_do_open_no_socket() {
    if !have("builds_with_nothing_to_do_open_no_socket", &["strace", "docker-registry"]) {
        return;
    }
    let bench = Bench::new();
    let registry = support::Registry::start(&bench.path("registry"));
    let base = bench.context("base", &[("Dockerfile", "FROM busybox\nRUN echo base > /base\n")]);
    let name = format!("{}/base:1", registry.host);
    bench.build(&base, &["--push", "-t", &name]).ok();
    let context = bench
        .context("context", &[("Dockerfile", &format!("FROM {name}\nCOPY a /a\nRUN cat /base /a > /b\n")), ("a", "1")]);
    // A store of its own, so that the base comes from the registry.
    let run = |program: &[&str]| {
        let mut command = support::clean_command(program[0]);
        command.args(&program[1..]).args(["--root", &bench.path("second").display().to_string()]);
        command.args(["build", "--progress=plain"]).arg(&context).ran().ok()
    };
    let rbuild = env!("CARGO_BIN_EXE_rbuild");
    run(&[rbuild]);
    let trace = bench.path("trace").display().to_string();
    run(&["strace", "-f", "-qq", "-e", "trace=socket,connect", "-o", &trace, rbuild]);
    let calls = fs::read_to_string(&trace).expect("trace");
    let calls: Vec<&str> = calls.lines().filter(|line| line.contains("socket(") || line.contains("connect(")).collect();
    assert!(calls.is_empty(), "{calls:#?}");
}

#[test]
fn mounts_are_keyed_by_what_they_show() {
    let dockerfile = "FROM busybox AS one\n\
        COPY a /d/a\n\
        COPY c /other\n\
        FROM busybox\n\
        RUN --mount=type=bind,from=one,source=/d,target=/m cat /m/a > /o\n\
        RUN --mount=type=bind,source=x,target=/n cat /n/f > /p\n\
        RUN --mount=type=secret,id=s,mode=0400 true\n";
    let files = [("Dockerfile", dockerfile), ("a", "1"), ("c", "1"), ("x/f", "1")];
    let built = Built::new(&files, &[]);
    let (done, hit) = ("DONE", "CACHED");
    built.write("c", "2");
    assert_eq!(ends(&built.build(&[])), [hit, done, hit, hit, hit]);
    built.write("a", "2");
    let output = built.build(&[]);
    assert_eq!(ends(&output), [done, done, done, done, done], "{output}");
    assert_eq!(Built::said(&output, 3), "content of `d/a` (mounted at /m)");
    built.write("x/f", "2");
    let output = built.build(&[]);
    assert_eq!(Built::said(&output, 4), "content of `x/f` (mounted at /n)");
    built.write("Dockerfile", &dockerfile.replace("mode=0400", "mode=0444"));
    let output = built.build(&[]);
    assert_eq!(ends(&output), [hit, hit, hit, hit, done], "{output}");
    assert_eq!(Built::said(&output, 5), "the mount secret s changed");
}

/// The first build of a folder copies files before it knows the step's key; that must be the one that reading them gives.
#[test]
fn a_folder_that_was_never_read_gives_the_same_keys() {
    let texts: Vec<(String, String)> = (0..40).map(|n| (format!("data/{}/{n}", n % 3), format!("text {n}"))).collect();
    let mut files: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let dockerfile = "FROM busybox\nCOPY data one* /data/\nADD data/0 /more\nRUN ls /data > /listing\n";
    files.extend([("Dockerfile", "FROM busybox\nRUN true\n"), ("one", "1")]);
    let built = Built::new(&files, &[]);
    built.write("Dockerfile", dockerfile);
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
    fs::write(built.context.join("data/large"), large).expect("write");
    fs::hard_link(built.context.join("data/0/0"), built.context.join("data/2/hard")).expect("link");
    for (round, cached) in [("first", false), ("second", true), ("third", true)] {
        let copy = built.bench.path(round);
        let copied = Command::new("cp").args(["-a"]).arg(&built.context).arg(&copy).ran();
        assert_eq!(copied.code, 0, "{copied:?}");
        let told = built.bench.build_command(&copy, &[]).env("SOURCE_DATE_EPOCH", EPOCH).ran().ok().stderr;
        assert_eq!(told.contains("3 cached"), cached, "{round}: {told}");
        let told = built.bench.build_command(&copy, &[]).env("SOURCE_DATE_EPOCH", EPOCH).ran().ok().stderr;
        assert!(told.contains("3 cached"), "{round} again: {told}");
    }
    fs::write(built.bench.path("third").join("data/1/1"), "other").expect("write");
    let command = &mut built.bench.build_command(&built.bench.path("third"), &[]);
    let told = command.env("SOURCE_DATE_EPOCH", EPOCH).ran().ok().stderr;
    assert!(told.contains("data/1/1"), "the change has its name: {told}");
}

#[test]
fn a_copy_that_failed_before_its_key_was_known_was_not_finished() {
    let bench = Bench::new();
    let files = [("data/busybox/file", "x"), ("Dockerfile", "FROM busybox\nCOPY data /bin\n")];
    let context = bench.context("context", &files);
    for cause in ["never", "not finished"] {
        let ran = bench.build_command(&context, &[]).ran();
        assert!(ran.code != 0 && ran.stderr.contains(cause), "{cause}: {}", ran.stderr);
    }
}
