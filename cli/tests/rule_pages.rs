//! The pages of `docs/rules`: there is one for each rule, its examples are true, and so is what it says of `--fix`.

use std::fs;
use std::path::{Path, PathBuf};

use rbuild_dockerfile::lint::RULES;
use snapbox::cmd::Command;
use tempfile::TempDir;

/// A rule whose finding takes an image of another platform.
const NEEDS_AN_IMAGE: &str = "InvalidBaseImagePlatform";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The first example of a language behind a heading.
fn example<'a>(page: &'a str, heading: &str, language: &str) -> Option<&'a str> {
    let (_, behind) = page.split_once(heading)?;
    let section = behind.split("\n## ").next()?;
    let (_, example) = section.split_once(&format!("```{language}\n"))?;
    example.split_once("```").map(|(example, _)| example)
}

/// A build context as the section shows it: Dockerfile, `.dockerignore`, and files by their names.
fn folder(page: &str, heading: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("the folder for temporary files can be written");
    for path in example(page, heading, "files").unwrap_or_default().lines() {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a new folder can be written");
        fs::write(path, "").expect("a new folder can be written");
    }
    let dockerfile = example(page, heading, "dockerfile").expect(heading);
    fs::write(folder.path().join("Dockerfile"), dockerfile).expect("a new folder can be written");
    if let Some(ignore) = example(page, heading, "dockerignore") {
        fs::write(folder.path().join(".dockerignore"), ignore).expect("a new folder can be written");
    }
    folder
}

/// Whether `rbuild check` with these flags reports the rule.
fn reports(folder: &TempDir, rule: &str, flags: &[&str]) -> bool {
    let output = Command::new(snapbox::cmd::cargo_bin!("rbuild"))
        .env_clear()
        .env("RBUILD_ROOT", folder.path().join(".store"))
        .current_dir(folder.path())
        .args(["check", "--format=json"])
        .args(flags)
        .output()
        .expect("rbuild runs");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{rule}: {error}: {}", String::from_utf8_lossy(&output.stderr)));
    let warnings = report["warnings"].as_array().expect("a report has warnings");
    warnings.iter().any(|warning| warning["ruleName"] == rule)
}

#[test]
fn each_rule_has_a_page_that_is_true() {
    let pages = root().join("docs/rules");
    let list = read(&pages.join("README.md"));
    for rule in &RULES {
        let name = rule.name;
        let page = read(&pages.join(format!("{name}.md")));
        assert!(page.starts_with(&format!("# {name}\n\n{}. ", rule.description)), "{name}: the first lines");
        assert!(page.contains(rule.url) && page.contains("\n## Why\n"), "{name}: link and reason");
        assert!(rule.experimental || page.contains(&format!("# check=skip={name}\n")), "{name}: how to turn it off");
        let mends = page.contains("`rbuild check --fix` mends it.");
        let row = format!("| [{name}]({name}.md) | {} | {} |", rule.description, if mends { "yes" } else { "" });
        assert!(list.contains(&row), "the list has no `{row}`");
        if name == NEEDS_AN_IMAGE {
            continue;
        }
        assert!(!reports(&folder(&page, "## Good"), name, &[]), "{name}: the good example is reported");
        let folder = folder(&page, "## Bad");
        assert!(reports(&folder, name, &[]), "{name}: the bad example is not reported");
        assert_eq!(!reports(&folder, name, &["--fix"]), mends, "{name}: what the page says of --fix");
    }
}

#[test]
fn pages_and_test_cases_have_the_same_examples() {
    for rule in &RULES {
        let case = root().join("testdata/lint").join(format!("{}.md", rule.name));
        let Ok(case) = fs::read_to_string(case) else { continue };
        let page = read(&root().join("docs/rules").join(format!("{}.md", rule.name)));
        for (heading, same) in [("## Bad", "## Reported"), ("## Good", "## Not reported")] {
            let examples = (example(&page, heading, "dockerfile"), example(&case, same, "dockerfile"));
            assert_eq!(examples.0, examples.1, "{}: {heading}", rule.name);
        }
    }
}
