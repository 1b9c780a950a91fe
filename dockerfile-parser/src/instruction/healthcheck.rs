//! `HEALTHCHECK [--interval=…] CMD command` and `HEALTHCHECK NONE`

use std::time::Duration;

use super::Request;
use super::command::{CommandLine, command_line};
use super::flag::{FlagKind, FlagTable, Flags};
use crate::duration::parse_duration;

/// HEALTHCHECK. Nothing in it is expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `NONE`: no check, not even the base image's.
    None,
    /// `CMD`: a command.
    Command(HealthcheckCommand),
}

impl Healthcheck {
    /// The `Test` of the image configuration: `NONE`, `CMD` with arguments, or `CMD-SHELL` with the text.
    pub fn test(&self) -> Vec<String> {
        match self {
            Self::None => vec!["NONE".to_owned()],
            Self::Command(HealthcheckCommand { command, .. }) => {
                let kind = if command.is_shell() { "CMD-SHELL" } else { "CMD" };
                let mut test = vec![kind.to_owned()];
                test.extend(command.arguments(&[]));
                test
            }
        }
    }
}

/// A check and its options; options that are zero or absent are inherited by the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthcheckCommand {
    /// What is run.
    pub command: CommandLine,
    /// Time between two checks.
    pub interval: Duration,
    /// Time that a check may take.
    pub timeout: Duration,
    /// Time for the container to start up.
    pub start_period: Duration,
    /// Time between two checks while it starts up.
    pub start_interval: Duration,
    /// Failures in a row that make a container unhealthy.
    pub retries: u32,
}

const FLAGS: FlagTable = &[
    ("interval", FlagKind::Text),
    ("timeout", FlagKind::Text),
    ("start-period", FlagKind::Text),
    ("start-interval", FlagKind::Text),
    ("retries", FlagKind::Text),
];

/// The shortest duration that is not zero.
const SHORTEST: i64 = 1_000_000;

/// Whether a text is a JSON list of nothing.
fn is_empty_list(text: &str) -> bool {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.is_some_and(|inner| inner.trim().is_empty())
}

pub(super) fn parse(request: &mut Request<'_>) -> Option<Healthcheck> {
    let args = request.parts.args;
    if args.is_empty() {
        request.at_least_one();
        return None;
    }
    let text = args.text();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let kind = text[..end].to_uppercase();
    let rest = args.from(end).trim();
    match kind.as_str() {
        // COMPAT(buildkit): flags of HEALTHCHECK NONE are neither known nor refused.
        "NONE" if rest.is_empty() || is_empty_list(rest.text()) => Some(Healthcheck::None),
        "NONE" => {
            request.error_at("healthcheck-none", "HEALTHCHECK NONE takes no arguments".to_owned(), rest.span());
            None
        }
        "CMD" => {
            let mut flags = request.flags(FLAGS);
            let command = command_line(request, rest)?;
            if command.is_empty() && (rest.is_empty() || !command.is_shell()) {
                request.error("healthcheck-command", "missing command after HEALTHCHECK CMD".to_owned());
                return None;
            }
            Some(Healthcheck::Command(HealthcheckCommand {
                command,
                interval: duration(request, &mut flags, "interval"),
                timeout: duration(request, &mut flags, "timeout"),
                start_period: duration(request, &mut flags, "start-period"),
                start_interval: duration(request, &mut flags, "start-interval"),
                retries: retries(request, &mut flags),
            }))
        }
        _ => {
            let message = format!("unknown type `{kind}` in HEALTHCHECK: it takes CMD or NONE");
            let span = args.slice(0, end).span();
            request.error_at("healthcheck-type", message, span);
            None
        }
    }
}

fn duration(request: &mut Request<'_>, flags: &mut Flags, name: &str) -> Duration {
    let Some(word) = flags.text(name) else { return Duration::ZERO };
    match parse_duration(&word.text) {
        Ok(0) => Duration::ZERO,
        Ok(nanoseconds) if nanoseconds < SHORTEST => {
            let message = format!("`--{name}` of HEALTHCHECK cannot be less than 1ms, but is `{}`", word.text);
            request.error_at("healthcheck-option", message, word.span);
            Duration::ZERO
        }
        Ok(nanoseconds) => Duration::from_nanos(nanoseconds.unsigned_abs()),
        Err(error) => {
            request.error_at("healthcheck-option", format!("`--{name}` of HEALTHCHECK: {error}"), word.span);
            Duration::ZERO
        }
    }
}

fn retries(request: &mut Request<'_>, flags: &mut Flags) -> u32 {
    let Some(word) = flags.text("retries") else { return 0 };
    match word.text.parse::<i32>() {
        Ok(number) if number >= 0 => number.unsigned_abs(),
        Ok(number) => {
            let message = format!("`--retries` of HEALTHCHECK cannot be negative ({number})");
            request.error_at("healthcheck-option", message, word.span);
            0
        }
        Err(_) => {
            let message = format!("`--retries` of HEALTHCHECK must be a number, not `{}`", word.text);
            request.error_at("healthcheck-option", message, word.span);
            0
        }
    }
}
