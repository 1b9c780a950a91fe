//! Any text is parsed, printed back and looked at by the linter without a panic.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use rbuild_dockerfile::lint::{LintContext, lint};

fuzz_target!(|text: &str| {
    let (file, diagnostics) = rbuild_dockerfile::parse(text);
    assert_eq!(file.to_string(), text);
    for node in &file.instructions {
        assert_eq!(node.keyword.span.text(text), node.keyword.text);
    }
    let args = BTreeMap::new();
    let mut context = LintContext::new(&args);
    context.all_stages = true;
    lint(&file, &diagnostics, &context);
});
