//! The texts of an image's history (`created_by`), as BuildKit writes them.
//!
//! Values are handed in expanded. RUN, COPY and ADD end in ` # buildkit`; ONBUILD leaves no entry.

use std::time::Duration;

use crate::duration::format_duration;
use crate::instruction::Healthcheck;

/// What stands behind the text of RUN, COPY and ADD.
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

/// `ENV a=1 b=2`, and the same of LABEL; pairs of the old form too.
pub fn pairs(keyword: &str, pairs: &[(String, String)]) -> String {
    pairs.iter().fold(keyword.to_owned(), |text, (name, value)| format!("{text} {name}={value}"))
}

/// `ARG a=1 b`: what the build takes the names for, not what stands in the file.
pub fn arg(declarations: &[(String, Option<String>)]) -> String {
    declarations.iter().fold("ARG".to_owned(), |text, (name, value)| match value {
        Some(value) => format!("{text} {name}={value}"),
        None => format!("{text} {name}"),
    })
}

/// `CMD ["a" "b"]`; the keyword is `CMD` or `ENTRYPOINT`.
pub fn command(keyword: &str, arguments: &[String]) -> String {
    let words: Vec<String> = arguments.iter().map(|word| quoted(word)).collect();
    format!("{keyword} [{}]", words.join(" "))
}

/// `EXPOSE [80/tcp 443/tcp]`, `VOLUME [/a /b]`, `SHELL [/bin/sh -c]`.
pub fn list(keyword: &str, words: &[String]) -> String {
    format!("{keyword} [{}]", words.join(" "))
}

/// `HEALTHCHECK {Test:[CMD a] Interval:5s Timeout:0s StartPeriod:0s StartInterval:0s Retries:3}`.
pub fn healthcheck(check: &Healthcheck) -> String {
    let (times, retries) = match check {
        Healthcheck::None => ([Duration::ZERO; 4], 0),
        Healthcheck::Command(command) => {
            ([command.interval, command.timeout, command.start_period, command.start_interval], command.retries)
        }
    };
    let [interval, timeout, start_period, start_interval] =
        times.map(|time| format_duration(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)));
    let test = check.test().join(" ");
    format!(
        "HEALTHCHECK {{Test:[{test}] Interval:{interval} Timeout:{timeout} StartPeriod:{start_period} \
         StartInterval:{start_interval} Retries:{retries}}}"
    )
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
        let here = CopyParts { add: true, heredocs: &owned(&["EOF"]), destination: "d", ..CopyParts::default() };
        assert_eq!(copy(here), "ADD <<EOF d # buildkit");
        assert_eq!(command("CMD", &owned(&["a\n", "\"é\u{1}"])), "CMD [\"a\\n\" \"\\\"é\\x01\"]");
        assert_eq!(command("ENTRYPOINT", &[]), "ENTRYPOINT []");
        assert_eq!(pairs("ENV", &[("A".into(), "b c".into()), ("D".into(), String::new())]), "ENV A=b c D=");
        assert_eq!(arg(&[("A".into(), None), ("B".into(), Some("c".into()))]), "ARG A B=c");
        assert_eq!(list("SHELL", &owned(&["/bin/sh", "-c"])), "SHELL [/bin/sh -c]");
        let none = "HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}";
        assert_eq!(healthcheck(&Healthcheck::None), none);
    }
}
