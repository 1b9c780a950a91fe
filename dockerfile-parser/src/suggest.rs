//! The nearest known name to a misspelt one.

/// Names with more differing letters than this are never suggested.
const MAX_DISTANCE: usize = 3;

/// The candidate that is nearest to `name` without regard to case, if one is near enough to be meant.
///
/// At most a third of the letters may differ (one in short names). A candidate that is the same apart from
/// case is suggested too; an equal one never.
///
/// ```
/// assert_eq!(rbuild_dockerfile::nearest("biuld", ["base", "build"]), Some("build"));
/// assert_eq!(rbuild_dockerfile::nearest("release", ["base", "build"]), None);
/// ```
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted: Vec<char> = name.to_lowercase().chars().collect();
    if wanted.is_empty() || wanted.len() > 64 {
        return None;
    }
    let limit = (wanted.len() / 3).clamp(1, MAX_DISTANCE);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        if candidate == name {
            continue;
        }
        let have: Vec<char> = candidate.to_lowercase().chars().collect();
        if have.len().abs_diff(wanted.len()) > limit {
            continue;
        }
        let distance = distance(&wanted, &have);
        if distance <= limit && best.is_none_or(|(least, text)| (distance, candidate) < (least, text)) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// The help text of a suggestion.
pub(crate) fn did_you_mean(candidate: &str) -> String {
    format!("did you mean `{candidate}`?")
}

/// Edits (insert, delete, replace, swap neighbours) that turn one word into the other.
fn distance(left: &[char], right: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut current = vec![i + 1];
        for (j, b) in right.iter().enumerate() {
            let replace = previous[j] + usize::from(a != b);
            let mut least = replace.min(previous[j + 1] + 1).min(current[j] + 1);
            if i > 0 && j > 0 && left[i - 1] == *b && right[j - 1] == *a {
                least = least.min(before[j - 1] + 1);
            }
            current.push(least);
        }
        before = std::mem::replace(&mut previous, current);
    }
    previous[right.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let names = ["RUN", "COPY", "ENTRYPOINT", "WORKDIR"];
        for (name, expected) in [
            ("WORKDRI", Some("WORKDIR")),
            ("ENTRPOINT", Some("ENTRYPOINT")),
            ("COPPY", Some("COPY")),
            ("RNU", Some("RUN")),
            ("copy", Some("COPY")),
            ("COPY", None),
            ("FETCH", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, names), expected, "{name}");
        }
    }
}
