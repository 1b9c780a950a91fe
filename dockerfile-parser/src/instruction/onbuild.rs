//! ONBUILD, and the triggers that images carry.

use super::{Instruction, JsonArray, Parts, Request, json_array, parse_instruction};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::lexer::Part;
use crate::parse::parse_fragment;
use crate::span::Span;

/// ONBUILD. Not expanded; the trigger is, once it fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Onbuild {
    /// The text that the image records: the inner instruction, continuation lines joined, heredocs behind it.
    pub expression: String,
    /// The inner instruction, if it is understood. One that is not is only refused when it fires.
    pub trigger: Option<Box<Instruction>>,
}

/// The inner instruction of an ONBUILD line.
pub(crate) fn trigger_parts<'a>(args: Part<'a>) -> Option<Parts<'a>> {
    (!args.is_empty()).then(|| Parts::split(args))
}

pub(super) fn parse_onbuild_text(original: &str, heredocs: &[crate::Heredoc]) -> String {
    let text = original.trim_start();
    let mut expression = text.get("ONBUILD".len()..).unwrap_or_default().trim_start().to_owned();
    for heredoc in heredocs {
        expression.push('\n');
        expression.push_str(&heredoc.body);
        expression.push_str(heredoc.name());
    }
    expression
}

pub(super) fn parse(request: &mut Request<'_>, original: &str) -> Option<Onbuild> {
    request.no_flags();
    let Some(inner) = trigger_parts(request.parts.args) else {
        request.at_least_one();
        return None;
    };
    match inner.name {
        Some("ONBUILD") => {
            let message = "chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned();
            request.error_at("onbuild-chain", message, inner.keyword.span);
            return None;
        }
        Some(name @ ("FROM" | "MAINTAINER")) => {
            let message = format!("{name} isn't allowed as an ONBUILD trigger");
            request.error_at("onbuild-trigger", message, inner.keyword.span);
            return None;
        }
        _ => {}
    }
    let expression = parse_onbuild_text(original, &request.heredocs);
    let mut found = Diagnostics::default();
    let heredocs = std::mem::take(&mut request.heredocs);
    let trigger = parse_instruction(&inner, heredocs, request.escape, inner.args.text(), &mut found);
    for diagnostic in found {
        request.diagnostics.push(trigger_diagnostic(&inner, diagnostic));
    }
    Some(Onbuild { expression, trigger: trigger.map(Box::new) })
}

/// COMPAT(buildkit): of a trigger only its syntax is checked where it is written; the rest when it fires.
fn trigger_diagnostic(inner: &Parts<'_>, diagnostic: Diagnostic) -> Diagnostic {
    let json = matches!(json_array(inner.args), JsonArray::OtherValues)
        && matches!(
            inner.name,
            Some("ADD" | "COPY" | "CMD" | "ENTRYPOINT" | "RUN" | "SHELL" | "VOLUME" | "HEALTHCHECK")
        );
    let pairs = matches!(diagnostic.code, "missing-equals" | "missing-value");
    if json || pairs {
        return diagnostic;
    }
    let message = format!("this trigger will be refused when it fires: {}", diagnostic.message);
    Diagnostic { severity: crate::Severity::Warning, code: "onbuild-trigger-fails", message, ..diagnostic }
}

/// Reads a trigger that a base image recorded: one instruction with its heredocs.
///
/// The escape character is always a backslash, since the image does not record another one.
///
/// # Errors
///
/// Gives all faults if the text is not exactly one valid instruction that may be a trigger.
pub fn parse_trigger(text: &str) -> Result<Instruction, Diagnostics> {
    let (file, mut diagnostics) = parse_fragment(text);
    let mut instructions = file.into_iter();
    let (first, more) = (instructions.next(), instructions.next());
    if more.is_some() {
        let message = "ONBUILD trigger should be a single instruction";
        diagnostics.push(Diagnostic::error("onbuild-trigger", message, Span::new(0, text.len())));
    }
    let instruction = first.and_then(|node| node.instruction);
    if let Some(Instruction::From(_) | Instruction::Onbuild(_) | Instruction::Maintainer(_)) = &instruction {
        let keyword = instruction.as_ref().map_or("", Instruction::keyword);
        let message = format!("{keyword} isn't allowed as an ONBUILD trigger");
        diagnostics.push(Diagnostic::error("onbuild-trigger", message, Span::new(0, text.len())));
    }
    match instruction {
        Some(instruction) if !diagnostics.has_errors() => Ok(instruction),
        _ => Err(diagnostics),
    }
}
