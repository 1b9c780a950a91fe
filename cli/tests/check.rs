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

const CARELESS: &str = "from alpine:3 as Build
MAINTAINER Ann
ENV A some value
COPY a b /x
CMD run
";

#[test]
fn check_points_at_what_it_finds() {
    let folder = folder(&[("Dockerfile", "FROM alpine:3 AS Build\nCOPY a b /x\n")]);
    rbuild(&folder, &["check"]).code(1).stderr_eq("").stdout_eq(str![[r#"
warning[StageNameCasing]: the stage name `Build` should be lower-case
 --> Dockerfile:1:1
  |
1 | FROM alpine:3 AS Build
  | ^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: https://docs.docker.com/go/dockerfile/rule/stage-name-casing/

warning[CopySeveralSourcesToFile]: unless `/x` is a directory already, the last source of this COPY overwrites the others: write `/x/`
 --> Dockerfile:2:1
  |
2 | COPY a b /x
  | ^^^^^^^^^^^
  |
  = help: Several sources should go to a directory, written with a slash at its end: docs/rules/CopySeveralSourcesToFile.md

2 warnings in Dockerfile; `rbuild check --fix` mends 2

"#]]);
    let clean = self::folder(&[("Dockerfile", "FROM scratch\n"), (".dockerignore", "secret\n")]);
    rbuild(&clean, &["check", "."]).success().stdout_eq("nothing to report in Dockerfile\n");
    fs::write(clean.path().join("other"), "FROM scratch\nADD secret /\n").expect("the folder can be written");
    let found = rbuild(&clean, &["check", "other"]).code(1).get_output().stdout.clone();
    assert!(String::from_utf8_lossy(&found).starts_with("warning[CopyIgnoredFile]"), "a file stands for its folder");
    rbuild(&clean, &["check", "-f", "other", "--target=none"]).code(1).stdout_eq(str![[r#"
error: target stage `none` could not be found
hint: no stage has a name: write `FROM … AS name`, or leave --target out

1 error in other

"#]]);
}

#[test]
fn fix_mends_what_takes_no_decision() {
    let folder = folder(&[("Dockerfile", CARELESS)]);
    let report = rbuild(&folder, &["check", "--fix"]).code(1).get_output().stdout.clone();
    let report = String::from_utf8_lossy(&report);
    assert!(
        report.contains("JSONArgsRecommended") && report.ends_with("1 warning in Dockerfile; 5 mended\n"),
        "{report}"
    );
    snapbox::assert_data_eq!(
        text_of(&folder, "Dockerfile"),
        str![[r#"
FROM alpine:3 AS build
LABEL org.opencontainers.image.authors="Ann"
ENV A="some value"
COPY a b /x/
CMD run

"#]]
    );
    rbuild(&folder, &["check", "--fix", "-"]).code(1);
}

#[test]
fn reports_for_programs_name_rules_and_places() {
    let folder = folder(&[("my file", CARELESS)]);
    let output = rbuild(&folder, &["check", "--format=sarif", "my file"]).code(1).get_output().stdout.clone();
    let sarif: serde_json::Value = serde_json::from_slice(&output).expect("SARIF is JSON");
    assert_eq!(sarif["version"], "2.1.0");
    let results = sarif["runs"][0]["results"].as_array().expect("there are results");
    let rules = sarif["runs"][0]["tool"]["driver"]["rules"].as_array().expect("there are rules");
    assert_eq!((results.len(), rules.len()), (6, 6));
    let legacy = results.iter().find(|result| result["ruleId"] == "LegacyKeyValueFormat").expect("line 3 is legacy");
    let place = &legacy["locations"][0]["physicalLocation"];
    assert_eq!((&place["artifactLocation"]["uri"], &place["region"]["startLine"]), (&"my%20file".into(), &3.into()));
    let change = &legacy["fixes"][0]["artifactChanges"][0]["replacements"][0];
    assert_eq!(change["insertedContent"]["text"], "A=\"some value\"");
    assert_eq!(change["deletedRegion"]["startColumn"], 5);
    let output = rbuild(&folder, &["check", "--format=json", "my file"]).code(1).get_output().stdout.clone();
    let report: serde_json::Value = serde_json::from_slice(&output).expect("the report is JSON");
    assert_eq!(report["warnings"].as_array().map(Vec::len), Some(6));
}

#[test]
fn sarif_has_syntax_errors_by_their_codes() {
    let folder = folder(&[("Dockerfile", "FROM a\nFETCH b\nCOPY\n")]);
    let output = rbuild(&folder, &["check", "--format=sarif"]).code(1).get_output().stdout.clone();
    let sarif: serde_json::Value = serde_json::from_slice(&output).expect("SARIF is JSON");
    let results = sarif["runs"][0]["results"].as_array().expect("there are results");
    let codes: Vec<_> = results.iter().map(|result| (&result["ruleId"], &result["level"])).collect();
    let error = serde_json::Value::from("error");
    assert_eq!(codes, [(&"unknown-instruction".into(), &error), (&"missing-destination".into(), &error)]);
}

#[test]
fn checks_tell_all_that_would_end_a_build() {
    let dockerfile =
        "FROM scratch AS other\nEXPOSE x\nCOPY built-later /\nFROM base\nSTOPSIGNAL SIGTREM\nENV A=${OF_BASE:?}\n";
    let folder = folder(&[("Dockerfile", dockerfile)]);
    rbuild(&folder, &["check"]).code(1).stderr_eq("").stdout_eq(str![[r#"
...
error[invalid-port]: invalid port `x`: `x` is no port (0-65535) or range of ports
 --> Dockerfile:2:8
...
error[invalid-signal]: invalid signal: `SIGTREM`
 --> Dockerfile:5:12
...
"#]]);
    let report = |flags: &[&str]| -> serde_json::Value {
        let output = rbuild(&folder, &[&["check"], flags].concat()).code(1).get_output().stdout.clone();
        serde_json::from_slice(&output).expect("the report is JSON")
    };
    let json = report(&["--format=json"]);
    let errors = json["errors"].as_array().expect("there is a list of errors");
    let found: Vec<_> = errors.iter().map(|error| (&error["code"], &error["place"]["line"])).collect();
    assert_eq!(found, [(&"invalid-port".into(), &2.into()), (&"invalid-signal".into(), &5.into())]);
    let sarif = report(&["--format=sarif"]);
    let results = sarif["runs"][0]["results"].as_array().expect("there are results");
    let errors = results.iter().filter(|result| result["level"] == "error");
    let rules: Vec<_> = errors.map(|result| &result["ruleId"]).collect();
    assert_eq!(rules, ["invalid-port", "invalid-signal"]);
    // Of a target, only the stages that it needs count.
    for (target, count) in [("1", 1), ("other", 1)] {
        let json = report(&["--format=json", "--target", target]);
        assert_eq!(json["errors"].as_array().map(Vec::len), Some(count), "{target}: {json}");
    }
}

#[test]
fn fmt_formats_in_place_and_on_standard_streams() {
    let text = "from a  as b  \nrun c\n\n\n\nFROM b\n";
    let formatted = "FROM a AS b\nRUN c\n\nFROM b\n";
    let folder = folder(&[("Dockerfile", text), ("good", formatted)]);
    rbuild(&folder, &["fmt", "--check", "Dockerfile", "good"]).code(1).stdout_eq("Dockerfile\n").stderr_eq("");
    assert_eq!(text_of(&folder, "Dockerfile"), text);
    rbuild(&folder, &["fmt", "--check", "."]).code(1).stdout_eq("./Dockerfile\n").stderr_eq("");
    rbuild(&folder, &["fmt"]).success().stdout_eq("").stderr_eq("");
    assert_eq!(text_of(&folder, "Dockerfile"), formatted);
    rbuild(&folder, &["fmt", "--check", "Dockerfile", "good"]).success();
    Command::new(snapbox::cmd::cargo_bin!("rbuild"))
        .args(["fmt", "-"])
        .stdin(text)
        .assert()
        .success()
        .stdout_eq(formatted);
    fs::write(folder.path().join("bad"), "FROM a\nFETCH\n").expect("the folder can be written");
    rbuild(&folder, &["fmt", "bad"]).code(1).stdout_eq("").stderr_eq(str![[r#"
error[unknown-instruction]: line 2: unknown instruction: FETCH
 --> bad:2:1
  |
2 | FETCH
  | ^^^^^

"#]]);
}

#[test]
fn builds_tell_findings_once_with_their_lines() {
    let folder = folder(&[("Dockerfile", "FROM scratch AS Build\nENV A 1\nCOPY Dockerfile /x\n")]);
    rbuild(&folder, &["build", "--progress=plain", "."]).success().stdout_eq("").stderr_eq(str![[r#"
warning: Dockerfile:1: the stage name `Build` should be lower-case [StageNameCasing]
warning: Dockerfile:2: `ENV key=value` should be written instead of `ENV key value` [LegacyKeyValueFormat]
#1 [build 1/1] COPY Dockerfile /x
#1 not cached: never built
#1 DONE [..]
2 warnings found; `rbuild check` explains what it finds
built sha256:[..] in [..] (1 step, 0 cached)
run it with: rbuild run [..]

"#]]);
    fs::write(folder.path().join("Dockerfile"), "# check=error=true\nFROM scratch AS Build\nCOPY Dockerfile /x\n")
        .expect("the folder can be written");
    let refused = rbuild(&folder, &["build", "."]).code(1).stdout_eq("").get_output().stderr.clone();
    let refused = String::from_utf8_lossy(&refused);
    assert!(refused.contains("error[check-failed]: lint violation found for rules: StageNameCasing"), "{refused}");
    rbuild(&folder, &["build", "--build-arg=BUILDKIT_DOCKERFILE_CHECK=skip=all", "."]).success();
}

#[test]
fn findings_in_the_ignore_file_are_told_with_its_lines() {
    let folder = folder(&[("Dockerfile", "FROM scratch\nCOPY . /src\n"), (".dockerignore", ".store\n*.pyc\n")]);
    fs::create_dir_all(folder.path().join("tools")).expect("a new folder can be written");
    fs::write(folder.path().join("tools/a.pyc"), "").expect("a new folder can be written");
    rbuild(&folder, &["check"]).code(1).stderr_eq("").stdout_eq(str![[r#"
warning[IgnorePatternMatchesNothing]: `*.pyc` matches nothing: for `tools/a.pyc` it must be `**/*.pyc`
 --> .dockerignore:2:1
  |
2 | *.pyc
  | ^^^^^
  |
  = help: Patterns of `.dockerignore` should match what they are meant for: docs/rules/IgnorePatternMatchesNothing.md

1 warning in Dockerfile and .dockerignore

"#]]);
    let output = rbuild(&folder, &["check", "--format=sarif"]).code(1).get_output().stdout.clone();
    let sarif: serde_json::Value = serde_json::from_slice(&output).expect("SARIF is JSON");
    let place = &sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
    assert_eq!(
        (&place["artifactLocation"]["uri"], &place["region"]["startLine"]),
        (&".dockerignore".into(), &2.into())
    );
    // What BuildKit does not know of is not in its report.
    rbuild(&folder, &["build", "--check", "."]).success().stdout_eq("Check complete, no warnings found.\n");
}
