//! `HeredocWithoutErrexit`: the shell goes on after a failing line unless told otherwise.

use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::heredoc::HeredocWord;
use crate::instruction::{Instruction, RunScript};

pub(super) const RULE: Rule = Rule {
    name: "HeredocWithoutErrexit",
    description: "A RUN heredoc of several commands should stop at the first failure (`set -e`)",
    url: "",
    phase: Phase::Build,
    group: RuleGroup::Rbuild,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for step in evaluation.steps() {
        let Instruction::Run(run) = &*step.instruction else { continue };
        if run.heredocs.is_empty() {
            continue;
        }
        let RunScript::Shell(script) = run.script() else { continue };
        let is_script = run.command.arguments(&[]).iter().all(|text| HeredocWord::parse(text).is_some());
        let commands = script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        // A line that goes on in the next one is no command of its own.
        let goes_on = |line: &&str| ["\\", "&&", "||", "|"].iter().any(|end| line.ends_with(end));
        let count = commands.clone().filter(|line| !goes_on(line)).count();
        if is_script && count > 1 && !shell_stops(&step.shell) && !sets_errexit(commands.take(3)) {
            let message = "only the last command's status counts in this heredoc: begin it with `set -e`".to_owned();
            findings.at(step.node, message);
        }
    }
}

/// `-e` (alone or in a group of letters), or `-o errexit`, among the shell's arguments.
fn shell_stops(shell: &[String]) -> bool {
    shell.iter().skip(1).any(|word| is_errexit(word))
}

fn is_errexit(word: &str) -> bool {
    word == "errexit"
        || word.strip_prefix('-').is_some_and(|letters| {
            letters.contains('e') && letters.bytes().all(|byte| byte.is_ascii_alphabetic()) && letters.len() < 8
        })
}

fn sets_errexit<'a>(mut commands: impl Iterator<Item = &'a str>) -> bool {
    commands.any(|line| line.strip_prefix("set ").is_some_and(|words| words.split_whitespace().any(is_errexit)))
}
