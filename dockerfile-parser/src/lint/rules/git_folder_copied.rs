//! `GitFolderCopied`: a repository's `.git` is large, differs with every commit, and may hold what was taken back.

use super::copied_folders::copied;
use super::{Evaluation, Findings, Phase, Rule, RuleGroup};
use crate::instruction::Instruction;
use crate::lint::evaluate::StageFacts;
use crate::lint::rules::shell_text::script_text;

pub(super) const RULE: Rule = Rule {
    name: "GitFolderCopied",
    description: "`.git` should not be copied with the folder that it is in",
    url: "",
    phase: Phase::Build,
    group: RuleGroup::Rbuild,
    experimental: false,
    check,
};

fn check(evaluation: &Evaluation<'_>, findings: &mut Findings<'_>) {
    for copied in copied(evaluation) {
        let has_git = |names: Vec<String>| names.iter().any(|name| name == ".git");
        let found = copied.names(findings).is_some_and(has_git) && !copied.excludes(".git");
        // The commands of a stage are many, so they come last.
        if found && !speaks_of_git(copied.stage) {
            let keyword = copied.step.instruction.keyword();
            let pattern = if copied.path.is_empty() { ".git".to_owned() } else { format!("{}/.git", copied.path) };
            let message = format!(
                "{keyword} of `{}` takes `{pattern}` along, which is another with every commit: \
                 name `{pattern}` in `.dockerignore`",
                copied.source
            );
            findings.at(copied.step.node, message);
        }
    }
}

/// Whether some command of the stage has to do with git, so that the history may be wanted.
fn speaks_of_git(stage: &StageFacts<'_>) -> bool {
    let is_git = |word: &str| word == "git" || word.ends_with("/.git") || word == ".git";
    let words = |text: &str| text.split(|ch: char| !(ch.is_alphanumeric() || "._/-".contains(ch))).any(is_git);
    stage.steps.iter().any(|step| match &*step.instruction {
        Instruction::Run(run) => words(&script_text(run)),
        _ => false,
    })
}
