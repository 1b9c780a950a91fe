//! How much the store keeps: the flags of `rbuild cache prune`, and limits.

use std::time::Duration;

use rbuild_core::store::PruneOptions;

use super::values::size_bytes;
use super::{Environment, UsageError};
use crate::args::CachePruneArgs;

/// What is to be removed.
///
/// # Errors
/// A time or a size that can't be read.
pub(crate) fn prune_options(args: &CachePruneArgs, environment: &Environment) -> Result<PruneOptions, UsageError> {
    let older_than = args.older_than.as_deref().map(|text| age("--older-than", text)).transpose()?;
    let keep_bytes = args.keep.as_deref().map(|text| size_bytes("--keep", text)).transpose()?;
    Ok(PruneOptions {
        now: environment.now,
        unused_for: if args.all { Some(Duration::ZERO) } else { older_than },
        keep_bytes,
        cache_mounts: args.all || older_than.is_some() || keep_bytes.is_some(),
        dry_run: args.dry_run,
    })
}

/// The limit of the store's size that `rbuild cache limit` sets; `None` for no limit.
///
/// # Errors
/// A size that can't be read, or zero.
pub(crate) fn limit_bytes(text: &str) -> Result<Option<u64>, UsageError> {
    if matches!(text, "none" | "off" | "unlimited") {
        return Ok(None);
    }
    match size_bytes("cache limit", text)? {
        0 => Err(UsageError::value("cache limit", text, "a store needs some room")
            .hint("`none` takes the limit away; `rbuild cache prune --all` empties the cache")),
        bytes => Ok(Some(bytes)),
    }
}

/// The limit of a build's store that the flag or the environment gives.
///
/// # Errors
/// A size that can't be read, or zero.
pub(crate) fn cache_max(flag: Option<&str>, environment: &Environment) -> Result<Option<u64>, UsageError> {
    let (name, text) = match flag {
        Some(text) => ("--cache-max", text.to_owned()),
        None => match environment.text("RBUILD_CACHE_MAX") {
            Some(text) => ("RBUILD_CACHE_MAX", text),
            None => return Ok(None),
        },
    };
    match size_bytes(name, &text)? {
        0 => Err(UsageError::value(name, &text, "a store needs some room")),
        bytes => Ok(Some(bytes)),
    }
}

/// Reads a length of time: numbers with units, such as `36h`, `7d` or `1h30m`.
fn age(flag: &str, text: &str) -> Result<Duration, UsageError> {
    let wrong = || UsageError::value(flag, text, "expected a time like `30m`, `36h` or `7d`");
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, behind) = rest.split_at(digits);
        let unit = behind.find(|letter: char| letter.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit);
        let seconds: u64 = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let part = number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = behind;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, seconds) in
            [("30m", 1800), ("36h", 129_600), ("7d", 604_800), ("1h30m", 5400), ("0s", 0), ("1w", 604_800)]
        {
            assert_eq!(age("--older-than", text).unwrap().as_secs(), seconds, "{text}");
        }
        for text in ["", "7", "h", "1y", "-1h", "1.5h", "99999999999999999999d"] {
            assert!(age("--older-than", text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_are_read() {
        assert_eq!(limit_bytes("none").unwrap(), None);
        assert_eq!(limit_bytes("1g").unwrap(), Some(1 << 30));
        for text in ["0", "much", "-1"] {
            assert!(limit_bytes(text).is_err(), "{text}");
        }
    }
}
