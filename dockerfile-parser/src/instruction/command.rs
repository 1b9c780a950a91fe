//! Commands in shell and exec form: CMD, ENTRYPOINT and SHELL.

use super::{JsonArray, Request, json_array};
use crate::lexer::Word;

/// A command in one of its two forms. Neither is expanded by the builder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// Text for the shell; empty if the instruction has no arguments.
    Shell(Word),
    /// A JSON array: program and arguments.
    Exec(Vec<Word>),
}

impl CommandLine {
    /// Whether the image's shell is put in front.
    pub fn is_shell(&self) -> bool {
        matches!(self, Self::Shell(_))
    }

    /// The arguments that are run or recorded: `shell` and the text, or the array as it is.
    pub fn arguments(&self, shell: &[String]) -> Vec<String> {
        match self {
            Self::Shell(word) => shell.iter().cloned().chain([word.text.clone()]).collect(),
            Self::Exec(words) => words.iter().map(|word| word.text.clone()).collect(),
        }
    }

    /// Whether there is nothing in it: no text, or an empty array.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Shell(word) => word.text.is_empty(),
            Self::Exec(words) => words.is_empty(),
        }
    }
}

/// CMD. `CMD []` clears the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cmd {
    /// The command.
    pub command: CommandLine,
}

/// ENTRYPOINT. `ENTRYPOINT []` clears the entrypoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entrypoint {
    /// The command.
    pub command: CommandLine,
}

/// SHELL. Not expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shell {
    /// Program and arguments, at least one.
    pub shell: Vec<Word>,
}

/// Reads the arguments as a command line; an array with other values than strings is an error.
pub(super) fn command_line(request: &mut Request<'_>, args: crate::lexer::Part<'_>) -> Option<CommandLine> {
    match json_array(args) {
        JsonArray::Strings(words) => Some(CommandLine::Exec(words)),
        JsonArray::No => Some(CommandLine::Shell(args.word())),
        JsonArray::OtherValues => {
            request.not_strings();
            None
        }
    }
}

pub(super) fn parse_cmd(request: &mut Request<'_>) -> Option<Cmd> {
    request.no_flags();
    command_line(request, request.parts.args).map(|command| Cmd { command })
}

pub(super) fn parse_entrypoint(request: &mut Request<'_>) -> Option<Entrypoint> {
    request.no_flags();
    command_line(request, request.parts.args).map(|command| Entrypoint { command })
}

pub(super) fn parse_shell(request: &mut Request<'_>) -> Option<Shell> {
    request.no_flags();
    match command_line(request, request.parts.args)? {
        command if command.is_empty() => {
            request.at_least_one();
            None
        }
        CommandLine::Exec(shell) => Some(Shell { shell }),
        CommandLine::Shell(word) => {
            let message = format!(
                "SHELL requires the arguments to be in JSON form, as in [\"/bin/sh\", \"-c\"], not `{}`",
                word.text
            );
            request.error_at("shell-not-json", message, word.span);
            None
        }
    }
}
