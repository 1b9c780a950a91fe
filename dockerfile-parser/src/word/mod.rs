//! Words: quotes, escapes and `$variable` expansion, as BuildKit's own small shell does it.
//!
//! | form | value |
//! | --- | --- |
//! | `$v` `${v}` | the value, or nothing if unset; `$1` takes digits only, `$@` and the like one character |
//! | `${v-w}` `${v:-w}` | `w` if `v` is unset (`:` – or empty) |
//! | `${v+w}` `${v:+w}` | `w` if `v` is set (`:` – and not empty) |
//! | `${v?m}` `${v:?m}` | fails with `m` if `v` is unset (`:` – or empty) |
//! | `${v#p}` `${v##p}` | the shortest (longest) match of the pattern `p` taken off the front |
//! | `${v%p}` `${v%%p}` | the same at the end |
//! | `${v/p/r}` `${v//p/r}` | the first (every) match of `p` replaced by `r` |
//!
//! Patterns know `*` and `?` but no `[…]`. The word behind an operator is always expanded itself, also where it is
//! not used, so a failing `${x:?}` in it fails. Values are never expanded, unquoted or split a second time, but
//! [`expand_words`] splits at blanks that came from variables.

mod lex;
mod pattern;

pub(crate) use lex::{Lex, LexOptions};

use crate::span::Span;

/// An expansion may be longer than the text it was made of by so many bytes.
pub const MAX_EXPANSION_BYTES: usize = 1 << 20;

/// `${a:-${b:-…}}` may be nested so deeply.
pub const MAX_NESTING: usize = 100;

/// Gives the value of a variable, `None` if it is unset.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// A variable that a text names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VariableUse {
    /// Its name.
    pub name: String,
    /// Whether it was set.
    pub set: bool,
    /// From the `$` to the end of the name or the closing brace: bytes of the text that was expanded.
    pub span: Span,
}

/// What a text became.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The value.
    pub text: String,
    /// Every variable looked up, set or not, in order of look-up.
    pub variables: Vec<VariableUse>,
}

/// What a text became that is split into words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExpandedWords {
    /// The words; an empty one only if something was there in quotes beside it.
    pub words: Vec<String>,
    /// Every variable looked up, set or not, in order of look-up.
    pub variables: Vec<VariableUse>,
}

/// A text that cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process `{}`: {kind}", shorten(.text))]
pub struct WordError {
    /// What is wrong.
    pub kind: WordErrorKind,
    /// The text that was expanded.
    pub text: String,
    /// The variables looked up before the fault was found.
    pub variables: Vec<VariableUse>,
}

/// What is wrong with a text that cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WordErrorKind {
    /// A quote without its counterpart.
    #[error("unexpected end of statement while looking for matching {0}-quote")]
    UnmatchedQuote(&'static str),
    /// `${` without `}`.
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    /// `${v/pattern` without a second slash.
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    /// `${}`, `${:`, `${{`.
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// An operator that is not known.
    #[error("unsupported modifier ({0}) in substitution")]
    UnsupportedModifier(String),
    /// `${v?message}` with `v` unset, or `${v:?message}` with `v` empty.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The message given, or a general one.
        message: String,
    },
    /// A pattern that escapes what cannot be escaped.
    #[error("invalid pattern ({0}) in substitution: invalid escape")]
    InvalidPattern(String),
    /// The value is larger than [`MAX_EXPANSION_BYTES`] allows.
    #[error("value larger than {MAX_EXPANSION_BYTES} bytes")]
    TooLarge,
    /// Braces are nested deeper than [`MAX_NESTING`].
    #[error("substitutions nested deeper than {MAX_NESTING}")]
    TooDeep,
    /// Pattern and value are so long that matching them would take too much time.
    #[error("pattern too long for a value of this size")]
    PatternTooCostly,
}

/// Long texts such as heredocs are cut in messages.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 120;
    let mut line: String = text.chars().take(LONGEST).map(|ch| if ch.is_control() { ' ' } else { ch }).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    line
}

/// Expands `text` to one value: variables replaced, quotes and escapes taken off.
///
/// ```
/// use rbuild_dockerfile::word::expand;
///
/// let lookup = |name: &str| (name == "VERSION").then(|| "1.2".to_owned());
/// let expanded = expand(r#"app-${VERSION}"-${ARCH:-amd64}""#, '\\', &lookup)?;
/// assert_eq!(expanded.text, "app-1.2-amd64");
/// let unset: Vec<&str> = expanded.variables.iter().filter(|used| !used.set).map(|used| used.name.as_str()).collect();
/// assert_eq!(unset, ["ARCH"]);
/// assert!(expand("${VERSION:?}", '\\', &|_| None).is_err());
/// # Ok::<(), rbuild_dockerfile::word::WordError>(())
/// ```
///
/// # Errors
///
/// Fails if quotes or braces do not match, an operator is unknown, a required variable is missing, or the
/// value gets too large.
pub fn expand(text: &str, escape: char, lookup: &Lookup<'_>) -> Result<Expanded, WordError> {
    Lex::new(text, escape, LexOptions::default(), lookup).expand()
}

/// Expands `text` and splits the result at blanks outside quotes, also at blanks that came from variables.
///
/// ```
/// let lookup = |_: &str| Some("80 443".to_owned());
/// let expanded = rbuild_dockerfile::word::expand_words("$PORTS 'a b'", '\\', &lookup)?;
/// assert_eq!(expanded.words, ["80", "443", "a b"]);
/// # Ok::<(), rbuild_dockerfile::word::WordError>(())
/// ```
///
/// # Errors
///
/// As [`expand`].
pub fn expand_words(text: &str, escape: char, lookup: &Lookup<'_>) -> Result<ExpandedWords, WordError> {
    Lex::new(text, escape, LexOptions::default(), lookup).expand_words()
}

/// Expands the body of a COPY or ADD heredoc: quotes are ordinary characters there, and the escape character is
/// a backslash whatever the file says.
///
/// # Errors
///
/// As [`expand`].
pub fn expand_heredoc(body: &str, lookup: &Lookup<'_>) -> Result<Expanded, WordError> {
    Lex::new(body, '\\', LexOptions { plain_quotes: true, ..LexOptions::default() }, lookup).expand()
}

#[cfg(test)]
mod tests;
