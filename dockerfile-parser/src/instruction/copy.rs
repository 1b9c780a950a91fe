//! COPY and ADD.

use super::Request;
use super::flag::{FlagKind, FlagTable};
use crate::heredoc::{Heredoc, HeredocWord};
use crate::lexer::Word;
use crate::span::Span;

/// COPY. Paths, destination, `--chown` and `--chmod` are expanded; `--from` and `--exclude` are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// `--from`: a stage's name or number, a named context, or an image; the build context without it.
    pub from: Option<Word>,
    /// `--chown`: `user[:group]`.
    pub chown: Option<Word>,
    /// `--chmod`: octal or symbolic ([`crate::chmod::ChmodSpec`]).
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`, in order.
    pub exclude: Vec<Word>,
    /// Sources that are paths. They are copied before the heredocs, whatever the order of writing.
    pub sources: Vec<Word>,
    /// Sources that are heredocs; the file is called by the heredoc's name.
    pub heredocs: Vec<Heredoc>,
    /// Where to copy to.
    pub destination: Word,
}

/// ADD. As COPY, and `--checksum` is expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// `--chown`: `user[:group]`.
    pub chown: Option<Word>,
    /// `--chmod`: octal or symbolic ([`crate::chmod::ChmodSpec`]).
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--exclude`, in order.
    pub exclude: Vec<Word>,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `--checksum`.
    pub checksum: Option<Word>,
    /// `--unpack`: without it local archives are unpacked and remote ones are not.
    pub unpack: Option<bool>,
    /// Sources that are paths or URLs, before the heredocs.
    pub sources: Vec<Word>,
    /// Sources that are heredocs.
    pub heredocs: Vec<Heredoc>,
    /// Where to copy to.
    pub destination: Word,
}

const COPY_FLAGS: FlagTable = &[
    ("from", FlagKind::Text),
    ("chown", FlagKind::Text),
    ("chmod", FlagKind::Text),
    ("link", FlagKind::Bool),
    ("parents", FlagKind::Bool),
    ("exclude", FlagKind::List),
];

const ADD_FLAGS: FlagTable = &[
    ("chown", FlagKind::Text),
    ("chmod", FlagKind::Text),
    ("link", FlagKind::Bool),
    ("exclude", FlagKind::List),
    ("keep-git-dir", FlagKind::Bool),
    ("checksum", FlagKind::Text),
    ("unpack", FlagKind::Bool),
];

struct Operands {
    sources: Vec<Word>,
    heredocs: Vec<Heredoc>,
    destination: Word,
}

pub(super) fn parse_copy(request: &mut Request<'_>) -> Option<Copy> {
    let mut flags = request.flags(COPY_FLAGS);
    let from = flags.text("from");
    if let Some(from) = &from
        && from.text.contains('$')
    {
        let message = format!("variable expansion is not supported for --from of COPY: `{}`", from.text);
        let error = crate::Diagnostic::error("variable-in-from", message, from.span);
        request
            .diagnostics
            .push(error.with_help("define a stage with `FROM` that uses a global ARG, and copy from it"));
    }
    let operands = operands(request)?;
    Some(Copy {
        from,
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.bool("link").unwrap_or(false),
        parents: flags.bool("parents").unwrap_or(false),
        exclude: flags.list("exclude"),
        sources: operands.sources,
        heredocs: operands.heredocs,
        destination: operands.destination,
    })
}

pub(super) fn parse_add(request: &mut Request<'_>) -> Option<Add> {
    let mut flags = request.flags(ADD_FLAGS);
    let operands = operands(request)?;
    Some(Add {
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.bool("link").unwrap_or(false),
        exclude: flags.list("exclude"),
        keep_git_dir: flags.bool("keep-git-dir"),
        checksum: flags.text("checksum"),
        unpack: flags.bool("unpack"),
        sources: operands.sources,
        heredocs: operands.heredocs,
        destination: operands.destination,
    })
}

fn operands(request: &mut Request<'_>) -> Option<Operands> {
    let mut words = request.json_or_words()?;
    let name = request.name;
    let Some(destination) = words.pop().filter(|_| !words.is_empty()) else {
        let message = format!("{name} requires at least two arguments: one or more sources, and a destination");
        request.error("missing-destination", message);
        return None;
    };
    if HeredocWord::parse(&destination.text).is_some() {
        let message = format!("{name} cannot accept a heredoc as a destination: `{}`", destination.text);
        request.error_at("heredoc-destination", message, destination.span);
        return None;
    }
    let (mut sources, mut heredocs) = (Vec::new(), Vec::new());
    for word in words {
        match HeredocWord::parse(&word.text) {
            // The last heredoc of a name counts for all of them.
            Some(heredoc) => {
                let found = request.heredocs.iter().rev().find(|found| found.word.name == heredoc.name);
                let (body, span) = found.map_or((String::new(), Span::default()), |f| (f.body.clone(), f.span));
                heredocs.push(Heredoc { word: heredoc, body, span });
            }
            None => sources.push(word),
        }
    }
    Some(Operands { sources, heredocs, destination })
}

/// Whether ADD fetches a source, after expansion, instead of reading it from the context.
pub fn is_remote_source(source: &str) -> bool {
    let lower = source.to_ascii_lowercase();
    ["http://", "https://", "git://", "ssh://"].iter().any(|scheme| lower.starts_with(scheme))
        || is_git_over_ssh(source)
}

/// Whether a source is of git's short form `user@host:path`.
fn is_git_over_ssh(source: &str) -> bool {
    let word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    source
        .split_once('@')
        .and_then(|(user, rest)| Some((user, rest.split_once(':')?)))
        .is_some_and(|(user, (host, path))| word(user) && word(host) && !path.is_empty())
}
