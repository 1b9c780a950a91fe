//! The texts of errors: each folder of `testdata/errors` is a build that fails, and `expect.txt` is what is said.
//!
//! `arguments` holds further flags, one on each line. With `SNAPSHOTS=overwrite` the texts are written anew; read them
//! then as a user would: does the first line name the cause, and is the place right?

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use snapbox::cmd::Command;
use snapbox::{Assert, Data, IntoData};

/// How many cases there are at least: a wrong path would let the test pass without any.
const LEAST_CASES: usize = 60;

/// Cases whose errors belong to no line of a Dockerfile.
const WITHOUT_PLACE: [&str; 3] = ["no-dockerfile", "target-misspelt", "target-number"];

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/errors");
    let mut cases: Vec<PathBuf> =
        fs::read_dir(root).expect("the cases are there").map(|entry| entry.expect("an entry").path()).collect();
    cases.sort();
    cases
}

/// Copies a case into a folder of its own, without what belongs to the test.
fn context(case: &Path) -> tempfile::TempDir {
    let context = tempfile::tempdir().expect("the folder for temporary files can be written");
    for entry in fs::read_dir(case).expect("a case is a folder") {
        let entry = entry.expect("an entry");
        if !["expect.txt", "arguments"].contains(&entry.file_name().to_string_lossy().as_ref()) {
            fs::copy(entry.path(), context.path().join(entry.file_name())).expect("a case holds files alone");
        }
    }
    context
}

/// The codes that a source file gives to errors, tests left out.
fn codes_in(text: &str) -> BTreeSet<String> {
    let production = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let calls = ["Diagnostic::error(", ".error(", ".error_at(", "BuildError::plan(", ".warn(", "pub(crate) const "];
    // A constant's value stands behind its name and type.
    let production = production.replace(": &str = \"", "\"");
    let behind = calls.iter().flat_map(|call| production.split(call).skip(1));
    let is_name = |letter: char| letter.is_ascii_uppercase() || letter == '_' || letter.is_whitespace();
    let literal = |rest: &str| Some(rest.trim_start_matches(is_name).strip_prefix('"')?.split_once('"')?.0.to_owned());
    let is_code = |code: &String| {
        code.contains('-')
            && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
            && !code.starts_with('-')
    };
    behind.filter_map(literal).filter(is_code).collect()
}

/// The files of Rust below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_code_is_in_the_manual() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = vec![root.join("builder-core/src/plan/error.rs")];
    for folder in ["dockerfile-parser/src/instruction", "builder-core/src/exec"] {
        sources(&root.join(folder), &mut files);
    }
    for file in ["parse", "directive", "heredoc", "lexer"] {
        files.push(root.join(format!("dockerfile-parser/src/{file}.rs")));
    }
    let texts = files.iter().map(|path| fs::read_to_string(path).expect("a source file"));
    // A warning about a trigger, which is no error.
    let codes: BTreeSet<String> =
        texts.flat_map(|text| codes_in(&text)).filter(|code| code != "onbuild-trigger-fails").collect();
    let manual = fs::read_to_string(root.join("docs/errors.md")).expect("the page of codes");
    let rows = manual.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()));
    let documented: BTreeSet<String> = rows.collect();
    assert_eq!(codes, documented);
}

#[test]
fn errors_name_cause_file_and_line() {
    let cases = cases();
    assert!(cases.len() >= LEAST_CASES, "only {} cases", cases.len());
    let store = tempfile::tempdir().expect("the folder for temporary files can be written");
    let mut wrong = BTreeSet::new();
    for case in &cases {
        let name = case.file_name().expect("a case has a name").to_string_lossy().into_owned();
        let context = context(case);
        let arguments = fs::read_to_string(case.join("arguments")).unwrap_or_default();
        let output = Command::new(snapbox::cmd::cargo_bin!("rbuild"))
            .env_clear()
            .env("RBUILD_ROOT", store.path())
            .current_dir(context.path())
            .args(["build", "--progress=quiet"])
            .args(arguments.lines())
            .arg(".")
            .output()
            .expect("rbuild runs");
        let text = String::from_utf8_lossy(&output.stderr).replace(&*context.path().to_string_lossy(), "CONTEXT");
        let lines: Vec<&str> = text.lines().take(2).collect();
        let has_place = lines.get(1).is_some_and(|line| line.trim_start().starts_with("--> Dockerfile:"));
        let named = text.starts_with("error") && has_place != WITHOUT_PLACE.contains(&name.as_str());
        if !named || !matches!(output.status.code(), Some(1 | 2)) || !output.stdout.is_empty() {
            eprintln!("{name}: {:?}, cause or place are not named:\n{text}", output.status);
            wrong.insert(name.clone());
        }
        let expected = Data::read_from(&case.join("expect.txt"), None);
        let assert = Assert::new().action_env(snapbox::assert::DEFAULT_ACTION_ENV);
        if let Err(difference) = assert.try_eq(Some(&name), text.into_data(), expected.raw()) {
            eprintln!("{name}: {difference}");
            wrong.insert(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
