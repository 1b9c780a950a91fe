//! Builds every case of testdata/conformance/cases and testdata/build, and compares the image with what was recorded.
//!
//! `RBUILD_CASES` names the cases to run as a glob over their names; `RBUILD` is another rbuild than the one under
//! test, and `RBUILD_TESTDATA` another folder of cases. As an ordinary user, cases whose inputs belong to other users are
//! skipped, and counted.

mod case;
mod compare;
mod image;
mod inputs;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;
use std::{env, fs, thread};

use serde_json::{Value, json};
use tempfile::TempDir;

use case::Case;
use inputs::MODIFIED;

/// How many cases are built side by side.
const WORKERS: usize = 2;
/// For a case that does not set its own.
const TIMEOUT_SECONDS: u64 = 120;

/// Only BuildKit's rules are compared: rbuild has further ones of its own.
const LINT_RULES: &str = "StageNameCasing FromAsCasing NoEmptyContinuation ConsistentInstructionCasing \
    DuplicateStageName ReservedStageName JSONArgsRecommended MaintainerDeprecated UndefinedArgInFrom \
    WorkdirRelativePath UndefinedVar MultipleInstructionsDisallowed LegacyKeyValueFormat InvalidBaseImagePlatform \
    RedundantTargetPlatform SecretsUsedInArgOrEnv InvalidDefaultArgInFrom FromPlatformFlagConstDisallowed \
    CopyIgnoredFile InvalidDefinitionDescription ExposeProtoCasing ExposeInvalidFormat";

/// What all cases share: the program, its store, and the base image.
struct Bench {
    rbuild: PathBuf,
    folder: TempDir,
    base_layer: String,
}

/// How a case ended.
enum Verdict {
    Passed,
    Failed { lines: Vec<String>, log: String },
    Skipped,
}

/// What a build came to: `{"fails": true}`, the findings of a check, or an image's facts.
struct Outcome {
    facts: Value,
    log: String,
}

#[test]
fn images_are_what_buildkit_makes() {
    // The modes of the inputs do not depend on who runs this.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let testdata = env::var_os("RBUILD_TESTDATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata"), PathBuf::from);
    let glob = env::var("RBUILD_CASES").unwrap_or_else(|_| "*".to_owned());
    let mut cases = Vec::new();
    find_cases(&testdata.join("conformance/cases"), &mut cases);
    find_cases(&testdata.join("build"), &mut cases);
    cases.retain(|path| compare::matches(glob.as_bytes(), name_of(path).as_bytes()));
    cases.sort();
    assert!(!cases.is_empty(), "no case is called {glob} in {}", testdata.display());

    let folder = tempfile::Builder::new().prefix("rbuild-conformance-").tempdir_in("/var/tmp").expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("the folder's mode");
    let base_layer = inputs::base_image(&folder.path().join("base"), &toml::Table::new());
    let rbuild = env::var_os("RBUILD").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_rbuild")), PathBuf::from);
    let bench = Bench { rbuild, folder, base_layer };
    let (passed, failed, skipped) = run_all(&bench, &cases);
    say(&format!("{passed} passed, {failed} failed, {skipped} skipped"));
    // Of an ordinary user's store parts belong to subordinate ids: rbuild alone can remove them.
    let mut prune = Command::new(&bench.rbuild);
    prune.arg("--root").arg(bench.folder.path().join("store")).args(["cache", "prune", "--all", "--force"]);
    assert!(prune.status().expect("rbuild runs").success(), "the store is not emptied");
    bench.folder.close().expect("the folder is removed");
    assert_eq!(failed, 0, "cases failed");
}

/// Writes past the test harness's capture: what was skipped or failed is always told.
fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("standard error can be written");
}

fn name_of(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn find_cases(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.expect("an entry of the folder of cases").path()) {
        if path.is_dir() {
            find_cases(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            found.push(path);
        }
    }
}

fn run_all(bench: &Bench, cases: &[PathBuf]) -> (usize, usize, usize) {
    let next = AtomicUsize::new(0);
    let counts = Mutex::new((0, 0, 0));
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(path) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let verdict = run_case(bench, path);
                    let mut counts = counts.lock().expect("no worker panicked while counting");
                    match verdict {
                        Verdict::Passed => counts.0 += 1,
                        Verdict::Failed { lines, log } => {
                            counts.1 += 1;
                            let mut text = format!("FAIL {}", name_of(path));
                            for line in lines.iter().take(12) {
                                text += &format!("\n    {line}");
                            }
                            let log: Vec<&str> = log.trim().lines().collect();
                            for line in log.iter().skip(log.len().saturating_sub(12)) {
                                text += &format!("\n    | {line}");
                            }
                            say(&text);
                        }
                        Verdict::Skipped => {
                            counts.2 += 1;
                            say(&format!("skipped: {} takes root to make its inputs", name_of(path)));
                        }
                    }
                }
            });
        }
    });
    counts.into_inner().expect("all workers ended well")
}

fn run_case(bench: &Bench, path: &Path) -> Verdict {
    let text = fs::read_to_string(path).expect("a case can be read");
    let case: Case = match toml::from_str(&text) {
        Ok(case) => case,
        Err(error) => return Verdict::Failed { lines: vec![error.to_string()], log: String::new() },
    };
    if case.needs_root() && !rustix::process::geteuid().is_root() {
        return Verdict::Skipped;
    }
    let recorded = fs::read(path.with_extension("json")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(recorded) = recorded else {
        return Verdict::Failed { lines: vec!["no recorded result that is JSON".to_owned()], log: String::new() };
    };
    let Outcome { facts, log } = outcome(bench, &case);
    let lines = judge(&case, recorded, facts, &log);
    if lines.is_empty() {
        return Verdict::Passed;
    }
    Verdict::Failed { lines: [vec![format!("({})", case.about)], lines].concat(), log }
}

/// What is wrong with a build's outcome: nothing, if it is as recorded.
fn judge(case: &Case, mut recorded: Value, mut got: Value, log: &str) -> Vec<String> {
    let log = log.to_lowercase();
    let unsaid = case.error_mentions.iter().filter(|words| !log.contains(&words.to_lowercase()));
    let unsaid = unsaid.map(|words| format!("the message does not mention {words:?}"));
    let fails = |side: &Value| side["fails"] == true;
    if fails(&recorded) {
        // Both refuse; the words may differ, but for those that the case asks for.
        if !fails(&got) || got.as_object().is_some_and(|got| got.len() > 1) {
            let what = if fails(&got) { got.to_string() } else { "built".to_owned() };
            return vec![format!("must be refused, but was {what}")];
        }
        return unsaid.collect();
    }
    if fails(&got) {
        return vec![format!("build failed: {got}")];
    }
    let faults = got.as_object_mut().and_then(|got| got.remove("faults")).unwrap_or_default();
    let mut lines = Vec::new();
    compare::narrow(&mut recorded, case);
    compare::narrow(&mut got, case);
    compare::differences(&recorded, &got, "", &mut lines);
    lines.extend(faults.as_array().into_iter().flatten().map(Value::to_string));
    if recorded["error"] == true {
        lines.extend(unsaid);
    }
    lines
}

fn outcome(bench: &Bench, case: &Case) -> Outcome {
    let work = tempfile::Builder::new().prefix("case-").tempdir_in(bench.folder.path()).expect("a folder for a case");
    let archive = work.path().join("image.tar");
    let mut base_layer = bench.base_layer.clone();
    let mut base = bench.folder.path().join("base");
    if let Some(extra) = &case.base_config {
        base = work.path().join("base");
        base_layer = inputs::base_image(&base, extra);
    }
    let mut command = Command::new(&bench.rbuild);
    command.arg("--root").arg(bench.folder.path().join("store")).arg("build").args(flags(case, &base, work.path()));
    if case.check {
        command.arg("--call=check,format=json");
    } else {
        command.arg("--provenance=false").arg(format!("--output=type=oci,dest={}", archive.display()));
    }
    command.arg(work.path().join("context")).envs(&case.env);
    let seconds = case.timeout.unwrap_or(TIMEOUT_SECONDS);
    let Some((status, stdout, stderr)) = run(command, Duration::from_secs(seconds)) else {
        return Outcome { facts: json!({"fails": true, "timed_out": true}), log: String::new() };
    };
    let log = format!("{stdout}{stderr}");
    let facts = if case.check {
        findings(&stdout).unwrap_or_else(|| json!({"fails": true}))
    } else if status.signal().is_some() || log.contains("panicked at") {
        json!({"fails": true, "unreadable": "rbuild crashed"})
    } else if !status.success() {
        json!({"fails": true})
    } else {
        image::facts(&archive, &base_layer, case).unwrap_or_else(|reason| json!({"fails": true, "unreadable": reason}))
    };
    Outcome { facts, log }
}

/// Makes the case's inputs below `work`, and returns the flags that hand them over.
fn flags(case: &Case, base: &Path, work: &Path) -> Vec<String> {
    let context = work.join("context");
    inputs::make_files(&context, &case.files);
    let dockerfile = context.join(case.dockerfile_name.as_deref().unwrap_or("Dockerfile"));
    fs::write(&dockerfile, &case.dockerfile).expect("the Dockerfile of a case");
    inputs::settle(&dockerfile, MODIFIED - 86_400);
    let mut flags = Vec::new();
    if case.base {
        flags.push(format!("--build-context=base=oci-layout://{}", base.display()));
    }
    for (name, files) in &case.contexts {
        let folder = work.join(format!("context-{name}"));
        inputs::make_files(&folder, files);
        flags.push(format!("--build-context={name}={}", folder.display()));
    }
    for (name, text) in &case.secrets {
        let file = work.join(format!("secret-{name}"));
        fs::write(&file, text).expect("a secret of a case");
        flags.push(format!("--secret=id={name},src={}", file.display()));
    }
    let places = |flag: &String| {
        flag.replace("{work}", &work.display().to_string()).replace("{context}", &context.display().to_string())
    };
    flags.extend(case.args.iter().map(places));
    flags
}

/// Runs a program and returns its status, output and messages, or `None` when it took longer than allowed.
fn run(mut command: Command, limit: Duration) -> Option<(ExitStatus, String, String)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the rbuild under test can be run");
    let (sender, receiver) = mpsc::channel();
    let pipes: [Box<dyn Read + Send>; 2] = [
        Box::new(child.stdout.take().expect("standard output is a pipe")),
        Box::new(child.stderr.take().expect("standard error is a pipe")),
    ];
    for (place, mut pipe) in pipes.into_iter().enumerate() {
        let sender = sender.clone();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = pipe.read_to_end(&mut bytes);
            // The receiver is gone when the time was up.
            let _ = sender.send((place, read.map(|_| bytes)));
        });
    }
    let mut texts = [String::new(), String::new()];
    for _ in 0..texts.len() {
        let Ok((place, bytes)) = receiver.recv_timeout(limit) else {
            child.kill().expect("an own child can be killed");
            child.wait().expect("an own child can be waited for");
            return None;
        };
        texts[place] = String::from_utf8_lossy(&bytes.expect("a pipe can be read")).into_owned();
    }
    let status = child.wait().expect("an own child can be waited for");
    let [stdout, stderr] = texts;
    Some((status, stdout, stderr))
}

/// The rule and line of each finding of a check.
fn findings(stdout: &str) -> Option<Value> {
    let text = &stdout[stdout.find('{')?..];
    let report: Value = serde_json::Deserializer::from_str(text).into_iter().next()?.ok()?;
    let rules: Vec<&str> = LINT_RULES.split_whitespace().collect();
    let mut warnings: Vec<(String, u64)> = report["warnings"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|warning| {
            let lines = warning["location"]["ranges"].as_array().into_iter().flatten();
            let line = lines.filter_map(|range| range["start"]["line"].as_u64()).min().unwrap_or(0);
            (warning["ruleName"].as_str().unwrap_or_default().to_owned(), line)
        })
        .filter(|(rule, _)| rules.contains(&rule.as_str()))
        .collect();
    warnings.sort();
    let error = report.get("buildError").is_some_and(|error| !error.is_null());
    Some(json!({"warnings": warnings, "error": error}))
}
