//! What the style of this code asks for and a script can check: which module uses which, file sizes, module docs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules that each module may use; a change here is a change of the architecture.
const EDGES: &[(&str, &[&str])] = &[
    ("cache", &["oci", "progress", "tree"]),
    ("context", &["tree"]),
    ("error", &["progress"]),
    (
        "exec",
        &[
            "cache",
            "context",
            "error",
            "image",
            "layer",
            "oci",
            "plan",
            "progress",
            "reference",
            "registry",
            "remote",
            "rootfs",
            "snapshot",
            "store",
            "sys",
            "tree",
        ],
    ),
    ("image", &["layer", "oci", "store", "tree"]),
    ("layer", &["oci", "sys", "tree"]),
    ("oci", &[]),
    ("plan", &["oci", "reference"]),
    ("progress", &["oci"]),
    ("reference", &["oci"]),
    ("registry", &["oci", "progress", "reference", "sys"]),
    ("remote", &["oci", "progress", "registry"]),
    ("rootfs", &["tree"]),
    ("snapshot", &["rootfs", "tree"]),
    ("store", &["oci", "sys"]),
    ("sys", &["tree"]),
    ("tree", &[]),
];

/// No file of code is longer.
const LINES_MAX: usize = 1000;

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn sources(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut files);
    assert!(!files.is_empty());
    files
}

/// Every `crate::name` of the code itself; tests of a module may use more.
fn used_modules(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let names =
        code.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| line.split("crate::").skip(1));
    names
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>())
        .filter(|n| !n.is_empty())
        .collect()
}

#[test]
fn modules_use_what_they_may() {
    let allowed: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for file in sources("src") {
        let inside = file.strip_prefix(&root).expect("below src").to_owned();
        let module = inside.components().next().expect("a name").as_os_str().to_string_lossy().replace(".rs", "");
        let is_test = inside.to_string_lossy().contains("tests");
        if module == "lib" || is_test {
            continue;
        }
        let edges = allowed.get(module.as_str()).unwrap_or_else(|| panic!("`{module}` is not in the list"));
        for used in used_modules(&fs::read_to_string(&file).expect("text")) {
            if allowed.contains_key(used.as_str()) && used != module && !edges.contains(&used.as_str()) {
                wrong.push(format!("{} uses {used}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_say_what_they_are_for_and_are_not_too_long() {
    for folder in ["src", "../cli/src", "../dockerfile-parser/src"] {
        for file in sources(folder) {
            let text = fs::read_to_string(&file).expect("text");
            let lines = text.lines().count();
            assert!(lines <= LINES_MAX, "{} has {lines} lines", file.display());
            let included = file.to_string_lossy().contains("tests");
            assert!(text.starts_with("//!") || included, "{} does not begin with what it is for", file.display());
        }
    }
}

#[test]
fn unsafe_code_is_in_sys_only() {
    for file in sources("src") {
        let text = fs::read_to_string(&file).expect("text");
        let in_sys = file.components().any(|part| part.as_os_str() == "sys");
        let found = text.lines().any(|line| {
            !line.trim_start().starts_with("//") && (line.contains("unsafe {") || line.contains("unsafe fn"))
        });
        assert!(in_sys || !found, "{} has unsafe code", file.display());
    }
}
