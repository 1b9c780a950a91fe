//! The typed instructions.
//!
//! Everything textual is as written (a [`Word`]): quotes and variables are still in it, since what they become
//! depends on the build. Each type says which of its words BuildKit expands.

mod command;
mod copy;
mod expose;
mod flag;
mod from;
mod healthcheck;
mod key_value;
mod onbuild;
mod plain;
mod run;

pub use command::{Cmd, CommandLine, Entrypoint, Shell};
pub use copy::{Add, Copy, is_remote_source};
pub use expose::Expose;
pub use from::{From, is_stage_name};
pub use healthcheck::{Healthcheck, HealthcheckCommand};
pub use key_value::{Arg, ArgDeclaration, Env, KeyValue, Label};
pub use onbuild::{Onbuild, parse_trigger};
pub use plain::{Maintainer, Stopsignal, User, Volume, Workdir};
pub use run::{Run, RunNetwork, RunScript, RunSecurity};

pub(crate) use flag::split_flags;
pub(crate) use onbuild::trigger_parts;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::heredoc::Heredoc;
use crate::json;
use crate::lexer::{LogicalLine, Part, Word};
use crate::span::Span;
use crate::suggest::{did_you_mean, nearest};
use flag::{FlagTable, Flags, parse_flags};

/// One understood instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    /// FROM: begins a stage.
    From(From),
    /// ARG: build arguments.
    Arg(Arg),
    /// ENV: environment variables.
    Env(Env),
    /// LABEL: labels of the image.
    Label(Label),
    /// RUN: runs a command.
    Run(Run),
    /// COPY: copies files.
    Copy(Copy),
    /// ADD: copies files, unpacks archives, fetches URLs.
    Add(Add),
    /// CMD: default arguments.
    Cmd(Cmd),
    /// ENTRYPOINT: the program of the image.
    Entrypoint(Entrypoint),
    /// EXPOSE: ports.
    Expose(Expose),
    /// HEALTHCHECK: how to probe a container.
    Healthcheck(Healthcheck),
    /// MAINTAINER: the author (deprecated).
    Maintainer(Maintainer),
    /// ONBUILD: an instruction for images built on this one.
    Onbuild(Onbuild),
    /// SHELL: the shell of the shell form.
    Shell(Shell),
    /// STOPSIGNAL: the signal that ends a container.
    Stopsignal(Stopsignal),
    /// USER: who runs commands.
    User(User),
    /// VOLUME: places for volumes.
    Volume(Volume),
    /// WORKDIR: the working directory.
    Workdir(Workdir),
}

impl Instruction {
    /// The keyword in upper case.
    pub fn keyword(&self) -> &'static str {
        match self {
            Self::From(_) => "FROM",
            Self::Arg(_) => "ARG",
            Self::Env(_) => "ENV",
            Self::Label(_) => "LABEL",
            Self::Run(_) => "RUN",
            Self::Copy(_) => "COPY",
            Self::Add(_) => "ADD",
            Self::Cmd(_) => "CMD",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Shell(_) => "SHELL",
            Self::Stopsignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// The keywords of all instructions, sorted.
pub const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A logical line cut into keyword, flags and arguments.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    /// The keyword as written.
    pub(crate) keyword: Word,
    /// The same in upper case if it is known.
    pub(crate) name: Option<&'static str>,
    /// The flags, quotes taken off.
    pub(crate) flags: Vec<Word>,
    /// The arguments without blanks around.
    pub(crate) args: Part<'a>,
}

impl<'a> Parts<'a> {
    pub(crate) fn split(whole: Part<'a>) -> Self {
        let whole = whole.trim();
        let (keyword, rest) = whole.cut_blank();
        let rest = rest.unwrap_or(whole.from(whole.text().len()));
        let (flags, args) = split_flags(rest);
        let name = KEYWORDS.iter().find(|known| known.eq_ignore_ascii_case(keyword.text())).copied();
        Self { keyword: keyword.word(), name, flags, args: args.trim() }
    }

    pub(crate) fn of_line(line: &'a LogicalLine) -> Self {
        Self::split(line.all())
    }

    /// Whether heredocs may follow: RUN, COPY and ADD in the shell form.
    pub(crate) fn takes_heredocs(&self) -> bool {
        matches!(self.name, Some("RUN" | "COPY" | "ADD")) && !matches!(json_array(self.args), JsonArray::Strings(_))
    }
}

/// What the arguments are as JSON.
pub(crate) enum JsonArray {
    /// An array of strings: the exec form.
    Strings(Vec<Word>),
    /// An array that holds something else, which is an error.
    OtherValues,
    /// Anything else: the shell form.
    No,
}

pub(crate) fn json_array(args: Part<'_>) -> JsonArray {
    let text = args.text().trim_start();
    if !text.starts_with('[') {
        return JsonArray::No;
    }
    let offset = args.text().len() - text.len();
    let Some(json::Value::Array(list)) = json::parse(text) else { return JsonArray::No };
    let mut words = Vec::new();
    for value in list {
        let json::Value::String(text, range) = value else { return JsonArray::OtherValues };
        words.push(Word::new(text, args.slice(offset + range.start, offset + range.end).span()));
    }
    JsonArray::Strings(words)
}

/// An instruction on its way to its type.
pub(crate) struct Request<'a> {
    /// Keyword, flags and arguments.
    pub(crate) parts: &'a Parts<'a>,
    /// The keyword in upper case, for messages.
    pub(crate) name: &'static str,
    /// Bodies of heredocs.
    pub(crate) heredocs: Vec<Heredoc>,
    /// The escape character.
    pub(crate) escape: char,
    /// Where faults go.
    pub(crate) diagnostics: &'a mut Diagnostics,
}

impl Request<'_> {
    fn flags(&mut self, table: FlagTable) -> Flags {
        parse_flags(self.name, &self.parts.flags, table, self.diagnostics)
    }

    fn no_flags(&mut self) {
        self.flags(&[]);
    }

    /// From the keyword to the end of the arguments.
    fn span(&self) -> Span {
        let end = if self.parts.args.is_empty() { self.parts.keyword.span } else { self.parts.args.span() };
        self.parts.keyword.span.join(end)
    }

    fn error(&mut self, code: &'static str, message: String) {
        let span = self.span();
        self.diagnostics.push(Diagnostic::error(code, message, span));
    }

    fn error_at(&mut self, code: &'static str, message: String, span: Span) {
        self.diagnostics.push(Diagnostic::error(code, message, span));
    }

    /// The arguments as one word; none is an error.
    fn exactly_one(&mut self) -> Option<Word> {
        if self.parts.args.is_empty() {
            self.error("missing-argument", format!("{} requires exactly one argument", self.name));
            return None;
        }
        Some(self.parts.args.word())
    }

    fn at_least_one(&mut self) {
        self.error("missing-argument", format!("{} requires at least one argument", self.name));
    }

    /// The strings of a JSON array, or what there is between blanks.
    fn json_or_words(&mut self) -> Option<Vec<Word>> {
        match json_array(self.parts.args) {
            JsonArray::Strings(words) => Some(words),
            JsonArray::No => Some(self.parts.args.blank_delimited()),
            JsonArray::OtherValues => {
                self.not_strings();
                None
            }
        }
    }

    fn not_strings(&mut self) {
        let message = format!("{}: a JSON array must hold strings only", self.name);
        self.error("json-not-strings", message);
    }
}

/// Makes the typed instruction; faults go to the diagnostics.
pub(crate) fn parse_instruction(
    parts: &Parts<'_>,
    heredocs: Vec<Heredoc>,
    escape: char,
    original: &str,
    diagnostics: &mut Diagnostics,
) -> Option<Instruction> {
    let Some(name) = parts.name else {
        diagnostics.push(unknown_instruction(&parts.keyword));
        return None;
    };
    let mut request = Request { parts, name, heredocs, escape, diagnostics };
    let request = &mut request;
    match name {
        "FROM" => from::parse(request).map(Instruction::From),
        "ARG" => key_value::parse_arg(request).map(Instruction::Arg),
        "ENV" => key_value::parse_env(request).map(Instruction::Env),
        "LABEL" => key_value::parse_label(request).map(Instruction::Label),
        "RUN" => run::parse(request).map(Instruction::Run),
        "COPY" => copy::parse_copy(request).map(Instruction::Copy),
        "ADD" => copy::parse_add(request).map(Instruction::Add),
        "CMD" => command::parse_cmd(request).map(Instruction::Cmd),
        "ENTRYPOINT" => command::parse_entrypoint(request).map(Instruction::Entrypoint),
        "SHELL" => command::parse_shell(request).map(Instruction::Shell),
        "EXPOSE" => expose::parse(request).map(Instruction::Expose),
        "HEALTHCHECK" => healthcheck::parse(request).map(Instruction::Healthcheck),
        "MAINTAINER" => plain::parse_maintainer(request).map(Instruction::Maintainer),
        "ONBUILD" => onbuild::parse(request, original).map(Instruction::Onbuild),
        "STOPSIGNAL" => plain::parse_stopsignal(request).map(Instruction::Stopsignal),
        "USER" => plain::parse_user(request).map(Instruction::User),
        "VOLUME" => plain::parse_volume(request).map(Instruction::Volume),
        _ => plain::parse_workdir(request).map(Instruction::Workdir),
    }
}

fn unknown_instruction(keyword: &Word) -> Diagnostic {
    let upper = keyword.text.to_uppercase();
    let error =
        Diagnostic::error("unknown-instruction", format!("unknown instruction: {}", keyword.text), keyword.span);
    match nearest(&upper, KEYWORDS) {
        Some(candidate) => error.with_help(did_you_mean(candidate)),
        None => error,
    }
}
