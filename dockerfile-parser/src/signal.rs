//! Signals by name and number, as STOPSIGNAL takes them (Linux).

use crate::suggest::nearest;

/// A word that is no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid signal: `{0}`")]
pub struct SignalError(pub String);

const NAMES: [(&str, u8); 36] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("RTMIN", 34),
    ("RTMAX", 64),
];

/// The number of a signal: any number but 0, or a name in any case, with or without `SIG`; the realtime signals
/// are `RTMIN` to `RTMIN+15` and `RTMAX-14` to `RTMAX`.
///
/// # Errors
///
/// Fails for 0 and for what is neither a number nor a known name.
pub fn parse_signal(text: &str) -> Result<i32, SignalError> {
    let invalid = || SignalError(text.to_owned());
    // COMPAT(buildkit): any number but 0 is taken, a negative one too.
    if let Ok(number) = text.parse::<i32>() {
        return Some(number).filter(|number| *number != 0).ok_or_else(invalid);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(i32::from(*number));
    }
    let offset = |digits: &str, most: i32| {
        let plain = !digits.starts_with(['0', '+', '-']);
        digits.parse::<i32>().ok().filter(|number| plain && (1..=most).contains(number)).ok_or_else(invalid)
    };
    if let Some(digits) = name.strip_prefix("RTMIN+") {
        return offset(digits, 15).map(|number| 34 + number);
    }
    match name.strip_prefix("RTMAX-") {
        Some(digits) => offset(digits, 14).map(|number| 64 - number),
        None => Err(invalid()),
    }
}

/// The name of a signal, with `SIG`, that is nearest to a misspelt one.
///
/// ```
/// use rbuild_dockerfile::signal::{nearest_signal, parse_signal};
///
/// assert_eq!(parse_signal("sigterm"), Ok(15));
/// assert_eq!(nearest_signal("SIGTREM").as_deref(), Some("SIGTERM"));
/// ```
pub fn nearest_signal(text: &str) -> Option<String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    nearest(name, NAMES.iter().map(|(known, _)| *known)).map(|known| format!("SIG{known}"))
}

#[cfg(test)]
mod tests {
    use super::parse_signal;

    #[test]
    fn signals() {
        for (text, expected) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-14", Some(50)),
            ("rtmin", Some(34)),
            ("0", None),
            ("-1", Some(-1)),
            ("SIGNOPE", None),
            ("SIGRTMIN+16", None),
            ("SIGRTMIN+03", None),
            ("", None),
        ] {
            assert_eq!(parse_signal(text).ok(), expected, "{text}");
        }
    }
}
