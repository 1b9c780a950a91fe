//! Text from elsewhere (commands, file names, servers) made safe to print.
//!
//! A command may write anything, also what would move the cursor, set the window's title, or look like a line of
//! rbuild's own. Colours may pass; every other control character is shown, not obeyed. Nothing is lost: bytes that
//! are no UTF-8 appear as `\xNN`.

use std::fmt::Write;
use std::time::Duration;

/// Whether colours in a command's output are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colours {
    /// They are kept, and reset at the end of the line.
    Keep,
    /// They are taken out.
    Drop,
}

const RESET: &str = "\x1b[0m";

/// Makes one line of a command's output safe to print.
///
/// A carriage return begins the line anew, as on a terminal: of a progress bar only its last state is left.
pub(crate) fn sanitise(line: &[u8], colours: Colours) -> String {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.split(|byte| *byte == b'\r').rfind(|part| !part.is_empty()).unwrap_or_default();
    let mut safe = String::with_capacity(line.len());
    let mut coloured = false;
    for chunk in line.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(letter) = rest.chars().next() {
            if let Some(length) = colour_sequence(rest) {
                if colours == Colours::Keep {
                    safe.push_str(&rest[..length]);
                    coloured = true;
                }
                rest = &rest[length..];
                continue;
            }
            push_visible(&mut safe, letter);
            rest = &rest[letter.len_utf8()..];
        }
        for byte in chunk.invalid() {
            push_byte(&mut safe, *byte);
        }
    }
    if coloured {
        safe.push_str(RESET);
    }
    safe
}

/// Makes a value that belongs on one line safe to print: line breaks are shown too.
pub(crate) fn visible(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        push_visible(&mut safe, letter);
    }
    safe
}

/// The length of a colour sequence (`ESC [ 1;31 m`) at the start, if there is one.
fn colour_sequence(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let length = parameters.find(|letter: char| !letter.is_ascii_digit() && letter != ';' && letter != ':')?;
    parameters[length..].starts_with('m').then_some(length + 3)
}

fn push_byte(safe: &mut String, byte: u8) {
    write!(safe, "\\x{byte:02x}").expect("writing to a string cannot fail");
}

fn push_visible(safe: &mut String, letter: char) {
    match letter {
        '\t' => safe.push('\t'),
        '\0'..='\x1f' | '\x7f' => push_byte(safe, letter as u8),
        // C1 controls, line separators, and the characters that reorder text.
        '\u{80}'..='\u{9f}'
        | '\u{61c}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}'
        | '\u{feff}' => {
            write!(safe, "\\u{{{:x}}}", u32::from(letter)).expect("writing to a string cannot fail");
        }
        _ => safe.push(letter),
    }
}

/// A time span for people: `0.3s`, `12.4s`, `2m 03s`, `1h 02m`.
pub(crate) fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..60 => format!("{:.1}s", span.as_secs_f64().min(59.9)),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// A size for people, in powers of 1000 as registries count: `512 B`, `1.2 MB`.
pub(crate) fn bytes(size_bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if size_bytes < 1000 {
        return format!("{size_bytes} B");
    }
    let mut size = size_bytes as f64 / 1000.0;
    let mut unit = 0;
    while size >= 999.95 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// One thing or several: `1 step`, `3 steps`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_colours_are_obeyed() {
        for (line, kept, dropped) in [
            (&b"plain"[..], "plain", "plain"),
            (b"a\tb\n", "a\tb", "a\tb"),
            (b"\x1b[1;31mred\x1b[0m!", "\x1b[1;31mred\x1b[0m!\x1b[0m", "red!"),
            (b"\x1b[2Jgone", "\\x1b[2Jgone", "\\x1b[2Jgone"),
            (b"\x1b]0;title\x07", "\\x1b]0;title\\x07", "\\x1b]0;title\\x07"),
            (b"\x9b1m", "\\x9b1m", "\\x9b1m"),
            ("\u{9b}x\u{202e}y\u{2028}".as_bytes(), "\\u{9b}x\\u{202e}y\\u{2028}", "\\u{9b}x\\u{202e}y\\u{2028}"),
            (b"caf\xe9 \xff", "caf\\xe9 \\xff", "caf\\xe9 \\xff"),
            ("grün 日本".as_bytes(), "grün 日本", "grün 日本"),
            (b"10%\r50%\r100%", "100%", "100%"),
            (b"100%\r", "100%", "100%"),
            (b"\r\n", "", ""),
            (b"a\x08b", "a\\x08b", "a\\x08b"),
            (b"\x1b[", "\\x1b[", "\\x1b["),
            (b"\x1b[12", "\\x1b[12", "\\x1b[12"),
        ] {
            assert_eq!(sanitise(line, Colours::Keep), kept);
            assert_eq!(sanitise(line, Colours::Drop), dropped);
        }
    }

    #[test]
    fn numbers_are_for_people() {
        let span = |milliseconds| duration(Duration::from_millis(milliseconds));
        assert_eq!([span(40), span(59_990), span(123_000), span(3_720_000)], ["0.0s", "59.9s", "2m 03s", "1h 02m"]);
        assert_eq!(
            [bytes(999), bytes(1000), bytes(999_960), bytes(1_500_000_000)],
            ["999 B", "1.0 kB", "1.0 MB", "1.5 GB"]
        );
        assert_eq!([count(1, "step"), count(0, "step")], ["1 step", "0 steps"]);
    }
}
