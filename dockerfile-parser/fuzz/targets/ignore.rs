//! Any `.dockerignore`, with any paths: a folder that is skipped holds nothing that is kept.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_core::context::{IgnoreRules, Verdict};
use rbuild_core::tree::TreePath;

/// How many of a path's folders are looked at.
const MOST_FOLDERS: usize = 64;

fuzz_target!(|bytes: &[u8]| {
    // The paths come first, the ignore file behind an empty line.
    let border = bytes.windows(2).position(|pair| pair == b"\n\n").map_or(0, |at| at + 1);
    let (paths, rules) = bytes.split_at(border);
    let Ok(rules) = IgnoreRules::parse(rules) else { return };
    for path in paths.split(|byte| *byte == b'\n').chain([&b"a/b/c"[..], b"node_modules/x.js"]) {
        let path = TreePath::clean(path);
        assert!(TreePath::new(path.as_bytes()).is_ok(), "{path:?} is not clean");
        let verdict = rules.verdict(&path);
        if rules.is_empty() {
            assert_eq!(verdict, Verdict::Kept);
        }
        // Each folder is decided from the top, so all folders of a deep path would take too long.
        let skipped = path.ancestors().take(MOST_FOLDERS).find(|folder| rules.can_skip_directory(folder));
        if let Some(folder) = skipped {
            assert_ne!(verdict, Verdict::Kept, "{path} is kept in {folder}, which is skipped");
        }
    }
});
