//! Wildcards as Go's `filepath.Match` understands them: `*`, `?`, `[a-z]`, `[^a]` and backslash escapes.
//!
//! Neither `*` nor `?` matches a slash. A pattern is checked whole before it is used, so a bad one is an error whatever
//! it is matched against.

/// A pattern breaks the rules: an unclosed or empty class, a bad range, or a backslash at the end.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error("bad pattern `{pattern}`")]
pub struct BadPattern {
    pub(super) pattern: String,
}

/// One piece of a parsed pattern.
enum Token {
    Star,
    AnyCharacter,
    Byte(u8),
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// Whether a text has a wildcard that no backslash escapes.
#[must_use]
pub fn has_wildcards(text: &[u8]) -> bool {
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Whether a pattern matches the whole of `name`.
///
/// # Errors
/// When the pattern is bad.
pub fn matches(pattern: &[u8], name: &[u8]) -> Result<bool, BadPattern> {
    Ok(Glob::parse(pattern)?.matches(name))
}

/// A parsed pattern.
pub(super) struct Glob(Vec<Token>);

impl Glob {
    /// Parses and checks a pattern.
    pub(super) fn parse(pattern: &[u8]) -> Result<Self, BadPattern> {
        let bad = || BadPattern { pattern: String::from_utf8_lossy(pattern).into_owned() };
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let [first, tail @ ..] = rest {
            rest = tail;
            match first {
                b'*' => {
                    if !matches!(tokens.last(), Some(Token::Star)) {
                        tokens.push(Token::Star);
                    }
                }
                b'?' => tokens.push(Token::AnyCharacter),
                b'[' => {
                    let (class, tail) = parse_class(rest).ok_or_else(bad)?;
                    tokens.push(class);
                    rest = tail;
                }
                b'\\' => {
                    let (byte, tail) = rest.split_first().ok_or_else(bad)?;
                    tokens.push(Token::Byte(*byte));
                    rest = tail;
                }
                byte => tokens.push(Token::Byte(*byte)),
            }
        }
        Ok(Self(tokens))
    }

    /// Whether it matches the whole of `name`. Linear but for one level of backtracking, to the last star.
    pub(super) fn matches(&self, name: &[u8]) -> bool {
        let tokens = &self.0;
        let (mut token, mut at) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        loop {
            if token == tokens.len() && at == name.len() {
                return true;
            }
            if let Some(Token::Star) = tokens.get(token) {
                star = Some((token, at));
                token += 1;
                continue;
            }
            if let Some(width) = tokens.get(token).and_then(|t| t.width_of(&name[at..])) {
                token += 1;
                at += width;
                continue;
            }
            match star {
                Some((position, from)) if from < name.len() && name[from] != b'/' => {
                    star = Some((position, from + 1));
                    token = position + 1;
                    at = from + 1;
                }
                _ => return false,
            }
        }
    }
}

impl Token {
    /// How many bytes at the start of `rest` the token takes; `None` where it doesn't match.
    fn width_of(&self, rest: &[u8]) -> Option<usize> {
        match self {
            Self::Star => None,
            Self::Byte(byte) => (rest.first() == Some(byte)).then_some(1),
            Self::AnyCharacter => {
                let (c, width) = first_character(rest)?;
                (c != '/').then_some(width)
            }
            Self::Class { negated, ranges } => {
                let (c, width) = first_character(rest)?;
                (ranges.iter().any(|(low, high)| (low..=high).contains(&&c)) != *negated).then_some(width)
            }
        }
    }
}

/// Decodes the first character; a byte that is no UTF-8 counts as U+FFFD, as in Go.
pub(super) fn first_character(bytes: &[u8]) -> Option<(char, usize)> {
    let first = *bytes.first()?;
    if first.is_ascii() {
        return Some((char::from(first), 1));
    }
    let head = &bytes[..bytes.len().min(4)];
    let chunk = head.utf8_chunks().next()?;
    Some(chunk.valid().chars().next().map_or((char::REPLACEMENT_CHARACTER, 1), |c| (c, c.len_utf8())))
}

/// Parses what follows a `[`, to the closing bracket.
fn parse_class(mut rest: &[u8]) -> Option<(Token, &[u8])> {
    let negated = rest.first() == Some(&b'^');
    if negated {
        rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        if rest.first() == Some(&b']') && !ranges.is_empty() {
            return Some((Token::Class { negated, ranges }, &rest[1..]));
        }
        let (low, tail) = class_character(rest)?;
        rest = tail;
        let mut high = low;
        if rest.first() == Some(&b'-') {
            (high, rest) = class_character(&rest[1..])?;
        }
        ranges.push((low, high));
    }
}

/// One character of a class, escaped or not. Something must follow it.
fn class_character(rest: &[u8]) -> Option<(char, &[u8])> {
    let rest = match rest.first()? {
        b'-' | b']' => return None,
        b'\\' => &rest[1..],
        _ => rest,
    };
    let (c, width) = first_character(rest)?;
    if (c == char::REPLACEMENT_CHARACTER && width == 1) || rest.len() == width {
        return None;
    }
    Some((c, &rest[width..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_go_does() {
        let table: &[(&str, &str, Option<bool>)] = &[
            ("abc", "abc", Some(true)),
            ("*", "abc", Some(true)),
            ("*c", "abc", Some(true)),
            ("a*", "a", Some(true)),
            ("a*", "abc", Some(true)),
            ("a*", "ab/c", Some(false)),
            ("a*/b", "abc/b", Some(true)),
            ("a*/b", "a/c/b", Some(false)),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", Some(true)),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", Some(false)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", Some(false)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
            ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
            ("ab[c]", "abc", Some(true)),
            ("ab[b-d]", "abc", Some(true)),
            ("ab[e-g]", "abc", Some(false)),
            ("ab[^c]", "abc", Some(false)),
            ("ab[^b-d]", "abc", Some(false)),
            ("ab[^e-g]", "abc", Some(true)),
            ("a\\*b", "a*b", Some(true)),
            ("a\\*b", "ab", Some(false)),
            ("a?b", "a\u{263a}b", Some(true)),
            ("a[^a]b", "a\u{263a}b", Some(true)),
            ("a???b", "a\u{263a}b", Some(false)),
            ("a[^a][^a][^a]b", "a\u{263a}b", Some(false)),
            ("[a-\u{3b6}]*", "\u{3b1}", Some(true)),
            ("*[a-\u{3b6}]", "A", Some(false)),
            ("a?b", "a/b", Some(false)),
            ("a*b", "a/b", Some(false)),
            ("[\\]a]", "]", Some(true)),
            ("[\\-]", "-", Some(true)),
            ("[x\\-]", "x", Some(true)),
            ("[x\\-]", "-", Some(true)),
            ("[x\\-]", "z", Some(false)),
            ("[\\-x]", "-", Some(true)),
            ("[\\-x]", "a", Some(false)),
            ("[]a]", "]", None),
            ("[-]", "-", None),
            ("[x-]", "x", None),
            ("[-x]", "x", None),
            ("\\", "a", None),
            ("[a-b-c]", "a", None),
            ("[", "a", None),
            ("[^", "a", None),
            ("[^bc", "a", None),
            ("a[", "a", None),
            ("a[", "ab", None),
            ("a[", "x", None),
            ("a/b[", "x", None),
            ("*x", "xxx", Some(true)),
            ("", "", Some(true)),
            ("**", "ab", Some(true)),
            ("[[]0]", "[0]", Some(true)),
        ];
        for (pattern, name, want) in table {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()).ok(), *want, "{pattern} against {name}");
        }
    }

    #[test]
    fn bytes_that_are_no_text() {
        assert_eq!(matches(b"a?c", b"a\xffc"), Ok(true));
        assert_eq!(matches(b"*", b"\xff\xfe"), Ok(true));
        assert!(has_wildcards(b"a[") && !has_wildcards(b"a\\*b"));
    }

    #[test]
    fn many_stars_are_fast() {
        let pattern = "*a".repeat(60);
        assert_eq!(matches(pattern.as_bytes(), "a".repeat(59).as_bytes()), Ok(false));
    }
}
