//! Durations as Go writes them: `1h30m`, `2.5s`, `500ms`.

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DurationError {
    /// Not a number with a unit.
    #[error("invalid duration `{0}`")]
    Invalid(String),
    /// A number without a unit.
    #[error("missing unit in duration `{0}` (as in `{0}s`)")]
    MissingUnit(String),
    /// A unit that is not known.
    #[error("unknown unit `{unit}` in duration `{text}` (units are ns, us, ms, s, m and h)")]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// Reads a duration in nanoseconds, sign included.
///
/// # Errors
///
/// Fails if the text is no duration or does not fit into 64 bits.
///
/// ```
/// assert_eq!(rbuild_dockerfile::duration::parse_duration("1m30s"), Ok(90_000_000_000));
/// assert!(rbuild_dockerfile::duration::parse_duration("5").is_err());
/// ```
pub fn parse_duration(text: &str) -> Result<i64, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (negative, mut rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, behind) = split_digits(rest);
        let (fraction, behind) = match behind.strip_prefix('.') {
            Some(behind) => split_digits(behind),
            None => ("", behind),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = behind.find(|ch: char| ch == '.' || ch.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let scale = unit_nanoseconds(unit, text)?;
        let value = if whole.is_empty() { 0 } else { whole.parse::<u64>().map_err(|_| invalid())? };
        let value = value.checked_mul(scale).and_then(|value| value.checked_add(fraction_of(fraction, scale)));
        total = value.and_then(|value| total.checked_add(value)).ok_or_else(invalid)?;
        rest = behind;
    }
    let limit = if negative { i64::MIN.unsigned_abs() } else { i64::MAX.unsigned_abs() };
    if total > limit {
        return Err(invalid());
    }
    let value = i128::from(total) * if negative { -1 } else { 1 };
    i64::try_from(value).map_err(|_| invalid())
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|ch: char| !ch.is_ascii_digit()).unwrap_or(text.len()))
}

fn unit_nanoseconds(unit: &str, text: &str) -> Result<u64, DurationError> {
    Ok(match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3600 * 1_000_000_000,
        "" => return Err(DurationError::MissingUnit(text.to_owned())),
        _ => return Err(DurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() }),
    })
}

/// `0.digits` of `scale`, rounded down; digits beyond the eighteenth do not matter to a nanosecond.
fn fraction_of(digits: &str, scale: u64) -> u64 {
    let digits = &digits[..digits.len().min(18)];
    let Ok(value) = digits.parse::<u128>() else { return 0 };
    let divisor = 10_u128.pow(u32::try_from(digits.len()).unwrap_or_default());
    u64::try_from(value * u128::from(scale) / divisor).unwrap_or_default()
}

/// Writes nanoseconds as Go does: `1m30s`, `2.5s`, `500ms`, `0s`.
pub fn format_duration(nanoseconds: u64) -> String {
    const SECOND: u64 = 1_000_000_000;
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    if nanoseconds < SECOND {
        let (unit, scale) = match nanoseconds {
            0..1_000 => ("ns", 1),
            1_000..1_000_000 => ("\u{b5}s", 1_000),
            _ => ("ms", 1_000_000),
        };
        return format!("{}{unit}", decimal(nanoseconds, scale));
    }
    let minutes = nanoseconds / (60 * SECOND);
    let seconds = decimal(nanoseconds % (60 * SECOND), SECOND);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

fn decimal(value: u64, scale: u64) -> String {
    let (whole, rest) = (value / scale, value % scale);
    if rest == 0 {
        return whole.to_string();
    }
    let width = scale.ilog10() as usize;
    format!("{whole}.{rest:0width$}").trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads() {
        for (text, expected) in [
            ("1m30s", 90_000_000_000),
            ("2.5s", 2_500_000_000),
            ("500ms", 500_000_000),
            ("1h", 3_600_000_000_000),
            ("0", 0),
            ("-1s", -1_000_000_000),
            ("+.5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1us2\u{b5}s3ns", 3_003),
            ("0.3333333333333333333333s", 333_333_333),
        ] {
            assert_eq!(parse_duration(text), Ok(expected), "{text}");
        }
        for text in ["", "-", "x", "1", "30", "1d", "1s2", ".s", "1e3s", "9999999h", "99999999999999999999s", " 1s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_duration("30").unwrap_err().to_string().contains("unit"));
    }

    #[test]
    fn writes() {
        for text in ["1m30s", "2.5s", "500ms", "1h0m0s", "0s", "1.5\u{b5}s", "7ns", "2h3m4.000000005s"] {
            assert_eq!(format_duration(parse_duration(text).unwrap().unsigned_abs()), text);
        }
    }
}
