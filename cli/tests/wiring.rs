//! The command as its users meet it: standard output, standard error and exit status, for wiring alone.
//!
//! What a build does is tested where it is done; here nothing is built.

use snapbox::cmd::Command;
use snapbox::{assert_data_eq, str};

/// `rbuild` with an empty environment and a store of its own.
fn rbuild(root: &tempfile::TempDir, words: &[&str]) -> snapbox::cmd::OutputAssert {
    Command::new(snapbox::cmd::cargo_bin!("rbuild"))
        .env_clear()
        .env("RBUILD_ROOT", root.path().join("store"))
        .current_dir(root.path())
        .args(words)
        .assert()
}

fn store() -> tempfile::TempDir {
    tempfile::tempdir().expect("the folder for temporary files can be written")
}

#[test]
fn version_is_one_line() {
    rbuild(&store(), &["--version"]).success().stdout_eq(str!["rbuild [..]\n"]).stderr_eq("");
}

#[test]
fn help_names_every_command() {
    let root = store();
    let output = rbuild(&root, &["--help"]).success().get_output().stdout.clone();
    let help = String::from_utf8(output).expect("help is UTF-8");
    for command in
        ["build", "push", "images", "rmi", "inspect", "history", "cache", "run", "doctor", "completions", "man"]
    {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command} is not in:\n{help}");
        rbuild(&root, &[command, "--help"]).success();
    }
    assert!(help.contains("Exit status"));
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_to_write() {
    let root = store();
    for (words, message) in [
        (
            &["nowhere"][..],
            str![[r#"
error: the build context `nowhere` does not exist
hint: give a folder, a git or http(s) URL, or `-`; `rbuild --help` lists the commands

"#]],
        ),
        (
            &["-o", "type=zip", "."],
            str![[r#"
error: cannot read `--output type=zip`: unknown type `zip`
hint: types are oci, docker, local, tar, image, registry and cacheonly

"#]],
        ),
        (
            &["-o", "type=local,dest=\"a,b\"", "."],
            str![[r#"
error: cannot read `--output type=local,dest="a,b"`: a quote may only stand at the start of a field: `"key=a,b"`

"#]],
        ),
        (
            &["--secret", "src=x", "."],
            str![[r#"
error: cannot read `--secret src=x`: `id=` is missing
hint: write `id=ID,src=FILE` or `id=ID,env=VARIABLE`

"#]],
        ),
        (
            &["--add-host", "db:local", "."],
            str![[r#"
error: cannot read `--add-host db:local`: `local` is no IP address
hint: write `NAME:IP`, `NAME=IP` or `NAME:host-gateway`

"#]],
        ),
        (
            &["--ulimit", "files=10", "."],
            str![[r#"
error: cannot read `--ulimit files=10`: there is no limit `files`
hint: limits are core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending, stack

"#]],
        ),
        (
            &["--build-context", "base", "."],
            str![[r#"
error: cannot read `--build-context base`: `=` is missing
hint: write `NAME=FOLDER`, `NAME=oci-layout://PATH[:TAG|@DIGEST]`, `NAME=docker-image://REF` or `NAME=URL`

"#]],
        ),
        (
            &["--ssh", "default", "."],
            str![[r#"
error: cannot read `--ssh default`: SSH_AUTH_SOCK is not set, so there is no agent to hand on
hint: start `ssh-agent`, or name a socket: `--ssh default=SOCKET`

"#]],
        ),
        (
            &["--push", "."],
            str![[r#"
error: cannot push an image without a name
hint: name it with `-t REGISTRY/NAME:TAG`

"#]],
        ),
        (
            &["--progress", "loud", "."],
            str![[r#"
error: cannot read `--progress loud`: expected auto, tty, plain, quiet, none or rawjson

"#]],
        ),
        (
            &["build", "--bogus", "."],
            str![[r#"
error: unexpected argument '--bogus' found
...
"#]],
        ),
    ] {
        rbuild(&root, words).code(2).stdout_eq("").stderr_eq(message);
    }
}

#[test]
fn global_flags_stand_anywhere() {
    let root = store();
    let other = store();
    let other = other.path().join("other");
    let other = other.to_str().expect("temporary folders have plain names");
    for words in [&["--root", other, "images"][..], &["images", "--root", other], &["-v", "images", "--root", other]] {
        rbuild(&root, words).success();
        assert!(std::path::Path::new(other).join("oci-layout").is_file(), "{words:?}");
        std::fs::remove_dir_all(other).expect("the store was made just now");
    }
}

#[test]
fn empty_store_has_no_images() {
    let root = store();
    rbuild(&root, &["images"]).success().stdout_eq("IMAGE  DIGEST  PLATFORM  CREATED  SIZE\n").stderr_eq("");
    rbuild(&root, &["images", "--format", "json"]).success().stdout_eq("[]\n");
    rbuild(&root, &["images", "-q"]).success().stdout_eq("");
    rbuild(&root, &["rmi", "-f", "app"]).success().stdout_eq("").stderr_eq("");
    for command in ["rmi", "inspect", "history"] {
        rbuild(&root, &[command, "app"]).code(1).stdout_eq("").stderr_eq(str![[r#"
error: there is no image `app`
hint: `rbuild images` lists the images that there are

"#]]);
    }
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = rbuild(&store(), &["completions", shell]).success().get_output().stdout.clone();
        let script = String::from_utf8_lossy(&output).into_owned();
        assert!(script.contains("build-context") && script.contains("doctor"), "{shell}");
    }
}

#[test]
fn manual_has_a_page_for_each_command() {
    let root = store();
    rbuild(&root, &["man", "pages"]).success();
    for page in ["rbuild.1", "rbuild-build.1", "rbuild-run.1", "rbuild-doctor.1"] {
        let page = root.path().join("pages").join(page);
        let text = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        assert_data_eq!(text.lines().find(|line| line.starts_with(".TH")).unwrap_or_default(), str![".TH rbuild[..]"]);
    }
}

#[test]
fn store_that_cannot_be_written_is_the_machine_s_fault() {
    let root = store();
    rbuild(&root, &["--root", "/proc/store", "images"]).code(3).stdout_eq("").stderr_eq(str![[r#"
error: cannot open the store `/proc/store`
caused by: [..]
...
hint: name another folder with `--root DIR` or RBUILD_ROOT

"#]]);
}

/// A context with these files.
fn context(root: &tempfile::TempDir, files: &[(&str, &str)]) {
    for (name, text) in files {
        std::fs::write(root.path().join(name), text).expect("the folder for temporary files can be written");
    }
}

#[test]
fn build_tells_its_steps_and_how_to_run_the_image() {
    let root = store();
    context(&root, &[("Dockerfile", "FROM scratch\nCOPY a.txt /\n"), ("a.txt", "a\n")]);
    rbuild(&root, &["-t", "app", "."]).success().stdout_eq("").stderr_eq(str![[r#"
#1 [stage-0 1/1] COPY a.txt /
#1 not cached: never built
#1 DONE [..]s
built sha256:[..] in [..]s (1 step, 0 cached)
named app:latest
run it with: rbuild run app:latest

"#]]);
    rbuild(&root, &["-t", "app", "."]).success().stdout_eq("").stderr_eq(str![[r#"
#1 [stage-0 1/1] COPY a.txt /
#1 CACHED
built sha256:[..] in [..]s (1 step, 1 cached)
named app:latest
run it with: rbuild run app:latest

"#]]);
    rbuild(&root, &["images"]).success().stdout_eq(str![[r#"
IMAGE       DIGEST [..]
app:latest  sha256:[..]

"#]]);
    rbuild(&root, &["history", "app"]).success().stdout_eq(str![[r#"
CREATED[..]
[..]COPY a.txt / # buildkit

"#]]);
    rbuild(&root, &["rmi", "app"]).success().stdout_eq("app:latest\n");
}

#[test]
fn digest_is_the_same_wherever_it_is_told() {
    let root = store();
    context(&root, &[("Dockerfile", "FROM scratch\nLABEL a=b\n")]);
    let words = ["-q", "-t", "app", "--iidfile", "id", "--metadata-file", "facts", "."];
    let ran = rbuild(&root, &words).success().stderr_eq("");
    let printed = String::from_utf8_lossy(&ran.get_output().stdout).trim().to_owned();
    let read = |name: &str| std::fs::read_to_string(root.path().join(name)).expect("the build wrote it");
    assert_eq!(read("id"), printed);
    let facts: serde_json::Value = serde_json::from_str(&read("facts")).expect("facts are JSON");
    assert_eq!(facts["containerimage.digest"], printed.as_str());
    assert_eq!(facts["image.name"], "docker.io/library/app:latest");
    rbuild(&root, &["images", "-q"]).success().stdout_eq(format!("{printed}\n"));
    // By its digest the image is found without its name.
    rbuild(&root, &["rmi", "app"]).success();
    rbuild(&root, &["inspect", &printed[7..19]]).success().stdout_eq(str![[r#"
[
  {
...
    "references": []
  }
]

"#]]);
}

#[test]
fn every_error_of_the_text_is_told_with_its_line() {
    let root = store();
    context(&root, &[("Dockerfile", "FROM scratch\nRUNN x\nCOPY\n")]);
    rbuild(&root, &["."]).code(1).stdout_eq("").stderr_eq(str![[r#"
error[unknown-instruction]: line 2: unknown instruction: RUNN
 --> Dockerfile:2:1
  |
2 | RUNN x
  | ^^^^
hint: did you mean `RUN`?

error[missing-destination]: line 3: [..]
 --> Dockerfile:3:1
  |
3 | COPY
  | ^^^^

"#]]);
}

#[test]
fn raw_json_ends_with_the_outcome() {
    let root = store();
    context(&root, &[("Dockerfile", "FROM scratch\nLABEL a=b\n"), ("bad", "FROM scratch\nCOPY gone /\n")]);
    let last = |words: &[&str], status| -> serde_json::Value {
        let ran = rbuild(&root, words).code(status).stdout_eq("");
        let lines = String::from_utf8_lossy(&ran.get_output().stderr).into_owned();
        let objects: Vec<_> =
            lines.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
        objects.last().cloned().unwrap_or_default()
    };
    let finished = last(&["--progress=rawjson", "."], 0);
    assert_eq!((&finished["event"], &finished["steps"]), (&"finished".into(), &0.into()));
    let error = last(&["--progress=rawjson", "-f", "bad", "."], 1);
    assert_eq!((&error["event"], &error["kind"], &error["status"]), (&"error".into(), &"build".into(), &1.into()));
    assert_eq!(error["problems"][0]["place"]["line"], 2);
}

#[test]
fn check_looks_and_builds_nothing() {
    let root = store();
    context(&root, &[("Dockerfile", "FROM scratch\nENV a b\n")]);
    rbuild(&root, &["--check", "."]).code(1).stderr_eq("").stdout_eq(str![[r#"
Check complete, 1 warning has been found!

WARNING: LegacyKeyValueFormat - [..]
...
"#]]);
    let ran = rbuild(&root, &["--call=check,format=json,ignorestatus", "."]).success();
    let report: serde_json::Value = serde_json::from_slice(&ran.get_output().stdout).expect("the report is JSON");
    assert_eq!(report["warnings"][0]["ruleName"], "LegacyKeyValueFormat");
    assert_eq!(report["warnings"][0]["location"]["ranges"][0]["start"]["line"], 2);
    rbuild(&root, &["images"]).success().stdout_eq("IMAGE  DIGEST  PLATFORM  CREATED  SIZE\n");
}

#[test]
fn secrets_never_reach_a_message() {
    let root = store();
    context(&root, &[("Dockerfile", "FROM scratch\nCOPY gone /\n"), ("token", "hunter2")]);
    let ran = rbuild(&root, &["-v", "--secret", "id=t,src=token", "."]).code(1);
    let output = ran.get_output();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("hunter2"));
}
