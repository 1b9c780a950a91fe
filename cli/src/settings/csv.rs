//! Flag values that are one line of comma-separated values, by the rules of Go's `encoding/csv`.
//!
//! A field that begins with `"` runs to the closing quote, `""` inside is one quote; a quote anywhere else is an
//! error, just as it is for `docker buildx build`.

use super::UsageError;

/// Splits one line into its fields.
///
/// # Errors
/// A quote inside a bare field, or one that is never closed. `flag` names the flag in the message.
pub(crate) fn fields(flag: &'static str, value: &str) -> Result<Vec<String>, UsageError> {
    let wrong = |reason: &str| UsageError::value(flag, value, reason);
    let mut fields = Vec::new();
    let mut rest = value;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (field, after) = quoted_field(quoted).ok_or_else(|| wrong("a quote is opened and never closed"))?;
            fields.push(field);
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None if after.is_empty() => return Ok(fields),
                None => return Err(wrong("after a closing quote only a comma may follow")),
            }
        } else {
            let (field, next) = match rest.split_once(',') {
                Some((field, next)) => (field, Some(next)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err(wrong("a quote may only stand at the start of a field: `\"key=a,b\"`"));
            }
            fields.push(field.to_owned());
            match next {
                Some(next) => rest = next,
                None => return Ok(fields),
            }
        }
    }
}

/// Reads up to the closing quote; gives the text and what follows the quote.
fn quoted_field(text: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"')?;
        field.push_str(before);
        match after.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None => return Some((field, after)),
        }
    }
}

/// Splits a line of `key=value` fields; keys in lower case.
///
/// # Errors
/// As [`fields`], and a field without `=`.
pub(crate) fn pairs(flag: &'static str, value: &str) -> Result<Vec<(String, String)>, UsageError> {
    fields(flag, value)?
        .into_iter()
        .map(|field| match field.split_once('=') {
            Some((key, text)) => Ok((key.trim().to_lowercase(), text.to_owned())),
            None => Err(UsageError::value(flag, value, &format!("`{field}` is no `key=value` pair"))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_follow_go() {
        for (line, want) in [
            ("a", &["a"][..]),
            ("", &[""]),
            ("type=local,dest=out", &["type=local", "dest=out"]),
            ("type=local,\"dest=a,b\"", &["type=local", "dest=a,b"]),
            ("\"a\"\"b\",c", &["a\"b", "c"]),
            ("a,", &["a", ""]),
            (" a , b ", &[" a ", " b "]),
        ] {
            assert_eq!(fields("--output", line).unwrap(), want, "{line}");
        }
    }

    #[test]
    fn stray_quotes_are_refused() {
        for line in ["a\"b", "\"a", "\"a\"b", "x=\"a,b\""] {
            let error = fields("--output", line).unwrap_err().to_string();
            assert!(error.contains("--output") && error.contains(line), "{error}");
        }
    }

    #[test]
    fn pairs_lower_the_key_only() {
        assert_eq!(pairs("--secret", "ID=Tok").unwrap(), [("id".to_owned(), "Tok".to_owned())]);
        assert!(pairs("--secret", "token").is_err());
    }
}
