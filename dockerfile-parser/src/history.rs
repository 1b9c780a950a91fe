//! The texts of an image's history (`created_by`), as BuildKit writes them.
//!
//! Values are handed in expanded. Instructions with a layer end in ` # buildkit`; ONBUILD leaves no entry.

use std::time::Duration;

use crate::duration::format_duration;
use crate::instruction::Healthcheck;

/// What stands behind the text of every instruction.
pub const SUFFIX: &str = " # buildkit";

/// `RUN |2 a=1 b=2 /bin/sh -c make # buildkit`.
///
/// `build_args` are the ARGs of the stage so far, in order of declaration, with what RUN sees of them; of a name
/// declared twice the first place and the last value count. Names that leave no trace (proxies that are not
/// declared) must not be among them.
pub fn run(build_args: &[(String, String)], arguments: &[String]) -> String {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (name, value) in build_args {
        match seen.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = value,
            None => seen.push((name, value)),
        }
    }
    let mut text = "RUN ".to_owned();
    if !seen.is_empty() {
        text.push_str(&format!("|{} ", seen.len()));
        for (name, value) in seen {
            text.push_str(&format!("{name}={value} "));
        }
    }
    text + &arguments.join(" ") + SUFFIX
}

/// The parts of a COPY or ADD that its history shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyParts<'a> {
    /// ADD instead of COPY.
    pub add: bool,
    /// `--parents` is on.
    pub parents: bool,
    /// `--chown`, empty for none.
    pub chown: &'a str,
    /// `--chmod`, empty for none.
    pub chmod: &'a str,
    /// Paths and URLs.
    pub sources: &'a [String],
    /// Names of heredocs.
    pub heredocs: &'a [String],
    /// The destination.
    pub destination: &'a str,
}

/// `COPY --chown=a:b src dst # buildkit`.
pub fn copy(parts: CopyParts<'_>) -> String {
    let mut text = if parts.add { "ADD" } else { "COPY" }.to_owned();
    if parts.parents {
        text.push_str(" --parents");
    }
    for (flag, value) in [("chown", parts.chown), ("chmod", parts.chmod)] {
        if !value.is_empty() {
            text.push_str(&format!(" --{flag}={value}"));
        }
    }
    for source in parts.sources {
        text.push_str(&format!(" {source}"));
    }
    for name in parts.heredocs {
        text.push_str(&format!(" <<{name}"));
    }
    format!("{text} {}{SUFFIX}", parts.destination)
}

/// `ENV a=1 b=2 # buildkit`; a pair of the old form is `name value`.
pub fn env(pairs: &[(String, String)], legacy: bool) -> String {
    pairs_text("ENV", pairs, legacy)
}

/// `LABEL a=1 b=2 # buildkit`; a pair of the old form is `name value`.
pub fn label(pairs: &[(String, String)], legacy: bool) -> String {
    pairs_text("LABEL", pairs, legacy)
}

fn pairs_text(keyword: &str, pairs: &[(String, String)], legacy: bool) -> String {
    let delimiter = if legacy { " " } else { "=" };
    let mut text = keyword.to_owned();
    for (name, value) in pairs {
        text.push_str(&format!(" {name}{delimiter}{value}"));
    }
    text + SUFFIX
}

/// `ARG a=1 b # buildkit`.
pub fn arg(declarations: &[(String, Option<String>)]) -> String {
    let words: Vec<String> = declarations
        .iter()
        .map(|(name, value)| value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}={value}")))
        .collect();
    format!("ARG {}{SUFFIX}", words.join(" "))
}

/// `CMD ["a" "b"] # buildkit`; the keyword is `CMD` or `ENTRYPOINT`.
pub fn command(keyword: &str, arguments: &[String]) -> String {
    format!("{keyword} {}{SUFFIX}", quoted_list(arguments))
}

/// `EXPOSE [80/tcp 443/tcp] # buildkit`, ports in the order of the instruction.
pub fn expose(ports: &[String]) -> String {
    format!("EXPOSE [{}]{SUFFIX}", ports.join(" "))
}

/// `VOLUME [/a /b] # buildkit`.
pub fn volume(paths: &[String]) -> String {
    format!("VOLUME [{}]{SUFFIX}", paths.join(" "))
}

/// `SHELL [/bin/sh -c] # buildkit`.
pub fn shell(shell: &[String]) -> String {
    format!("SHELL [{}]{SUFFIX}", shell.join(" "))
}

/// `HEALTHCHECK &{["CMD" "a"] "5s" "0s" "0s" "0s" '\x03'} # buildkit`.
pub fn healthcheck(check: &Healthcheck) -> String {
    let (times, retries) = match check {
        Healthcheck::None => ([Duration::ZERO; 4], 0),
        Healthcheck::Command(command) => {
            ([command.interval, command.timeout, command.start_period, command.start_interval], command.retries)
        }
    };
    let times =
        times.map(|time| format!("\"{}\"", format_duration(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))));
    let retries = quoted_char(retries);
    format!("HEALTHCHECK &{{{} {} {retries}}}{SUFFIX}", quoted_list(&check.test()), times.join(" "))
}

/// `WORKDIR /dir`, `USER u`, `STOPSIGNAL s`, `MAINTAINER m`, with the suffix.
pub fn plain(keyword: &str, value: &str) -> String {
    format!("{keyword} {value}{SUFFIX}")
}

fn quoted_list(list: &[String]) -> String {
    let words: Vec<String> = list.iter().map(|word| quoted(word)).collect();
    format!("[{}]", words.join(" "))
}

/// A string as Go's `%q` prints it.
pub fn quoted(text: &str) -> String {
    let mut out = "\"".to_owned();
    for ch in text.chars() {
        match ch {
            '"' => out.push_str("\\\""),
            ch => push_escaped(&mut out, ch),
        }
    }
    out.push('"');
    out
}

fn quoted_char(code: u32) -> String {
    let mut out = "'".to_owned();
    match char::from_u32(code) {
        Some('\'') => out.push_str("\\'"),
        Some(ch) => push_escaped(&mut out, ch),
        None => out.push('\u{fffd}'),
    }
    out.push('\'');
    out
}

fn push_escaped(out: &mut String, ch: char) {
    match ch {
        '\\' => out.push_str("\\\\"),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        ' '..='~' => out.push(ch),
        ch if (ch as u32) < 0x80 => out.push_str(&format!("\\x{:02x}", ch as u32)),
        ch if ch.is_control() || (ch.is_whitespace()) => out.push_str(&format!("\\u{:04x}", ch as u32)),
        ch => out.push(ch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn texts() {
        let args = [("a", "1"), ("b", "2"), ("a", "3")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(run(&args, &owned(&["/bin/sh", "-c", "x y"])), "RUN |2 a=3 b=2 /bin/sh -c x y # buildkit");
        assert_eq!(run(&[], &owned(&["x"])), "RUN x # buildkit");
        let parts = CopyParts { chown: "a:b", sources: &owned(&["s"]), destination: "d", ..CopyParts::default() };
        assert_eq!(copy(parts), "COPY --chown=a:b s d # buildkit");
        assert_eq!(command("CMD", &owned(&["a\n", "\"é\u{1}"])), "CMD [\"a\\n\" \"\\\"é\\x01\"] # buildkit");
        assert_eq!(env(&[("A".into(), "b".into())], false), "ENV A=b # buildkit");
        assert_eq!(arg(&[("A".into(), None), ("B".into(), Some("c".into()))]), "ARG A B=c # buildkit");
        let none = "HEALTHCHECK &{[\"NONE\"] \"0s\" \"0s\" \"0s\" \"0s\" '\\x00'} # buildkit";
        assert_eq!(healthcheck(&Healthcheck::None), none);
    }
}
