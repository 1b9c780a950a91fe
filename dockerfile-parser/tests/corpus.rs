//! The parser over the files of `testdata/parse`: lossless, in agreement with another parser about where instructions
//! begin and end, and steady under damage.

use std::fs;
use std::path::{Path, PathBuf};

use parse_dockerfile::Instruction as Other;
use rbuild_dockerfile::{CommandLine, Dockerfile, Instruction, parse};

/// How many files the corpus has at least: a wrong path would let the tests pass without any.
const LEAST_FILES: usize = 100;

/// How many of them the other parser must understand.
const LEAST_COMPARED: usize = 60;

/// In how many places one file is cut at most.
const MOST_CUTS: usize = 1000;

fn corpus() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/parse");
    let mut files: Vec<_> = fs::read_dir(&root)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", root.display()))
        .map(|entry| entry.expect("a folder can be listed").path().join("Dockerfile"))
        .filter(|path| path.exists())
        .map(|path| (path.clone(), fs::read_to_string(path).expect("a corpus file is text")))
        .collect();
    files.sort();
    assert!(files.len() >= LEAST_FILES, "only {} files are in the corpus", files.len());
    files
}

fn check_spans(file: &Dockerfile, name: &Path) {
    let mut end = 0;
    for node in &file.instructions {
        assert!(node.span.start >= end, "{}: instructions overlap at {:?}", name.display(), node.span);
        end = node.span.end;
        let written = node.keyword.span.text(file.source());
        // A keyword may go on in the next line.
        assert!(written == node.keyword.text || written.contains('\n'), "{}: {written}", name.display());
        assert_eq!(file.lines().line(node.span.start), node.lines.first, "{}", name.display());
        assert!(node.lines.first <= node.own_lines.last && node.own_lines.last <= node.lines.last);
        for heredoc in &node.heredocs {
            assert_eq!(heredoc.span.text(file.source()), heredoc.body, "{}", name.display());
        }
    }
}

#[test]
fn files_print_back_and_spans_hold() {
    for (path, text) in corpus() {
        for text in [text.clone(), text.replace("\r\n", "\n").replace('\n', "\r\n")] {
            let (file, _) = parse(&text);
            assert_eq!(file.to_string(), text, "{}", path.display());
            check_spans(&file, &path);
        }
    }
}

#[test]
fn line_ends_do_not_matter() {
    for (path, text) in corpus() {
        let unix = text.replace("\r\n", "\n");
        let (one, found) = parse(&unix);
        let (two, found_too) = parse(&unix.replace('\n', "\r\n"));
        let texts = |file: &Dockerfile| file.instructions.iter().map(|node| node.text.clone()).collect::<Vec<_>>();
        assert_eq!(texts(&one), texts(&two), "{}", path.display());
        let codes = |list: &rbuild_dockerfile::Diagnostics| list.iter().map(|found| found.code).collect::<Vec<_>>();
        assert_eq!(codes(&found), codes(&found_too), "{}", path.display());
    }
}

/// With `SNAPSHOTS=overwrite` the expected faults are written anew: read then whether each is one.
#[test]
fn faults_are_those_expected() {
    for (path, text) in corpus() {
        let (file, diagnostics) = parse(&text);
        let found: String = diagnostics
            .iter()
            .map(|found| format!("{} {}\n", file.lines().line(found.span.start), found.code))
            .collect();
        let beside = path.with_file_name("expect.codes");
        if std::env::var_os("SNAPSHOTS").is_some_and(|value| value == "overwrite") && !found.is_empty() {
            fs::write(&beside, &found).expect("the corpus can be written");
        }
        let expected = fs::read_to_string(beside).unwrap_or_default();
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&found), sorted(&expected), "{}", path.display());
    }
}

/// The keyword's place and the keyword of an instruction of the other parser.
fn other_start(instruction: &Other<'_>) -> (&'static str, usize) {
    match instruction {
        Other::Add(i) => ("ADD", i.add.span.start),
        Other::Arg(i) => ("ARG", i.arg.span.start),
        Other::Cmd(i) => ("CMD", i.cmd.span.start),
        Other::Copy(i) => ("COPY", i.copy.span.start),
        Other::Entrypoint(i) => ("ENTRYPOINT", i.entrypoint.span.start),
        Other::Env(i) => ("ENV", i.env.span.start),
        Other::Expose(i) => ("EXPOSE", i.expose.span.start),
        Other::From(i) => ("FROM", i.from.span.start),
        Other::Healthcheck(i) => ("HEALTHCHECK", i.healthcheck.span.start),
        Other::Label(i) => ("LABEL", i.label.span.start),
        Other::Maintainer(i) => ("MAINTAINER", i.maintainer.span.start),
        Other::Onbuild(i) => ("ONBUILD", i.onbuild.span.start),
        Other::Run(i) => ("RUN", i.run.span.start),
        Other::Shell(i) => ("SHELL", i.shell.span.start),
        Other::Stopsignal(i) => ("STOPSIGNAL", i.stopsignal.span.start),
        Other::User(i) => ("USER", i.user.span.start),
        Other::Volume(i) => ("VOLUME", i.volume.span.start),
        Other::Workdir(i) => ("WORKDIR", i.workdir.span.start),
        _ => ("", 0),
    }
}

/// Files where BuildKit does otherwise than the other parser: there a doubled escape character continues the line.
const OTHERWISE: [&str; 1] = ["doubled-escape/Dockerfile"];

#[test]
fn another_parser_sees_the_same_instructions() {
    let mut compared = 0;
    let mut different = Vec::new();
    for (path, text) in corpus() {
        // The other parser counts without it.
        let text = text.trim_start_matches('\u{feff}');
        if OTHERWISE.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        let (file, diagnostics) = parse(text);
        let Ok(other) = parse_dockerfile::parse(text) else {
            println!("not compared: the other parser refuses {}", path.display());
            continue;
        };
        if diagnostics.has_errors() {
            // The other one leaves what instructions mean to others; what is to be refused has a list of its own.
            assert!(path.with_file_name("expect.codes").exists(), "{}: {diagnostics:?}", path.display());
            continue;
        }
        let ours: Vec<_> = file
            .instructions
            .iter()
            .map(|node| (node.instruction.as_ref().map_or("", Instruction::keyword), node.keyword.span.start))
            .collect();
        let theirs: Vec<_> = other.instructions.iter().map(other_start).collect();
        if ours != theirs {
            different.push(format!("{}: {ours:?} {theirs:?}", path.display()));
        }
        compared += 1;
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert!(compared >= LEAST_COMPARED, "only {compared} files were compared");
}

#[test]
fn damaged_files_never_panic() {
    for (_, text) in corpus() {
        // Every place of a short file, and of a long one as many.
        let step = text.len() / MOST_CUTS + 1;
        for cut in (0..text.len()).step_by(step).filter(|at| text.is_char_boundary(*at)) {
            let (file, _) = parse(&text[..cut]);
            assert_eq!(file.to_string(), &text[..cut]);
            let (file, _) = parse(&text[cut..]);
            assert_eq!(file.to_string(), &text[cut..]);
        }
    }
}

#[test]
fn commands_keep_the_indentation_of_continued_lines() {
    let (_, text) = corpus().into_iter().find(|(path, _)| path.ends_with("python-app/Dockerfile")).unwrap();
    let (file, _) = parse(&text);
    let run = file.instructions.iter().find_map(|node| match &node.instruction {
        Some(Instruction::Run(run)) => Some(run),
        _ => None,
    });
    let Some(CommandLine::Shell(command)) = run.map(|run| &run.command) else { panic!("no RUN in shell form") };
    let expected = "apt-get update     && apt-get install -y --no-install-recommends libpq5     \
                    && rm -rf /var/lib/apt/lists/*";
    assert_eq!(command.text, expected);
}
