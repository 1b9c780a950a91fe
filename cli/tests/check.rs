//! Looking at Dockerfiles without building them: `build --check`, `build --call`, `check` and `fmt`.

use std::fs;
use std::path::Path;

use snapbox::cmd::{Command, OutputAssert};
use snapbox::str;
use tempfile::TempDir;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("the folder for temporary files can be written");
    for (name, text) in files {
        fs::write(folder.path().join(name), text).expect("a new folder can be written");
    }
    folder
}

/// `rbuild` in that folder, with an empty environment and a store of its own.
fn rbuild(folder: &TempDir, words: &[&str]) -> OutputAssert {
    Command::new(snapbox::cmd::cargo_bin!("rbuild"))
        .env_clear()
        .env("RBUILD_ROOT", folder.path().join(".store"))
        .current_dir(folder.path())
        .args(words)
        .assert()
}

fn text_of(folder: &TempDir, name: &str) -> String {
    fs::read_to_string(Path::new(folder.path()).join(name)).expect("the file is text")
}

const STAGES: &str = "# VERSION is what is built
ARG VERSION=3
ARG UNUSED=1

# base is where all begins
FROM scratch AS base
ARG VERSION
# FLAGS go to the compiler
ARG FLAGS=\"-v $VERSION\"
COPY $FLAGS /
FROM base AS build
RUN --mount=type=secret,id=token,required=true --mount=type=ssh make
FROM scratch AS other
RUN --mount=type=secret,id=unseen make
FROM scratch
COPY --from=build /x /x
";

#[test]
fn build_s_check_reports_what_buildkit_reports() {
    // The base has no tag and the files have no slash behind them: findings of rbuild's own rules.
    let folder = folder(&[("Dockerfile", "FROM scratch AS Build\nCOPY a b /c\n")]);
    rbuild(&folder, &["build", "--check", "."]).code(1).stderr_eq("").stdout_eq(str![[r#"
Check complete, 1 warning has been found!

WARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/
Stage names should be lower-case
the stage name `Build` should be lower-case
Dockerfile:1
--------------------
   1 | >>> FROM scratch AS Build
   2 |     COPY a b /c
--------------------

"#]]);
    rbuild(&folder, &["build", "--call=check,ignorestatus", "."]).success();
    rbuild(&folder, &["build", "--check", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all", "."])
        .success()
        .stdout_eq("Check complete, no warnings found.\n");
    let output = rbuild(&folder, &["build", "--call=check,format=json", "."]).code(1).get_output().stdout.clone();
    let report: serde_json::Value = serde_json::from_slice(&output).expect("the report is JSON");
    assert_eq!(report["warnings"][0]["ruleName"], "StageNameCasing");
    assert_eq!(report["warnings"][0]["location"]["ranges"][0]["start"]["line"], 1);
    assert_eq!(report["warnings"].as_array().map(Vec::len), Some(1));
}

#[test]
fn syntax_errors_are_part_of_a_check() {
    let folder = folder(&[("Dockerfile", "FROM scratch\nFETCH x\n")]);
    let output = rbuild(&folder, &["build", "--call=check,format=json", "."]).code(1).get_output().stdout.clone();
    let report: serde_json::Value = serde_json::from_slice(&output).expect("the report is JSON");
    let message = report["buildError"]["message"].as_str().expect("an error has a message");
    assert!(message.contains("line 2") && message.contains("FETCH"), "{message}");
    rbuild(&folder, &["build", "--call=outline", "."]).code(1).stdout_eq("").stderr_eq(str![[r#"
error[unknown-instruction]: line 2: unknown instruction: FETCH
 --> Dockerfile:2:1
  |
2 | FETCH x
  | ^^^^^

"#]]);
}

#[test]
fn targets_are_the_stages() {
    let folder = folder(&[("Dockerfile", STAGES)]);
    rbuild(&folder, &["build", "--call=targets", "."]).success().stderr_eq("").stdout_eq(str![[r#"
TARGET    DESCRIPTION
base      is where all begins
build
other
(default)

"#]]);
    let output = rbuild(&folder, &["build", "--call=targets,format=json", "."]).success().get_output().stdout.clone();
    let targets: serde_json::Value = serde_json::from_slice(&output).expect("the list is JSON");
    assert_eq!(targets["targets"][0]["name"], "base");
    assert_eq!(targets["targets"][3]["default"], true);
    assert_eq!(targets["targets"][3]["location"]["ranges"][0]["start"]["line"], 15);
}

#[test]
fn outline_is_what_a_build_takes() {
    let folder = folder(&[("Dockerfile", STAGES)]);
    rbuild(&folder, &["build", "--call=outline", "."]).success().stderr_eq("").stdout_eq(str![[r#"
BUILD ARG   VALUE   DESCRIPTION
VERSION     3
FLAGS       -v 3    go to the compiler

SECRET   REQUIRED
token    true

SSH       REQUIRED
default

"#]]);
    let words = ["build", "--call=outline", "--target=BASE", "--build-arg=VERSION=4", "."];
    rbuild(&folder, &words).success().stdout_eq(str![[r#"
TARGET:      base
DESCRIPTION: is where all begins

BUILD ARG   VALUE   DESCRIPTION
VERSION     4
FLAGS       -v 4    go to the compiler

"#]]);
    rbuild(&folder, &["build", "--call=outline", "--target=biuld", "."]).code(1).stdout_eq("").stderr_eq(str![[r#"
error: target stage `biuld` could not be found
hint: there is a stage `build`

"#]]);
    let output = rbuild(&folder, &["build", "--call=outline,format=json", "."]).success().get_output().stdout.clone();
    let outline: serde_json::Value = serde_json::from_slice(&output).expect("the outline is JSON");
    assert_eq!(outline["args"][1]["name"], "FLAGS");
    assert_eq!(outline["secrets"][0]["required"], true);
    assert_eq!(outline["ssh"][0]["name"], "default");
    assert!(outline["secrets"].as_array().is_some_and(|list| list.len() == 1));
}
