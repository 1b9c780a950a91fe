//! Which step of an earlier build a step is: Dockerfiles are edited, and numbers shift.

/// Finds for each of `now` its counterpart in `before`: equal texts in the same order, and between those, texts of the
/// same instruction by their order.
#[must_use]
pub fn align(before: &[&str], now: &[&str]) -> Vec<Option<usize>> {
    if before == now {
        return (0..now.len()).map(Some).collect();
    }
    let mut found = vec![None; now.len()];
    let (mut old, mut new) = (0, 0);
    for (next_old, next_new) in common(before, now).into_iter().chain([(before.len(), now.len())]) {
        pair(before, now, (old, next_old), (new, next_new), &mut found);
        if let Some(place) = found.get_mut(next_new) {
            *place = Some(next_old);
        }
        (old, new) = (next_old + 1, next_new + 1);
    }
    found
}

/// Pairs what lies between two equal texts.
fn pair(before: &[&str], now: &[&str], old: (usize, usize), new: (usize, usize), found: &mut [Option<usize>]) {
    let keyword = |text: &str| text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    let mut left: Vec<usize> = (old.0..old.1).collect();
    for number in new.0..new.1 {
        if let Some(at) = left.iter().position(|&old| keyword(before[old]) == keyword(now[number])) {
            found[number] = Some(left[at]);
            left.drain(..=at);
        }
    }
}

/// The longest common subsequence, as pairs of places.
fn common(before: &[&str], now: &[&str]) -> Vec<(usize, usize)> {
    let mut lengths = vec![vec![0_usize; now.len() + 1]; before.len() + 1];
    for i in (0..before.len()).rev() {
        for j in (0..now.len()).rev() {
            lengths[i][j] =
                if before[i] == now[j] { lengths[i + 1][j + 1] + 1 } else { lengths[i + 1][j].max(lengths[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while i < before.len() && j < now.len() {
        if before[i] == now[j] {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if lengths[i + 1][j] >= lengths[i][j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::align;

    #[test]
    fn steps_are_found_where_they_moved_to() {
        for (before, now, want) in [
            (&["RUN a", "RUN b"][..], &["RUN a", "RUN b"][..], &[Some(0), Some(1)][..]),
            (&["RUN a", "RUN b"], &["RUN a", "RUN x", "RUN b"], &[Some(0), None, Some(1)]),
            (&["RUN a", "RUN b"], &["RUN b"], &[Some(1)]),
            (&["RUN a", "COPY b c"], &["RUN x", "COPY b c"], &[Some(0), Some(1)]),
            (&["RUN a", "COPY b c"], &["COPY x c"], &[Some(1)]),
            (&["RUN a"], &["COPY x c"], &[None]),
            (&[], &["RUN a"], &[None]),
            (&["RUN a", "RUN a"], &["RUN a", "RUN a"], &[Some(0), Some(1)]),
        ] {
            assert_eq!(align(before, now), want, "{before:?} {now:?}");
        }
    }
}
