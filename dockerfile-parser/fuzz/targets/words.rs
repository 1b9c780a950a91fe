//! Any word is expanded: in bounded size, the same each time, with the variables where it says.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_dockerfile::word::{MAX_EXPANSION_BYTES, VariableUse, expand, expand_heredoc, expand_words};

fuzz_target!(|text: &str| {
    let lookup = |name: &str| match name {
        "A" => Some(String::new()),
        "B" => Some("v a/l*?\\'\"$A".to_owned()),
        "C" => Some("é/".repeat(100)),
        _ => None,
    };
    for escape in ['\\', '`'] {
        let whole = expand(text, escape, &lookup);
        assert_eq!(whole, expand(text, escape, &lookup));
        if let Ok(expanded) = whole {
            check(text, expanded.text.len(), &expanded.variables);
        }
        if let Ok(expanded) = expand_words(text, escape, &lookup) {
            check(text, expanded.words.iter().map(String::len).sum(), &expanded.variables);
        }
    }
    if let Ok(expanded) = expand_heredoc(text, &lookup) {
        check(text, expanded.text.len(), &expanded.variables);
    }
});

fn check(text: &str, length: usize, variables: &[VariableUse]) {
    assert!(length <= text.len() + MAX_EXPANSION_BYTES, "{length} bytes of {}", text.len());
    for used in variables {
        assert!(text.get(used.span.range()).is_some(), "{used:?}");
    }
}
