//! Each kind of difference is named.

use super::*;

type Pairs<'a> = &'a [(&'a str, &'a str)];

struct Run {
    inputs: PreImage,
    written: Written,
    files: Option<Files>,
}

fn run(inputs: Pairs<'_>, text: &str, variables: Pairs<'_>, heredocs: Pairs<'_>, files: Option<Pairs<'_>>) -> Run {
    let owned = |pairs: Pairs<'_>| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let mut image = PreImage::new();
    inputs.iter().for_each(|(name, value)| image.add(*name, *value));
    let written = Written { text: text.to_owned(), variables: owned(variables), heredocs: owned(heredocs) };
    let files = files.map(|pairs| pairs.iter().copied().collect());
    Run { inputs: image, written, files }
}

fn facts(run: &Run) -> StepFacts<'_> {
    StepFacts { inputs: &run.inputs, written: &run.written, files: run.files.as_ref() }
}

fn text(before: &Run, now: &Run) -> String {
    explain_miss(&facts(before), &facts(now)).map_or_else(String::new, |miss| miss.to_string())
}

#[test]
fn inputs_of_commands_are_named() {
    let one = |inputs: Pairs<'_>| run(inputs, "RUN a", &[], &[], None);
    let before = one(&[("command", "a"), ("ARG V", "1"), ("ENV E", "x"), ("user", "")]);
    for (now, want) in [
        (one(&[("command", "a"), ("ARG V", "2"), ("ENV E", "x"), ("user", "")]), "ARG V changed: `1` -> `2`"),
        (one(&[("command", "a"), ("ENV E", "x"), ("user", "")]), "ARG V changed: `1` -> unset"),
        (one(&[("command", "a"), ("ARG V", "1"), ("ENV E", "y"), ("user", "")]), "ENV E changed: `x` -> `y`"),
        (one(&[("command", "a"), ("ARG V", "1"), ("ENV E", "x"), ("user", "u")]), "user changed: `` -> `u`"),
        (one(&[("command", "a"), ("ARG V", "1"), ("ENV E", "x"), ("user", "")]), ""),
    ] {
        assert_eq!(text(&before, &now), want);
    }
    let (a, b) = (
        one(&[(input::BASE, "sha256:aa"), (input::EARLIER_STEP, "none")]),
        one(&[(input::BASE, "none"), (input::EARLIER_STEP, "x")]),
    );
    assert_eq!(text(&a, &b), "the base image changed: `sha256:aa` -> no layers; an earlier step gave another result");
    let (a, b) = (one(&[("mount secret /s", "a")]), one(&[("mount secret /s", "b")]));
    assert_eq!(text(&a, &b), "the mount secret /s changed");
}

#[test]
fn secrets_are_not_told() {
    let one = |value: &str| run(&[("ARG API_TOKEN", &input::recorded("API_TOKEN", value))], "RUN a", &[], &[], None);
    let (a, b) = (one("hunter2"), one("hunter3"));
    assert!(!format!("{:?}", a.inputs).contains("hunter"));
    assert_eq!(text(&a, &b), "ARG API_TOKEN changed (its value is not shown)");
}

#[test]
fn texts_are_told_from_what_is_expanded_in_them() {
    let copy = |source: &str, text: &str, value: &str| {
        run(&[("source", source), ("destination", "/x")], text, &[("ARG V", value)], &[], Some(&[]))
    };
    let before = copy("a1", "COPY a$V /x", "1");
    assert_eq!(text(&before, &copy("a2", "COPY a$V /x", "2")), "ARG V changed: `1` -> `2`");
    assert_eq!(
        text(&before, &copy("b1", "COPY b$V /x", "1")),
        "the instruction changed: `COPY a$V /x` -> `COPY b$V /x`"
    );
}

#[test]
fn heredocs_are_named_by_the_first_line_that_differs() {
    let one = |body: &str| run(&[("command", body)], "RUN <<EOF", &[], &[("EOF", body)], None);
    assert_eq!(text(&one("a\nb\nc\n"), &one("a\nx\nc\n")), "line 2 of the heredoc `EOF` changed: `b` -> `x`");
    assert_eq!(text(&one("a\n"), &one("a\nb\n")), "line 2 of the heredoc `EOF` changed: the end -> `b`");
}

#[test]
fn files_are_named_where_they_were_recorded() {
    let one = |digest: &str, files: Option<Pairs<'_>>| {
        run(&[("source", "."), ("files", digest)], "COPY . .", &[], &[], files)
    };
    let before = one("1", Some(&[("a", "file 0644 0:0")]));
    assert_eq!(text(&before, &one("2", Some(&[("a", "file 0600 0:0")]))), "mode of `a` 0644 -> 0600");
    assert_eq!(text(&before, &one("2", None)), "the files changed");
    let mount =
        |digest: &str, text: &str| run(&[("mounted files /t", digest)], "RUN a", &[], &[], Some(&[("/t\0a", text)]));
    let (a, b) = (mount("1", "file 0644 0:0"), mount("2", "file 0755 0:0"));
    assert_eq!(text(&a, &b), "mode of `a` 0644 -> 0755 (mounted at /t)");
}
