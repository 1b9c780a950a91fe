//! `FROM [--platform=P] image [AS name]`

use super::Request;
use super::flag::FlagKind;
use crate::diagnostic::Diagnostic;
use crate::lexer::Word;
use crate::suggest::did_you_mean;

/// FROM. Base and platform are expanded with the global build arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// What the stage is built on: `scratch`, an earlier stage, a named context or an image.
    pub base: Word,
    /// The stage's name as written; stages are found by its lower-case form.
    pub name: Option<Word>,
    /// The word `AS` as written.
    pub as_keyword: Option<Word>,
    /// `--platform`.
    pub platform: Option<Word>,
}

/// Whether a name, in lower case, may be a stage's: a letter, then letters, digits, `-`, `_` and `.`.
pub fn is_stage_name(name: &str) -> bool {
    name.starts_with(|ch: char| ch.is_ascii_lowercase())
        && name.chars().all(|ch| ch.is_ascii_lowercase() || ch.is_ascii_digit() || matches!(ch, '-' | '_' | '.'))
}

pub(super) fn parse(request: &mut Request<'_>) -> Option<From> {
    let platform = request.flags(&[("platform", FlagKind::Text)]).text("platform");
    let mut words = request.parts.args.blank_delimited().into_iter();
    let (base, as_keyword, name, more) = (words.next(), words.next(), words.next(), words.next());
    match (base, as_keyword, name, more) {
        (Some(base), None, _, _) => Some(From { base, name: None, as_keyword: None, platform }),
        (Some(base), Some(as_keyword), Some(name), None) if is_as(&as_keyword) => {
            if !is_stage_name(&name.text.to_lowercase()) {
                let message = format!(
                    "invalid name for build stage: `{}`, a name starts with a letter and holds only letters, digits, `-`, `_` and `.`",
                    name.text
                );
                request.error_at("invalid-stage-name", message, name.span);
            }
            Some(From { base, name: Some(name), as_keyword: Some(as_keyword), platform })
        }
        (base, second, third, _) => {
            let message = "FROM requires either one or three arguments (`FROM image` or `FROM image AS name`)";
            let error = Diagnostic::error("from-arguments", message, request.span());
            request.diagnostics.push(match (&base, second.filter(|_| third.is_none())) {
                (Some(base), Some(name)) if is_stage_name(&name.text.to_lowercase()) && !is_as(&name) => {
                    error.with_help(did_you_mean(&format!("FROM {} AS {}", base.text, name.text)))
                }
                _ => error,
            });
            base.map(|base| From { base, name: None, as_keyword: None, platform })
        }
    }
}

fn is_as(word: &Word) -> bool {
    word.text.eq_ignore_ascii_case("as")
}
