//! Mends what findings of the linter report, where there is one way to do it and it changes no file of the image.

use std::collections::BTreeSet;

use rbuild_dockerfile::instruction::{KeyValue, Maintainer};
use rbuild_dockerfile::lint::LintWarning;
use rbuild_dockerfile::word::expand;
use rbuild_dockerfile::{Dockerfile, Instruction, Node, Word, parse};

use super::{Edit, apply};

/// The label that took MAINTAINER's place (OCI image specification, annotations).
const AUTHORS: &str = "org.opencontainers.image.authors";

/// The text with every finding mended that can be; `None` where there is none of these.
pub(crate) fn mend(file: &Dockerfile, warnings: &[LintWarning]) -> Option<String> {
    let edits: BTreeSet<Edit> = warnings.iter().flat_map(|warning| edits_for(file, warning)).collect();
    let text = apply(file.source(), &edits);
    let (mended, diagnostics) = parse(&text);
    let sound = !diagnostics.has_errors() && mended.instructions.len() == file.instructions.len();
    (sound && text != file.source()).then_some(text)
}

/// The edits that mend one finding; none where that takes a decision.
pub(crate) fn edits_for(file: &Dockerfile, warning: &LintWarning) -> Vec<Edit> {
    let line = warning.lines.first;
    let Some(node) = file.instructions.iter().find(|node| (node.lines.first..=node.lines.last).contains(&line)) else {
        return Vec::new();
    };
    let edit = match warning.rule {
        "ConsistentInstructionCasing" => keyword_case(file, node),
        "FromAsCasing" => as_case(file, node),
        "StageNameCasing" => stage_name_case(file, node),
        "LegacyKeyValueFormat" => key_value(file, node),
        "MaintainerDeprecated" => maintainer(file, node),
        "CopySeveralSourcesToFile" => slash(file, node),
        "RedundantTargetPlatform" => platform(file, node),
        "ExposeProtoCasing" => return protocols(file, node),
        "NoEmptyContinuation" => return empty_lines(file, node),
        _ => None,
    };
    edit.into_iter().collect()
}

/// Whether the word stands in the text just as it is, on one line and without a JSON escape.
fn is_plain(file: &Dockerfile, word: &Word) -> bool {
    word.span.text(file.source()) == word.text
}

fn replace(file: &Dockerfile, word: &Word, text: String) -> Option<Edit> {
    (is_plain(file, word) && word.text != text).then(|| Edit::new(word.span.start, word.span.end, text))
}

/// The case that most keywords have; upper case in a draw.
fn is_lower_case(file: &Dockerfile) -> bool {
    let keywords = || file.instructions.iter().map(|node| node.keyword.text.as_str());
    let lower = keywords().filter(|keyword| *keyword == keyword.to_lowercase()).count();
    let upper = keywords().filter(|keyword| *keyword == keyword.to_uppercase()).count();
    lower > upper
}

fn keyword_case(file: &Dockerfile, node: &Node) -> Option<Edit> {
    let keyword = &node.keyword.text;
    replace(file, &node.keyword, if is_lower_case(file) { keyword.to_lowercase() } else { keyword.to_uppercase() })
}

fn as_case(file: &Dockerfile, node: &Node) -> Option<Edit> {
    let Some(Instruction::From(from)) = &node.instruction else { return None };
    let word = from.as_keyword.as_ref()?;
    let lower = node.keyword.text == node.keyword.text.to_lowercase();
    replace(file, word, if lower { word.text.to_lowercase() } else { word.text.to_uppercase() })
}

fn stage_name_case(file: &Dockerfile, node: &Node) -> Option<Edit> {
    let Some(Instruction::From(from)) = &node.instruction else { return None };
    let name = from.name.as_ref()?;
    replace(file, name, name.text.to_lowercase())
}

/// `ENV name value` as `ENV name=value`, quoted where the value has blanks.
fn key_value(file: &Dockerfile, node: &Node) -> Option<Edit> {
    let pair = match &node.instruction {
        Some(Instruction::Env(env)) if env.legacy => env.pairs.first()?,
        Some(Instruction::Label(label)) if label.legacy => label.pairs.first()?,
        _ => return None,
    };
    let (key, value) = (&pair.key, &pair.value);
    let gap = file.source().get(key.span.end..value.span.start)?;
    let plain = is_plain(file, key) && is_plain(file, value) && gap.chars().all(|ch| matches!(ch, ' ' | '\t'));
    if !plain {
        return None;
    }
    let needs_no_escape = !value.text.contains(['"', '\'', file.escape()]);
    let quoted = format!("\"{}\"", value.text);
    let values = [Some(value.text.clone()), needs_no_escape.then_some(quoted)];
    let written = values.into_iter().flatten().find(|written| reads_as(file, node, key, written))?;
    Some(Edit::new(key.span.start, value.span.end, format!("{}={written}", key.text)))
}

/// Whether `KEYWORD key=written` is read as one pair with just that value.
fn reads_as(file: &Dockerfile, node: &Node, key: &Word, written: &str) -> bool {
    let pairs = pairs_of(file, &format!("{} {}={written}", node.keyword.text, key.text));
    matches!(pairs.as_slice(), [pair] if pair.key.text == key.text && pair.value.text == written)
}

/// The pairs of an ENV or LABEL line, read with the file's escape character; none for the old form.
fn pairs_of(file: &Dockerfile, line: &str) -> Vec<KeyValue> {
    let (parsed, diagnostics) = parse(&format!("# escape={}\nFROM scratch\n{line}\n", file.escape()));
    if diagnostics.has_errors() {
        return Vec::new();
    }
    match parsed.instructions.into_iter().nth(1).and_then(|node| node.instruction) {
        Some(Instruction::Env(env)) if !env.legacy => env.pairs,
        Some(Instruction::Label(label)) if !label.legacy => label.pairs,
        _ => Vec::new(),
    }
}

/// `MAINTAINER author` as a label.
fn maintainer(file: &Dockerfile, node: &Node) -> Option<Edit> {
    let Some(Instruction::Maintainer(Maintainer { author })) = &node.instruction else { return None };
    if !is_plain(file, author) {
        return None;
    }
    let text = author.text.as_str();
    // MAINTAINER keeps quotes as a part of the name, which nobody means.
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let mut quoted = String::new();
    for letter in text.chars() {
        if matches!(letter, '"' | '$') || letter == file.escape() {
            quoted.push(file.escape());
        }
        quoted.push(letter);
    }
    let keyword = if node.keyword.text == node.keyword.text.to_lowercase() { "label" } else { "LABEL" };
    let line = format!("{keyword} {AUTHORS}=\"{quoted}\"");
    let pairs = pairs_of(file, &line);
    let value = expand(&pairs.first()?.value.text, file.escape(), &|_| None).ok()?.text;
    (pairs.len() == 1 && value == text).then(|| Edit::new(node.keyword.span.start, author.span.end, line))
}

/// The slash that makes the destination of several sources a directory.
fn slash(file: &Dockerfile, node: &Node) -> Option<Edit> {
    let destination = match &node.instruction {
        Some(Instruction::Copy(copy)) => &copy.destination,
        Some(Instruction::Add(add)) => &add.destination,
        _ => return None,
    };
    let written = destination.span.text(file.source());
    let end = destination.span.end;
    if written == destination.text && !written.ends_with(['"', '\'', file.escape()]) {
        return Some(Edit::new(end, end, "/"));
    }
    // The JSON form: the slash belongs inside of the quotes.
    (written == format!("\"{}\"", destination.text)).then(|| Edit::new(end - 1, end - 1, "/"))
}

/// `--platform` that says what holds anyway, and the blanks behind it.
fn platform(file: &Dockerfile, node: &Node) -> Option<Edit> {
    let flag = node.flags.iter().find(|flag| flag.text.starts_with("--platform="))?;
    let behind = &file.source()[flag.span.end..];
    let blanks = behind.len() - behind.trim_start_matches([' ', '\t']).len();
    let next = behind[blanks..].chars().next()?;
    let in_line = blanks > 0 && !matches!(next, '\n' | '\r') && next != file.escape();
    (is_plain(file, flag) && in_line).then(|| Edit::new(flag.span.start, flag.span.end + blanks, ""))
}

fn protocols(file: &Dockerfile, node: &Node) -> Vec<Edit> {
    let Some(Instruction::Expose(expose)) = &node.instruction else { return Vec::new() };
    let lower = |port: &Word| {
        let (number, protocol) = port.text.rsplit_once('/')?;
        if protocol.contains('$') {
            return None;
        }
        replace(file, port, format!("{number}/{}", protocol.to_lowercase()))
    };
    expose.ports.iter().filter_map(lower).collect()
}

/// Takes out the empty lines inside of a continued instruction.
fn empty_lines(file: &Dockerfile, node: &Node) -> Vec<Edit> {
    let lines = node.own_lines.first..=node.own_lines.last;
    let empty = lines.filter_map(|line| file.lines().line_span(line));
    let empty = empty.filter(|span| !span.is_empty() && span.text(file.source()).trim().is_empty());
    empty.map(|span| Edit::new(span.start, span.end, "")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rbuild_dockerfile::lint::{LintContext, lint};

    use super::*;

    /// Mends until nothing is left that can be.
    fn mended(text: &str) -> String {
        let mut text = text.to_owned();
        for _ in 0..4 {
            let (file, diagnostics) = parse(&text);
            let none = BTreeMap::new();
            let mut context = LintContext::new(&none);
            context.all_stages = true;
            context.predefined_args.insert("TARGETPLATFORM".to_owned(), "linux/amd64".to_owned());
            match mend(&file, &lint(&file, &diagnostics, &context).warnings) {
                Some(new) => text = new,
                None => break,
            }
        }
        text
    }

    #[test]
    fn findings_are_mended() {
        for (text, expected) in [
            ("from a:1\nrun b\nUSER c\n", "from a:1\nrun b\nuser c\n"),
            ("FROM a:1 as b\nfrom c:1 AS d\nRUN e\n", "FROM a:1 AS b\nFROM c:1 AS d\nRUN e\n"),
            ("FROM a:1 AS Build\n", "FROM a:1 AS build\n"),
            ("FROM a:1\nENV A b\nLABEL c\t d e \n", "FROM a:1\nENV A=b\nLABEL c=\"d e\" \n"),
            ("FROM a:1\nENV A \"b c\"\nENV B it's\n", "FROM a:1\nENV A=\"b c\"\nENV B=it's\n"),
            ("FROM a:1\nENV A = $B\n", "FROM a:1\nENV A=\"= $B\"\n"),
            ("FROM a:1\nENV A b \\\n c\n", "FROM a:1\nENV A b \\\n c\n"),
            (
                "FROM a:1\nMAINTAINER \"Ann $5\" <a@b>\n",
                "FROM a:1\nLABEL org.opencontainers.image.authors=\"\\\"Ann \\$5\\\" <a@b>\"\n",
            ),
            ("FROM a:1\nMAINTAINER \"Ann\"\n", "FROM a:1\nLABEL org.opencontainers.image.authors=\"Ann\"\n"),
            (
                "# escape=`\nFROM a:1\nMAINTAINER a\\b`$\n",
                "# escape=`\nFROM a:1\nLABEL org.opencontainers.image.authors=\"a\\b```$\"\n",
            ),
            ("FROM a:1\nEXPOSE 1/TCP 2/udp 3/Udp\n", "FROM a:1\nEXPOSE 1/tcp 2/udp 3/udp\n"),
            (
                "FROM a:1\nCOPY a b /c\nADD [\"a\", \"b\", \"/c\"]\n",
                "FROM a:1\nCOPY a b /c/\nADD [\"a\", \"b\", \"/c/\"]\n",
            ),
            ("FROM a:1\nRUN a \\\n\n  b \\\n \t\n  c\n", "FROM a:1\nRUN a \\\n  b \\\n  c\n"),
            ("FROM --platform=$TARGETPLATFORM  a:1\r\nUSER b\r\n", "FROM a:1\r\nUSER b\r\n"),
            ("FROM a:1\n# check=skip=all\nMAINTAINER b\n", "FROM a:1\n# check=skip=all\nMAINTAINER b\n"),
        ] {
            assert_eq!(mended(text), expected, "{text}");
        }
    }
}
