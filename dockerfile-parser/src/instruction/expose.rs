//! `EXPOSE port[/protocol] …`

use super::Request;
use crate::lexer::Word;

/// EXPOSE. Each word is expanded and may become several ([`crate::word::expand_words`]); only then is it read as
/// ports ([`crate::port`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expose {
    /// The words, sorted by their text as BuildKit does it.
    pub ports: Vec<Word>,
}

pub(super) fn parse(request: &mut Request<'_>) -> Option<Expose> {
    request.no_flags();
    let mut ports = request.parts.args.blank_delimited();
    if ports.is_empty() {
        request.at_least_one();
        return None;
    }
    ports.sort_by(|left, right| left.text.cmp(&right.text));
    Some(Expose { ports })
}
