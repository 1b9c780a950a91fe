//! Whatever the text, the parser and the expansion come to an end without a panic, and nothing is lost.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rbuild_dockerfile::chmod::ChmodSpec;
use rbuild_dockerfile::duration::{format_duration, parse_duration};
use rbuild_dockerfile::lint::{LintContext, LintOptions, lint};
use rbuild_dockerfile::mount::parse_mount_constant;
use rbuild_dockerfile::port::parse_port;
use rbuild_dockerfile::signal::parse_signal;
use rbuild_dockerfile::word::{expand, expand_heredoc, expand_words};
use rbuild_dockerfile::{parse, parse_trigger};

/// Lines that look like Dockerfiles, with the characters that matter in unlikely places.
fn dockerfile() -> impl Strategy<Value = String> {
    let keyword = prop::sample::select(vec![
        "FROM",
        "RUN",
        "COPY",
        "ADD",
        "ENV",
        "LABEL",
        "ARG",
        "CMD",
        "ENTRYPOINT",
        "EXPOSE",
        "VOLUME",
        "USER",
        "WORKDIR",
        "ONBUILD",
        "SHELL",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "MAINTAINER",
        "#",
        "# escape=`",
        "# check=",
        "onbuild run",
    ]);
    let argument = prop::sample::select(vec![
        "scratch",
        "AS",
        "a=b",
        "\"q\"",
        "'s",
        "$X",
        "${X:-y}",
        "<<EOF",
        "<<-'E'",
        "EOF",
        "E",
        "[\"a\"]",
        "[1]",
        "\\",
        "`",
        "--from=x",
        "--mount=type=bind,target=/x",
        "--",
        "/dir/",
        "80/tcp",
        "CMD",
        "NONE",
        "\u{e9}",
        "\u{a0}",
        "=",
        "{",
        "#",
        ".",
    ]);
    let line =
        (keyword, prop::collection::vec(argument, 0..5), prop::sample::select(vec!["\n", "\r\n", " \\\n", "\n\n"]))
            .prop_map(|(keyword, arguments, end)| format!("{keyword} {}{end}", arguments.join(" ")));
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.concat())
}

fn shell_word() -> impl Strategy<Value = String> {
    prop::string::string_regex("([$`'\"{}:+?#%/*\\\\<, -]|X|Y|é|a|\\$\\{X|1){0,24}").expect("a valid expression")
}

fn check(text: &str) {
    let (file, diagnostics) = parse(text);
    assert_eq!(file.to_string(), text);
    for node in &file.instructions {
        assert_eq!(node.keyword.span.text(text), node.keyword.text);
        assert!(text.get(node.span.range()).is_some());
        for flag in &node.flags {
            assert!(text.get(flag.span.range()).is_some());
        }
    }
    for diagnostic in &diagnostics {
        assert!(text.get(diagnostic.span.range()).is_some(), "{diagnostic:?}");
    }
    let args = BTreeMap::new();
    let mut context = LintContext::new(&args);
    context.all_stages = true;
    context.options = LintOptions::parse("experimental=all").expect("valid options");
    lint(&file, &diagnostics, &context);
    if let Err(diagnostics) = parse_trigger(text) {
        assert!(diagnostics.has_errors());
    }
}

proptest! {
    #[test]
    fn any_text_is_parsed(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn likely_text_is_parsed(text in dockerfile()) {
        check(&text);
    }

    #[test]
    fn any_word_is_expanded(text in shell_word()) {
        let lookup = |name: &str| (name == "X").then(|| "v a/l".to_owned());
        for escape in ['\\', '`'] {
            let _ = expand(&text, escape, &lookup);
            let _ = expand_words(&text, escape, &lookup);
        }
        let _ = expand_heredoc(&text, &lookup);
    }

    #[test]
    fn plain_text_stays_as_it_is(text in "[a-zA-Z0-9 ./_=:,-]{0,40}") {
        let expanded = expand(&text, '\\', &|_| None).expect("nothing to expand");
        prop_assert_eq!(expanded.text, text);
    }

    #[test]
    fn small_languages_never_panic(text in any::<String>(), near in "[a-z0-9=,\"/.:+-]{0,30}") {
        for text in [&text, &near] {
            let _ = parse_mount_constant(text);
            let _ = parse_port(text);
            let _ = parse_signal(text);
            let _ = parse_duration(text);
            if let Ok(spec) = ChmodSpec::parse(text) {
                assert!(spec.apply(0o644, false) <= 0o7777);
            }
        }
    }

    #[test]
    fn durations_are_read_as_written(nanoseconds in 0..i64::MAX) {
        let text = format_duration(nanoseconds.unsigned_abs());
        prop_assert_eq!(parse_duration(&text), Ok(nanoseconds));
    }
}
