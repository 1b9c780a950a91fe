//! `JSONArgsRecommended`: in shell form the shell is process 1 and does not pass signals on. Not reported if SHELL was chosen on purpose.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::instruction::{CommandLine, Instruction};

pub(super) const RULE: Rule = Rule {
    name: "JSONArgsRecommended",
    description: "CMD and ENTRYPOINT should be JSON arrays, so that the program gets signals",
    url: "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/",
    phase: Phase::Build,
    group: RuleGroup::BuildKit,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for step in evaluation.steps() {
        let command = match &*step.instruction {
            Instruction::Cmd(cmd) => &cmd.command,
            Instruction::Entrypoint(entrypoint) => &entrypoint.command,
            _ => continue,
        };
        if let CommandLine::Shell(word) = command
            && step.shell.is_empty()
        {
            let keyword = step.instruction.keyword();
            let message = match word.text.starts_with("[\"") || word.text.starts_with("['") {
                true => format!("{keyword} in shell form, because what is in its brackets is no JSON array"),
                false => format!("{keyword} in shell form: the shell gets the signals, not the program"),
            };
            findings.at(step.node, message);
        }
    }
}
