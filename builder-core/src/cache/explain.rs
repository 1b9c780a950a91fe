//! Why a step could not use an earlier result.

use std::collections::BTreeMap;

use super::PreImage;

/// How many changed inputs are named before the rest is only counted.
const NAMED_INPUTS: usize = 3;

/// Says in one line which inputs of a step differ from an earlier run of the same step.
///
/// Values are shown only where they are short and no digests. The answer is empty when nothing differs.
#[must_use]
pub fn explain_miss(before: &PreImage, now: &PreImage) -> String {
    let old: BTreeMap<&str, &str> = before.inputs().iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let new: BTreeMap<&str, &str> = now.inputs().iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let mut changes = Vec::new();
    for (name, value) in now.inputs() {
        match old.get(name.as_str()) {
            None => changes.push(format!("{name} is new")),
            Some(earlier) if earlier != value => changes.push(changed(name, earlier, value)),
            Some(_) => {}
        }
    }
    changes.extend(
        before.inputs().iter().filter(|(n, _)| !new.contains_key(n.as_str())).map(|(n, _)| format!("{n} is gone")),
    );
    // The digest over all files says nothing that the files themselves don't say better.
    if changes.len() > 1 {
        changes.retain(|c| !c.starts_with("files "));
    }
    let more = changes.len().saturating_sub(NAMED_INPUTS);
    changes.truncate(NAMED_INPUTS);
    let mut text = changes.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

fn changed(name: &str, before: &str, now: &str) -> String {
    let shown = |v: &str| v.len() <= 40 && !v.contains('\n') && !v.starts_with("sha256:");
    if name.starts_with("file ") {
        return format!("{name} changed: {}", file_difference(before, now));
    }
    if shown(before) && shown(now) { format!("{name} `{before}` -> `{now}`") } else { format!("{name} changed") }
}

/// Compares two descriptions of a file, `type mode owner digest …` separated by blanks.
fn file_difference(before: &str, now: &str) -> String {
    const FIELDS: [&str; 6] = ["type", "mode", "owner", "content", "link", "xattrs"];
    let differing: Vec<&str> = FIELDS
        .iter()
        .zip(before.split(' ').zip(now.split(' ')))
        .filter(|(_, (a, b))| a != b)
        .map(|(f, _)| *f)
        .collect();
    if differing.is_empty() { "content".to_owned() } else { differing.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(pairs: &[(&str, &str)]) -> PreImage {
        let mut image = PreImage::new();
        pairs.iter().for_each(|(n, v)| image.add(*n, *v));
        image
    }

    #[test]
    fn names_what_changed() {
        let before = image(&[("instruction", "RUN a"), ("ARG V", "1"), ("file x", "file 644 0:0 aa - -")]);
        for (now, want) in [
            (image(&[("instruction", "RUN a"), ("ARG V", "2"), ("file x", "file 644 0:0 aa - -")]), "ARG V `1` -> `2`"),
            (
                image(&[("instruction", "RUN a"), ("ARG V", "1"), ("file x", "file 644 0:0 bb - -")]),
                "file x changed: content",
            ),
            (
                image(&[("instruction", "RUN a"), ("ARG V", "1"), ("file x", "file 755 0:0 aa - -")]),
                "file x changed: mode",
            ),
            (image(&[("instruction", "RUN a"), ("ARG V", "1")]), "file x is gone"),
            (before.clone(), ""),
        ] {
            assert_eq!(explain_miss(&before, &now), want);
        }
    }
}
