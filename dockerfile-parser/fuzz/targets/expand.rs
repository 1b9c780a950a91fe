//! Any word is expanded, within the limits, without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_dockerfile::word::{MAX_EXPANSION_BYTES, expand, expand_heredoc, expand_words};

fuzz_target!(|text: &str| {
    let lookup = |name: &str| (name.len() < 3).then(|| "a value/with*signs".repeat(name.len()));
    if let Ok(expanded) = expand(text, '\\', &lookup) {
        assert!(expanded.text.len() <= MAX_EXPANSION_BYTES + 2 * text.len());
    }
    let _ = expand_words(text, '`', &lookup);
    let _ = expand_heredoc(text, &lookup);
});
