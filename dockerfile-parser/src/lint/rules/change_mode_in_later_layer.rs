//! `ChangeModeInLaterLayer`: a layer holds whole files, so a changed mode doubles them.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::instruction::Instruction;
use crate::lint::rules::shell_text::{commands, script_text};

pub(super) const RULE: Rule = Rule {
    name: "ChangeModeInLaterLayer",
    description: "Modes and owners of copied files should be set by COPY itself",
    url: "",
    phase: Phase::Build,
    group: RuleGroup::Rbuild,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    // Layers of other stages are no part of the image.
    for stage in evaluation.stages.iter().filter(|stage| stage.shipped) {
        let mut copied: Vec<&str> = Vec::new();
        for step in &stage.steps {
            match &*step.instruction {
                Instruction::Copy(_) | Instruction::Add(_) => copied.push(step.destination.trim_end_matches('/')),
                Instruction::Run(run) => {
                    let text = script_text(run);
                    for tool in ["chmod", "chown"] {
                        if let Some(path) = changed_path(&text, tool, &copied) {
                            let message = format!(
                                "`{tool}` of `{path}` stores the copied files a second time: use `COPY --{tool}=…`"
                            );
                            findings.at(step.node, message);
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

/// The path, given to the tool in this script, that a COPY wrote before.
fn changed_path<'a>(text: &str, tool: &str, copied: &[&'a str]) -> Option<&'a str> {
    commands(text).filter(|command| command.first() == Some(&tool)).find_map(|command| {
        let mut paths = command.iter().skip(1).map(|word| word.trim_end_matches('/'));
        paths.find_map(|word| {
            copied.iter().copied().find(|path| path.len() > 1 && path.starts_with('/') && covers(word, path))
        })
    })
}

/// Whether a change of `changed` touches `path`.
fn covers(changed: &str, path: &str) -> bool {
    changed == path || changed.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
}
