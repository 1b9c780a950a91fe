//! Comparing what a build made with what was recorded.

use serde_json::Value;

use crate::case::Case;

/// Whether that path matches the glob: `*` is any text, slashes included, `?` one character, `[abc]` and `[!abc]` sets.
pub(crate) fn matches(glob: &[u8], path: &[u8]) -> bool {
    match glob.split_first() {
        None => path.is_empty(),
        Some((b'*', rest)) => (0..=path.len()).any(|skipped| matches(rest, &path[skipped..])),
        Some((b'?', rest)) => !path.is_empty() && matches(rest, &path[1..]),
        Some((b'[', rest)) if rest.iter().skip(2).any(|byte| *byte == b']') => {
            let (negated, set) = rest.strip_prefix(b"!").map_or((false, rest), |set| (true, set));
            let end = 1 + set.iter().skip(1).position(|byte| *byte == b']').unwrap_or(set.len() - 1);
            !path.is_empty() && set[..end].contains(&path[0]) != negated && matches(&set[end + 1..], &path[1..])
        }
        Some((byte, rest)) => path.first() == Some(byte) && matches(rest, &path[1..]),
    }
}

/// Takes out what the case does not compare.
pub(crate) fn narrow(side: &mut Value, case: &Case) {
    let Some(facts) = side.as_object_mut() else { return };
    if !case.compare_shape {
        facts.remove("shape");
    }
    let ignored = |path: &str| case.ignore.iter().any(|glob| matches(glob.as_bytes(), path.as_bytes()));
    if let Some(tree) = facts.get_mut("tree").and_then(Value::as_object_mut) {
        tree.retain(|path, _| !ignored(path));
        if !case.compare_hardlinks {
            for entry in tree.values_mut().filter_map(Value::as_object_mut) {
                entry.remove("hardlink");
            }
        }
    }
    if let Some(removed) = facts.get_mut("removed").and_then(Value::as_array_mut) {
        removed.retain(|path| !ignored(path.as_str().unwrap_or_default()));
    }
}

/// One line for each place where the two differ.
pub(crate) fn differences(wanted: &Value, got: &Value, path: &str, lines: &mut Vec<String>) {
    let (Value::Object(wanted), Value::Object(got)) = (wanted, got) else {
        if wanted != got {
            lines.push(format!("{path}: want {}, got {}", short(wanted), short(got)));
        }
        return;
    };
    let keys: std::collections::BTreeSet<&String> = wanted.keys().chain(got.keys()).collect();
    for key in keys {
        // The text is there for people; a file's digest says the same.
        if key == "text" && wanted.get("sha256") == got.get("sha256") {
            continue;
        }
        match (wanted.get(key), got.get(key)) {
            (Some(wanted), None) => lines.push(format!("{path}/{key}: missing (want {})", short(wanted))),
            (None, Some(got)) => lines.push(format!("{path}/{key}: unexpected {}", short(got))),
            (Some(wanted), Some(got)) => differences(wanted, got, &format!("{path}/{key}"), lines),
            (None, None) => {}
        }
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() < 160 {
        return text;
    }
    text.chars().take(157).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn globs_match_as_shells_do_without_regard_to_slashes() {
        for (glob, path, expected) in [
            ("*", "a/b", true),
            ("copy-*", "copy-file", true),
            ("copy-*", "add-copy-file", false),
            ("e?c/*", "etc/passwd", true),
            ("[ab]x", "bx", true),
            ("[!ab]x", "bx", false),
            ("[", "[", true),
            ("a", "ab", false),
        ] {
            assert_eq!(matches(glob.as_bytes(), path.as_bytes()), expected, "{glob} {path}");
        }
    }

    #[test]
    fn every_difference_has_a_line() {
        let wanted = json!({"config": {"User": "a"}, "tree": {"f": {"sha256": "1", "text": "x"}, "g": 1}});
        let got = json!({"config": {"User": "b"}, "tree": {"f": {"sha256": "1", "text": "y"}, "h": 2}});
        let mut lines = Vec::new();
        differences(&wanted, &got, "", &mut lines);
        assert_eq!(lines, [r#"/config/User: want "a", got "b""#, "/tree/g: missing (want 1)", "/tree/h: unexpected 2"]);
        lines.clear();
        differences(&wanted, &wanted.clone(), "", &mut lines);
        assert!(lines.is_empty());
    }
}
