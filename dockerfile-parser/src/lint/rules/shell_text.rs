//! A rough look at shell scripts: words of simple commands, good enough to find the usual spellings.

use crate::instruction::{Run, RunScript};

/// The text that a RUN gives to a shell; arguments of the exec form with blanks between.
pub(super) fn script_text(run: &Run) -> String {
    match run.script() {
        RunScript::Exec(arguments) => arguments.join(" "),
        RunScript::Shell(text) => text,
        RunScript::File { content, .. } => content,
    }
}

/// The words of each simple command, cut at line ends, `;`, `&`, `|` and brackets; assignments in front are left out.
pub(super) fn commands(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.split(['\n', ';', '&', '|', '(', ')', '{', '}']).map(|command| {
        command
            .split_whitespace()
            .skip_while(|word| {
                word.contains('=') || matches!(*word, "sudo" | "then" | "do" | "else" | "exec" | "env" | "!")
            })
            .map(|word| word.trim_matches(['"', '\'']))
            .collect()
    })
}

/// Whether `tool` is called with `command` as its first word that is no option.
pub(super) fn has_command(text: &str, tool: &str, command: &str) -> bool {
    commands(text).any(|words| {
        words.first() == Some(&tool) && words.iter().skip(1).find(|word| !word.starts_with('-')) == Some(&command)
    })
}

#[cfg(test)]
mod tests {
    use super::has_command;

    #[test]
    fn tools_and_commands() {
        for (text, expected) in [
            ("apt-get update", true),
            ("set -e; DEBIAN_FRONTEND=x apt-get -qq update && true", true),
            ("echo apt-get update", false),
            ("apt-get install update", false),
            ("if true; then apt-get update; fi", true),
        ] {
            assert_eq!(has_command(text, "apt-get", "update"), expected, "{text}");
        }
    }
}
