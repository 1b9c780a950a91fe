//! RUN.

use super::Request;
use super::command::{CommandLine, command_line};
use super::flag::{FlagKind, FlagTable};
use crate::device::parse_device;
use crate::diagnostic::Diagnostic;
use crate::heredoc::{Heredoc, HeredocWord};
use crate::lexer::Word;
use crate::mount::check_mount_text;
use crate::suggest::{did_you_mean, nearest};

/// RUN. Only the values in `--mount` are expanded, with [`crate::mount::parse_mount`]; the command never is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// `--mount`, in order, as written.
    pub mounts: Vec<Word>,
    /// `--network`.
    pub network: RunNetwork,
    /// `--security`.
    pub security: RunSecurity,
    /// `--device`, in order, as written: for [`crate::device::parse_device`].
    pub devices: Vec<Word>,
    /// The command on the instruction's own lines. See [`Run::script`] for what is run.
    pub command: CommandLine,
    /// The heredocs, in order.
    pub heredocs: Vec<Heredoc>,
}

/// Which network a RUN has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RunNetwork {
    /// The build's network.
    #[default]
    Default,
    /// No network.
    None,
    /// The host's network.
    Host,
}

/// Which rights a RUN has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RunSecurity {
    /// The usual sandbox.
    #[default]
    Sandbox,
    /// Full rights.
    Insecure,
}

/// What a RUN runs, its heredocs put in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunScript {
    /// Program and arguments, without a shell.
    Exec(Vec<String>),
    /// Text for the image's shell: its last argument.
    Shell(String),
    /// A heredoc whose first line begins with `#!`: the content is offered read-only as `/dev/pipes/<name>`, mode
    /// 0755, and that path is the shell's last argument.
    File {
        /// The heredoc's name.
        name: String,
        /// The file's content.
        content: String,
    },
}

impl RunScript {
    /// Where the file of [`RunScript::File`] lies while it runs.
    pub const DIRECTORY: &'static str = "/dev/pipes";

    /// The arguments to run, also those of the history text.
    pub fn arguments(&self, shell: &[String]) -> Vec<String> {
        let text = match self {
            Self::Exec(arguments) => return arguments.clone(),
            Self::Shell(text) => text.clone(),
            Self::File { name, .. } => format!("{}/{name}", Self::DIRECTORY),
        };
        shell.iter().cloned().chain([text]).collect()
    }
}

impl Run {
    /// Puts the heredocs in place.
    ///
    /// If the command is nothing but a heredoc, its body (leading tabs taken off for `<<-`) is the script. With a
    /// command beside it the text is put together again and the shell reads the heredocs itself.
    pub fn script(&self) -> RunScript {
        let text = match &self.command {
            CommandLine::Exec(words) => return RunScript::Exec(words.iter().map(|word| word.text.clone()).collect()),
            CommandLine::Shell(word) => &word.text,
        };
        let Some(first) = self.heredocs.first() else { return RunScript::Shell(text.clone()) };
        if HeredocWord::parse(text).is_some() {
            let content = first.content();
            if first.body.starts_with("#!") {
                return RunScript::File { name: first.word.name.clone(), content };
            }
            return RunScript::Shell(content);
        }
        let mut full = text.clone();
        for heredoc in &self.heredocs {
            full.push('\n');
            full.push_str(&heredoc.body);
            full.push_str(heredoc.name());
        }
        RunScript::Shell(full)
    }
}

const FLAGS: FlagTable =
    &[("mount", FlagKind::List), ("network", FlagKind::Text), ("security", FlagKind::Text), ("device", FlagKind::List)];

pub(super) fn parse(request: &mut Request<'_>) -> Option<Run> {
    let mut flags = request.flags(FLAGS);
    let mounts = flags.list("mount");
    for mount in &mounts {
        if let Err(error) = check_mount_text(&mount.text) {
            request.error_at("invalid-mount", error.to_string(), mount.span);
        }
    }
    let network = match flags.text("network") {
        None => RunNetwork::Default,
        Some(word) => match word.text.as_str() {
            "default" => RunNetwork::Default,
            "none" => RunNetwork::None,
            "host" => RunNetwork::Host,
            _ => choice(request, &word, "network mode", &["default", "none", "host"]),
        },
    };
    let security = match flags.text("security") {
        None => RunSecurity::Sandbox,
        Some(word) => match word.text.as_str() {
            "sandbox" => RunSecurity::Sandbox,
            "insecure" => RunSecurity::Insecure,
            _ => choice(request, &word, "security mode", &["sandbox", "insecure"]),
        },
    };
    let devices = flags.list("device");
    for device in &devices {
        if let Err(error) = parse_device(&device.text) {
            request.error_at("invalid-device", error.to_string(), device.span);
        }
    }
    let command = command_line(request, request.parts.args)?;
    if command.is_empty() && !command.is_shell() {
        request.at_least_one();
        return None;
    }
    let heredocs = std::mem::take(&mut request.heredocs);
    Some(Run { mounts, network, security, devices, command, heredocs })
}

fn choice<T: Default>(request: &mut Request<'_>, word: &Word, what: &str, known: &[&str]) -> T {
    let message = format!("invalid {what} `{}` of RUN: it is one of {}", word.text, known.join(", "));
    let mut error = Diagnostic::error("invalid-flag-value", message, word.span);
    if let Some(candidate) = nearest(&word.text, known.iter().copied()) {
        error = error.with_help(did_you_mean(candidate));
    }
    request.diagnostics.push(error);
    T::default()
}
