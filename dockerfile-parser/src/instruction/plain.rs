//! Instructions with plain arguments: WORKDIR, USER, STOPSIGNAL, MAINTAINER and VOLUME.

use super::Request;
use crate::lexer::Word;

/// WORKDIR. The whole rest of the line, blanks included; expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workdir {
    /// The directory, relative ones count from the one before.
    pub path: Word,
}

/// USER. Expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// `user` or `user:group`, names or numbers.
    pub user: Word,
}

/// STOPSIGNAL. Expanded, and only then checked ([`crate::signal`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopsignal {
    /// A signal's name or number.
    pub signal: Word,
}

/// MAINTAINER. Not expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintainer {
    /// The author, quotes included.
    pub author: Word,
}

/// VOLUME. Each path is expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The paths.
    pub paths: Vec<Word>,
}

pub(super) fn parse_workdir(request: &mut Request<'_>) -> Option<Workdir> {
    request.no_flags();
    request.exactly_one().map(|path| Workdir { path })
}

pub(super) fn parse_user(request: &mut Request<'_>) -> Option<User> {
    request.no_flags();
    request.exactly_one().map(|user| User { user })
}

pub(super) fn parse_stopsignal(request: &mut Request<'_>) -> Option<Stopsignal> {
    // COMPAT(buildkit): flags of STOPSIGNAL are neither known nor refused.
    request.exactly_one().map(|signal| Stopsignal { signal })
}

pub(super) fn parse_maintainer(request: &mut Request<'_>) -> Option<Maintainer> {
    request.no_flags();
    request.exactly_one().map(|author| Maintainer { author })
}

pub(super) fn parse_volume(request: &mut Request<'_>) -> Option<Volume> {
    request.no_flags();
    let words = request.json_or_words()?;
    if words.is_empty() {
        request.at_least_one();
        return None;
    }
    let mut paths = Vec::new();
    for word in words {
        let text = word.text.trim();
        if text.is_empty() {
            request.error_at("empty-volume", "VOLUME specified can not be an empty string".to_owned(), word.span);
        } else {
            paths.push(Word::new(text, word.span));
        }
    }
    Some(Volume { paths })
}
