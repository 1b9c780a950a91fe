//! Why a step could not use an earlier result.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::compare::compare;
use super::files::Files;
use super::{PreImage, input};
use crate::progress::{FileChange, Miss, MissCause, VariableKind};

/// What a step is in the Dockerfile: in no key, and kept beside it to tell what changed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Written {
    /// The instruction's text on one line, variables not expanded.
    pub text: String,
    /// Variables that the text uses, as inputs are named (`ARG X`), with their values.
    #[serde(default)]
    pub variables: Vec<(String, String)>,
    /// The bodies of its heredocs by name, as written.
    #[serde(default)]
    pub heredocs: Vec<(String, String)>,
}

/// All that is known of one run of a step.
#[derive(Debug, Clone, Copy)]
pub struct StepFacts<'a> {
    /// What its key was made of.
    pub inputs: &'a PreImage,
    /// What it is in the Dockerfile.
    pub written: &'a Written,
    /// The files that it takes, one by one, where that was recorded.
    pub files: Option<&'a Files>,
}

/// How the values of an input differ; an input may have several.
struct Difference<'a> {
    name: &'a str,
    before: Option<&'a str>,
    now: Option<&'a str>,
}

/// Says which inputs of a step differ from those of an earlier run. `None` when none does.
#[must_use]
pub fn explain_miss(before: &StepFacts<'_>, now: &StepFacts<'_>) -> Option<Miss> {
    let differences = differences(before.inputs, now.inputs);
    let mut causes = Vec::new();
    let textual = differences.iter().any(|d| input::is_text(d.name));
    if textual {
        causes.extend(explain_text(before, now));
    }
    let other_source = differences.iter().any(|d| d.name == input::SOURCE);
    for difference in &differences {
        let cause = match difference.name {
            input::BASE => MissCause::BaseImage { before: layers(difference.before), now: layers(difference.now) },
            input::EARLIER_STEP => MissCause::EarlierStep,
            // What was copied from elsewhere is another matter, not a change of files.
            input::FILES if other_source => continue,
            input::FILES => {
                causes.extend(explain_files(before, now, None));
                continue;
            }
            name if input::is_text(name) => continue,
            name => match other(difference, name) {
                Some(cause) => cause,
                None => {
                    let target = name.strip_prefix(input::MOUNTED_FILES).unwrap_or(name).trim_start();
                    causes.extend(explain_files(before, now, Some(target)));
                    continue;
                }
            },
        };
        if !causes.contains(&cause) {
            causes.push(cause);
        }
    }
    if causes.is_empty() && textual {
        causes.push(instruction(before, now));
    }
    // What a step is given itself says more than that something before it changed.
    causes.sort_by_key(|cause| matches!(cause, MissCause::EarlierStep));
    (!causes.is_empty()).then_some(Miss { causes })
}

/// The inputs whose values differ, in the order they have now.
fn differences<'a>(before: &'a PreImage, now: &'a PreImage) -> Vec<Difference<'a>> {
    fn grouped(image: &PreImage) -> BTreeMap<&str, Vec<&str>> {
        let mut map: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        image.inputs().iter().for_each(|(name, value)| map.entry(name).or_default().push(value));
        map
    }
    let (old, new) = (grouped(before), grouped(now));
    let mut seen = BTreeSet::new();
    let names = now.inputs().iter().chain(before.inputs()).map(|(name, _)| name.as_str());
    let first = |list: Option<&Vec<&'a str>>, other: Option<&Vec<&'a str>>| -> Option<&'a str> {
        let list = list?;
        let at = list.iter().enumerate().position(|(n, v)| other.and_then(|o| o.get(n)) != Some(v)).unwrap_or(0);
        list.get(at).copied()
    };
    names
        .filter(|name| old.get(name) != new.get(name) && seen.insert(*name))
        .map(|name| Difference {
            name,
            before: first(old.get(name), new.get(name)),
            now: first(new.get(name), old.get(name)),
        })
        .collect()
}

/// The cause of a difference that is neither of the text nor of files; `None` for what a mount shows.
fn other(difference: &Difference<'_>, name: &str) -> Option<MissCause> {
    let owned = |value: Option<&str>| value.map(str::to_owned);
    if name.starts_with(input::MOUNTED_FILES) {
        return None;
    }
    if let Some(mount) = name.strip_prefix("mount ") {
        return Some(MissCause::Mount { mount: mount.to_owned() });
    }
    for (prefix, kind) in [("ARG ", VariableKind::Arg), ("ENV ", VariableKind::Env)] {
        if let Some(name) = name.strip_prefix(prefix) {
            return Some(variable(kind, name, difference.before, difference.now));
        }
    }
    let (before, now) = (owned(difference.before), owned(difference.now));
    Some(MissCause::Setting { name: name.to_owned(), before, now })
}

fn variable(kind: VariableKind, name: &str, before: Option<&str>, now: Option<&str>) -> MissCause {
    let hidden = input::is_hidden(name) || [before, now].iter().flatten().any(|value| input::is_hidden_value(value));
    let value = |value: Option<&str>| value.filter(|_| !hidden).map(str::to_owned);
    MissCause::Variable { kind, name: name.to_owned(), before: value(before), now: value(now), hidden }
}

/// Why the instruction reads otherwise: it was edited, a variable in it has another value, or a heredoc was edited.
fn explain_text(before: &StepFacts<'_>, now: &StepFacts<'_>) -> Vec<MissCause> {
    let mut causes = Vec::new();
    // Of a step from another machine's cache nobody knows how it was written.
    let known = !before.written.text.is_empty();
    if known && before.written.text != now.written.text {
        causes.push(instruction(before, now));
    }
    let value = |facts: &StepFacts<'_>, name: &str| {
        facts.written.variables.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone())
    };
    if known && causes.is_empty() {
        for (name, new) in &now.written.variables {
            let old = value(before, name);
            let Some((kind, short)) = name.split_once(' ').filter(|_| old.as_ref() != Some(new)) else { continue };
            let kind = if kind == "ARG" { VariableKind::Arg } else { VariableKind::Env };
            causes.push(variable(kind, short, old.as_deref(), Some(new)));
        }
    }
    for (number, (name, body)) in now.written.heredocs.iter().enumerate() {
        let old = before.written.heredocs.get(number).filter(|(n, _)| n == name);
        if let Some((_, old)) = old.filter(|(_, old)| old != body) {
            causes.push(heredoc(name, old, body));
        }
    }
    causes
}

fn instruction(before: &StepFacts<'_>, now: &StepFacts<'_>) -> MissCause {
    MissCause::Instruction { before: before.written.text.clone(), now: now.written.text.clone() }
}

/// The first line in which two bodies differ.
fn heredoc(name: &str, before: &str, now: &str) -> MissCause {
    let (mut old, mut new) = (before.lines(), now.lines());
    let mut line = 1;
    loop {
        match (old.next(), new.next()) {
            (Some(a), Some(b)) if a == b => line += 1,
            (before, now) => {
                let owned = |text: Option<&str>| text.map(str::to_owned);
                return MissCause::Heredoc { name: name.to_owned(), line, before: owned(before), now: owned(now) };
            }
        }
    }
}

fn explain_files(before: &StepFacts<'_>, now: &StepFacts<'_>, mount: Option<&str>) -> Vec<MissCause> {
    let causes = match (before.files, now.files) {
        (Some(before), Some(now)) => compare(before, now, mount),
        _ => Vec::new(),
    };
    if !causes.is_empty() {
        return causes;
    }
    let mount = mount.map(str::to_owned);
    vec![MissCause::Files { mount, change: FileChange::Unknown, files: Vec::new(), count: 0 }]
}

fn layers(value: Option<&str>) -> Option<String> {
    value.filter(|value| *value != input::NO_LAYERS).map(str::to_owned)
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
