//! Patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `*` for any text and `?` for one character, neither across a
//! line end; `\*`, `\?` and `\\` for the characters themselves.

use super::{MAX_EXPANSION_BYTES, WordErrorKind as Kind};

/// More steps than this are refused in one expansion.
const MAX_STEPS: usize = 1 << 24;

/// What the patterns of one expansion took so far: a step for each character of a value, for each element of a pattern at
/// each character that is read, and for each byte of a replacement at each match.
#[derive(Debug, Default)]
pub(super) struct Steps(usize);

impl Steps {
    fn take(&mut self, count: usize) -> Result<(), Kind> {
        self.0 = self.0.saturating_add(count);
        if self.0 > MAX_STEPS { Err(Kind::PatternTooCostly) } else { Ok(()) }
    }

    /// The characters of a value.
    fn characters(&mut self, value: &str) -> Result<Vec<char>, Kind> {
        self.take(value.len())?;
        Ok(value.chars().collect())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Star,
    Any,
    Char(char),
}

/// A parsed pattern.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    tokens: Vec<Token>,
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, Kind> {
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(ch) = chars.next() {
            tokens.push(match ch {
                '*' => Token::Star,
                '?' => Token::Any,
                // Before `}` and `/` the backslash only served to get them through the braces.
                '\\' if matches!(chars.peek(), Some('}' | '/')) => continue,
                '\\' => match chars.next() {
                    Some(escaped @ ('*' | '?' | '\\')) => Token::Char(escaped),
                    _ => return Err(Kind::InvalidPattern(text.to_owned())),
                },
                ch => Token::Char(ch),
            });
        }
        Ok(Self { tokens })
    }

    /// How many of `text`'s first characters match: the fewest or the most possible.
    fn match_prefix(tokens: &[Token], text: &[char], longest: bool, steps: &mut Steps) -> Result<Option<usize>, Kind> {
        // `active[i]` means that the first `i` tokens match what was read so far.
        let mut active = vec![false; tokens.len() + 1];
        let mut next = active.clone();
        active[0] = true;
        skip_stars(tokens, &mut active);
        let mut found = active[tokens.len()].then_some(0);
        for (at, ch) in text.iter().enumerate() {
            if found.is_some() && !longest {
                break;
            }
            steps.take(tokens.len() + 1)?;
            next.fill(false);
            let mut alive = false;
            for (index, token) in tokens.iter().enumerate().filter(|(index, _)| active[*index]) {
                let (stays, goes_on) = match token {
                    Token::Star => (*ch != '\n', false),
                    Token::Any => (false, *ch != '\n'),
                    Token::Char(wanted) => (false, wanted == ch),
                };
                next[index] |= stays;
                next[index + 1] |= goes_on;
                alive |= stays || goes_on;
            }
            if !alive {
                break;
            }
            skip_stars(tokens, &mut next);
            std::mem::swap(&mut active, &mut next);
            if active[tokens.len()] {
                found = Some(at + 1);
            }
        }
        Ok(found)
    }

    pub(super) fn trim_start(&self, value: &str, longest: bool, steps: &mut Steps) -> Result<String, Kind> {
        let text = steps.characters(value)?;
        let matched = Self::match_prefix(&self.tokens, &text, longest, steps)?.unwrap_or(0);
        Ok(text[matched..].iter().collect())
    }

    pub(super) fn trim_end(&self, value: &str, longest: bool, steps: &mut Steps) -> Result<String, Kind> {
        let mut text = steps.characters(value)?;
        text.reverse();
        let tokens: Vec<Token> = self.tokens.iter().rev().copied().collect();
        let matched = Self::match_prefix(&tokens, &text, longest, steps)?.unwrap_or(0);
        Ok(text[matched..].iter().rev().collect())
    }

    /// The first place where the pattern matches, taking as much as it can.
    fn find(&self, text: &[char], from: usize, steps: &mut Steps) -> Result<Option<(usize, usize)>, Kind> {
        for start in from..=text.len() {
            let first_differs =
                matches!((self.tokens.first(), text.get(start)), (Some(Token::Char(a)), b) if Some(a) != b);
            if first_differs {
                continue;
            }
            if let Some(length) = Self::match_prefix(&self.tokens, &text[start..], true, steps)? {
                return Ok(Some((start, start + length)));
            }
        }
        Ok(None)
    }

    /// Replaces the first match; the replacement is taken as it is.
    pub(super) fn replace_first(&self, value: &str, replacement: &str, steps: &mut Steps) -> Result<String, Kind> {
        let text = steps.characters(value)?;
        let Some((start, end)) = self.find(&text, 0, steps)? else { return Ok(value.to_owned()) };
        let mut out: String = text[..start].iter().collect();
        out.push_str(replacement);
        out.extend(&text[end..]);
        Ok(out)
    }

    /// Replaces every match; `$name` in the replacement stands for what a regular expression would give: `$0` is
    /// the match, `$$` a dollar, any other name nothing.
    ///
    /// COMPAT(buildkit): a dollar that was escaped for the shell's sake gets here and is expanded like that.
    pub(super) fn replace_all(&self, value: &str, replacement: &str, steps: &mut Steps) -> Result<String, Kind> {
        let text = steps.characters(value)?;
        let limit = MAX_EXPANSION_BYTES + value.len() + replacement.len();
        let mut out = String::new();
        let (mut last_end, mut from) = (0, 0);
        while from <= text.len() {
            let Some((start, end)) = self.find(&text, from, steps)? else { break };
            out.extend(&text[last_end..start]);
            // An empty match right behind another match does not count.
            if end > last_end || start == 0 {
                steps.take(replacement.len())?;
                let matched: String = text[start..end].iter().collect();
                out.push_str(&fill_template(replacement, &matched));
            }
            if out.len() > limit {
                return Err(Kind::TooLarge);
            }
            last_end = end;
            from = if end > from { end } else { from + 1 };
        }
        out.extend(&text[last_end..]);
        Ok(out)
    }
}

/// A star matches nothing as well.
fn skip_stars(tokens: &[Token], active: &mut [bool]) {
    for (index, token) in tokens.iter().enumerate() {
        if active[index] && *token == Token::Star {
            active[index + 1] = true;
        }
    }
}

fn fill_template(template: &str, matched: &str) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(behind) = rest.strip_prefix('$') {
            out.push('$');
            rest = behind;
            continue;
        }
        let (name, behind) = match rest.strip_prefix('{') {
            Some(inner) => {
                let (name, behind) = split_name(inner);
                (name, behind.strip_prefix('}'))
            }
            None => {
                let (name, behind) = split_name(rest);
                (name, Some(behind))
            }
        };
        let Some(behind) = behind.filter(|_| !name.is_empty()) else {
            out.push('$');
            continue;
        };
        if name == "0" {
            out.push_str(matched);
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// The name at the front, which may be empty, and what is behind it.
fn split_name(text: &str) -> (&str, &str) {
    text.split_at(text.find(|ch: char| !(ch.is_alphanumeric() || ch == '_')).unwrap_or(text.len()))
}
