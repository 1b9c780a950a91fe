//! The pages of `testdata/lint`: each rule reports its first example and nothing in its second.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use rbuild_dockerfile::lint::{LintContext, LintOptions, RULES, lint};
use rbuild_dockerfile::parse;

/// Rules that depend on more than the file: base images, `.dockerignore`, the files of the context.
const NEED_MORE: [&str; 4] =
    ["CopyIgnoredFile", "GitFolderCopied", "IgnorePatternMatchesNothing", "InvalidBaseImagePlatform"];

fn example<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, behind) = page.split_once(heading).unwrap_or_else(|| panic!("no {heading} in {page}"));
    let (_, behind) = behind.split_once("```dockerfile\n").expect("an example follows its heading");
    behind.split_once("```").expect("the example ends").0
}

fn reports(text: &str, rule: &str) -> bool {
    let (file, diagnostics) = parse(text);
    assert!(!diagnostics.has_errors(), "{rule}: {diagnostics:?}");
    let none = BTreeMap::new();
    let mut context = LintContext::new(&none);
    context.predefined_args.insert("TARGETPLATFORM".to_owned(), "linux/amd64".to_owned());
    context.all_stages = true;
    if let Some(check) = &file.directives.check {
        context.options = LintOptions::parse(&check.value).expect("valid options");
    }
    lint(&file, &diagnostics, &context).warnings.iter().any(|warning| warning.rule == rule)
}

#[test]
fn pages_tell_the_truth() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/lint");
    let mut described: BTreeSet<String> = NEED_MORE.iter().map(|name| (*name).to_owned()).collect();
    for entry in fs::read_dir(&root).expect("the pages are there") {
        let path = entry.expect("a folder can be listed").path();
        let page = fs::read_to_string(&path).expect("a page is text");
        let name = path.file_stem().expect("a page has a name").to_string_lossy().into_owned();
        assert!(page.starts_with(&format!("# {name}\n")), "{name}");
        assert!(reports(example(&page, "## Reported"), &name), "{name} does not report its example");
        assert!(!reports(example(&page, "## Not reported"), &name), "{name} reports the good example");
        described.insert(name);
    }
    let rules: BTreeSet<String> = RULES.iter().map(|rule| rule.name.to_owned()).collect();
    assert_eq!(described, rules);
}
