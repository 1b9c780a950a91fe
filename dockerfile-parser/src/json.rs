//! The little JSON that Dockerfiles hold: arrays of strings with the place of each, and `{"syntax": "…"}`.
//!
//! Accepts what Go's `encoding/json` accepts, so that the same text is the exec form here and in BuildKit.

use std::ops::Range;

/// Arrays and objects nested deeper than this are taken as malformed.
const MAX_DEPTH: usize = 64;

/// A JSON value; of numbers and the like only the kind matters here.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// A string, decoded, with the range of its characters between the quotes.
    String(String, Range<usize>),
    /// An array.
    Array(Vec<Value>),
    /// An object in the order of its keys in the text.
    Object(Vec<(String, Value)>),
    /// A number, a truth value or null.
    Other,
}

/// Reads one JSON value that takes up the whole of `text`; `None` if it is malformed.
pub(crate) fn parse(text: &str) -> Option<Value> {
    let mut reader = Reader { text, at: 0 };
    reader.blanks();
    let value = reader.value(0)?;
    reader.blanks();
    (reader.at == text.len()).then_some(value)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        match self.peek()? {
            b'"' => self.string().map(|(text, range)| Value::String(text, range)),
            b'[' => self.array(depth),
            b'{' => self.object(depth),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            _ => self.number(),
        }
    }

    fn literal(&mut self, word: &str) -> Option<Value> {
        self.text[self.at..].starts_with(word).then(|| self.at += word.len())?;
        Some(Value::Other)
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn number(&mut self) -> Option<Value> {
        let _ = self.eat(b'-');
        if self.eat(b'0').is_none() {
            self.digits()?;
        }
        if self.eat(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(Value::Other)
    }

    fn array(&mut self, depth: usize) -> Option<Value> {
        self.eat(b'[')?;
        let mut list = Vec::new();
        self.blanks();
        if self.eat(b']').is_some() {
            return Some(Value::Array(list));
        }
        loop {
            self.blanks();
            list.push(self.value(depth + 1)?);
            self.blanks();
            if self.eat(b']').is_some() {
                return Some(Value::Array(list));
            }
            self.eat(b',')?;
        }
    }

    fn object(&mut self, depth: usize) -> Option<Value> {
        self.eat(b'{')?;
        let mut list = Vec::new();
        self.blanks();
        if self.eat(b'}').is_some() {
            return Some(Value::Object(list));
        }
        loop {
            self.blanks();
            let (key, _) = self.string()?;
            self.blanks();
            self.eat(b':')?;
            self.blanks();
            list.push((key, self.value(depth + 1)?));
            self.blanks();
            if self.eat(b'}').is_some() {
                return Some(Value::Object(list));
            }
            self.eat(b',')?;
        }
    }

    fn string(&mut self) -> Option<(String, Range<usize>)> {
        self.eat(b'"')?;
        let start = self.at;
        let mut out = String::new();
        loop {
            let ch = self.text[self.at..].chars().next()?;
            match ch {
                '"' => {
                    let range = start..self.at;
                    self.at += 1;
                    return Some((out, range));
                }
                '\\' => {
                    self.at += 1;
                    out.push(self.escape()?);
                }
                ch if ch < ' ' => return None,
                ch => {
                    out.push(ch);
                    self.at += ch.len_utf8();
                }
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let byte = self.peek()?;
        self.at += 1;
        Some(match byte {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => self.unicode()?,
            _ => return None,
        })
    }

    /// A half of a surrogate pair without its other half becomes U+FFFD, as Go does it.
    fn unicode(&mut self) -> Option<char> {
        let first = self.hex()?;
        if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with("\\u") {
            let back = self.at;
            self.at += 2;
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Some(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        Some(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{Value, parse};

    fn strings(text: &str) -> Option<Vec<String>> {
        let Value::Array(list) = parse(text)? else { return None };
        list.into_iter().map(|value| if let Value::String(text, _) = value { Some(text) } else { None }).collect()
    }

    #[test]
    fn arrays_of_strings() {
        for (text, expected) in [
            ("[]", Some(vec![])),
            ("[ \"a\" , \"b c\" ] ", Some(vec!["a", "b c"])),
            (r#"["\u00e9\u4e2d\t\\ \" \n"]"#, Some(vec!["\u{e9}\u{4e2d}\t\\ \" \n"])),
            (r#"["\ud83d\ude42", "\ud83dx"]"#, Some(vec!["\u{1f642}", "\u{fffd}x"])),
            (r#"["c:\windows"]"#, None),
            (r#"["a",]"#, None),
            (r#"["a"] && x"#, None),
            ("['a']", None),
            ("[1]", None),
            ("[\"a", None),
            ("[\"a\tb\"]", None),
            (r#"["\u12"]"#, None),
            (r#"["\u12é"]"#, None),
        ] {
            assert_eq!(strings(text), expected.map(|list| list.into_iter().map(String::from).collect()), "{text}");
        }
    }

    #[test]
    fn other_values_are_valid_json() {
        for text in ["[1, -0.5e+3, true, null, {\"a\": [\"b\"]}]", "{}", "0"] {
            assert!(parse(text).is_some(), "{text}");
        }
        for text in ["[01]", "[1.]", "{a:1}", "[tru]", "", "-"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse(&"[".repeat(100_000)), None);
    }
}
