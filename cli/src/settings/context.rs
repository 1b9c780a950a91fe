//! Where a build's files come from: the context, the Dockerfile, named contexts.

use std::path::{Path, PathBuf};

use super::{Environment, UsageError, absolute};

/// Where the build context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Context {
    /// A folder.
    Directory(PathBuf),
    /// A tar archive or a Dockerfile on standard input.
    Stdin,
    /// A git repository.
    Git(String),
    /// A tar archive or a Dockerfile behind a URL.
    Http(String),
}

/// Where the Dockerfile is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DockerfileFrom {
    /// `Dockerfile` in the context.
    Default,
    /// A file; relative to the context where that is no folder of this machine, absolute otherwise.
    Path(PathBuf),
    /// Standard input.
    Stdin,
    /// A URL.
    Url(String),
}

/// What a name in `FROM` or `--from` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NamedContext {
    /// A folder.
    Directory(PathBuf),
    /// An image in an OCI layout, a folder or an archive.
    OciLayout {
        /// The layout.
        path: PathBuf,
        /// The image's tag in it.
        tag: Option<String>,
        /// The image's digest in it.
        digest: Option<String>,
    },
    /// An image by its reference.
    Image(String),
    /// A git repository.
    Git(String),
    /// An archive or a file behind a URL.
    Http(String),
}

/// Whether a context is fetched with git: `git://`, `ssh://`, `git@HOST:`, or a path that ends in `.git`.
fn is_git_url(text: &str) -> bool {
    if text.starts_with("git://") || text.starts_with("ssh://") || text.starts_with("github.com/") {
        return true;
    }
    if let Some((user, path)) = text.split_once('@').filter(|_| !text.contains("://")) {
        return !user.is_empty()
            && user.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
            && path.contains(':');
    }
    let path = text.split(['#', '?']).next().unwrap_or_default();
    is_http_url(text) && path.trim_end_matches('/').ends_with(".git")
}

fn is_http_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// Tells what the positional argument names.
pub(super) fn context(value: &str, environment: &Environment) -> Result<Context, UsageError> {
    let path = absolute(Path::new(value), environment);
    if value == "-" {
        return Ok(Context::Stdin);
    }
    if value.is_empty() {
        return Err(UsageError::new("the build context is empty").hint("`rbuild .` builds the current folder"));
    }
    if path.is_dir() {
        return Ok(Context::Directory(path));
    }
    if is_git_url(value) {
        return Ok(Context::Git(value.to_owned()));
    }
    if is_http_url(value) {
        return Ok(Context::Http(value.to_owned()));
    }
    if path.is_file() {
        return Err(UsageError::new(format!("the build context `{value}` is a file, not a folder"))
            .hint(format!("for a Dockerfile write `rbuild -f {value} .`; for an archive `rbuild - < {value}`")));
    }
    Err(UsageError::new(format!("the build context `{value}` does not exist"))
        .hint("give a folder, a git or http(s) URL, or `-`; `rbuild --help` lists the commands"))
}

/// Tells what `--file` names.
pub(super) fn dockerfile(
    value: Option<&str>,
    context: &Context,
    environment: &Environment,
) -> Result<DockerfileFrom, UsageError> {
    match value {
        None | Some("") => Ok(DockerfileFrom::Default),
        Some("-") if *context == Context::Stdin => {
            Err(UsageError::new("the build context and the Dockerfile cannot both come from standard input"))
        }
        Some("-") => Ok(DockerfileFrom::Stdin),
        Some(url) if is_http_url(url) => Ok(DockerfileFrom::Url(url.to_owned())),
        Some(path) if matches!(context, Context::Directory(_)) => {
            Ok(DockerfileFrom::Path(absolute(Path::new(path), environment)))
        }
        Some(path) => Ok(DockerfileFrom::Path(PathBuf::from(path))),
    }
}

/// Reads `--build-context NAME=SOURCE`.
pub(super) fn named_context(value: &str, environment: &Environment) -> Result<(String, NamedContext), UsageError> {
    const FLAG: &str = "--build-context";
    let wrong = |reason: &str| {
        UsageError::value(FLAG, value, reason).hint(
            "write `NAME=FOLDER`, `NAME=oci-layout://PATH[:TAG|@DIGEST]`, `NAME=docker-image://REF` or `NAME=URL`",
        )
    };
    let (name, source) = value.split_once('=').ok_or_else(|| wrong("`=` is missing"))?;
    if name.is_empty() || source.is_empty() {
        return Err(wrong("the name or the source is missing"));
    }
    let source = if let Some(layout) = source.strip_prefix("oci-layout://") {
        oci_layout(layout, environment).ok_or_else(|| wrong("the path of the layout is missing"))?
    } else if let Some(reference) = source.strip_prefix("docker-image://") {
        NamedContext::Image(reference.to_owned())
    } else {
        let path = absolute(Path::new(source), environment);
        if path.is_dir() {
            NamedContext::Directory(path)
        } else if is_git_url(source) {
            NamedContext::Git(source.to_owned())
        } else if is_http_url(source) {
            NamedContext::Http(source.to_owned())
        } else {
            return Err(wrong(&format!("there is no folder `{source}`")));
        }
    };
    Ok((name.to_owned(), source))
}

/// Reads `PATH[:TAG][@DIGEST]`; a colon before the last slash belongs to the path.
fn oci_layout(text: &str, environment: &Environment) -> Option<NamedContext> {
    let (rest, digest) = match text.rsplit_once("@sha256:") {
        Some((rest, hex)) => (rest, Some(format!("sha256:{hex}"))),
        None => (text, None),
    };
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
        _ => (rest, None),
    };
    if path.is_empty() {
        return None;
    }
    Some(NamedContext::OciLayout { path: absolute(Path::new(path), environment), tag, digest })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_told_apart() {
        let environment = Environment::of(&[]);
        for (value, want) in [
            ("-", Context::Stdin),
            ("/", Context::Directory("/".into())),
            ("https://h/r.git", Context::Git("https://h/r.git".to_owned())),
            ("https://h/r.git#main:dir", Context::Git("https://h/r.git#main:dir".to_owned())),
            ("https://h/r.git?ref=v1", Context::Git("https://h/r.git?ref=v1".to_owned())),
            ("git@h:r", Context::Git("git@h:r".to_owned())),
            ("ssh://git@h/r", Context::Git("ssh://git@h/r".to_owned())),
            ("https://h/x.tar.gz", Context::Http("https://h/x.tar.gz".to_owned())),
        ] {
            assert_eq!(context(value, &environment).unwrap(), want, "{value}");
        }
        assert!(context("/nowhere", &environment).unwrap_err().message.contains("does not exist"));
        assert!(context("/etc/passwd", &environment).unwrap_err().hint.contains("-f /etc/passwd"));
    }

    #[test]
    fn named_contexts_are_told_apart() {
        let environment = Environment::of(&[]);
        let layout = |path: &str, tag: Option<&str>, digest: Option<&str>| NamedContext::OciLayout {
            path: path.into(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        };
        for (value, want) in [
            ("a=/", NamedContext::Directory("/".into())),
            ("a=oci-layout:///l", layout("/l", None, None)),
            ("a=oci-layout://l:v1", layout("/work/l", Some("v1"), None)),
            ("a=oci-layout:///x:y/l", layout("/x:y/l", None, None)),
            ("a=oci-layout:///l@sha256:ab", layout("/l", None, Some("sha256:ab"))),
            ("a=docker-image://alpine:3", NamedContext::Image("alpine:3".to_owned())),
            ("a=https://h/r.git", NamedContext::Git("https://h/r.git".to_owned())),
        ] {
            assert_eq!(named_context(value, &environment).unwrap(), ("a".to_owned(), want), "{value}");
        }
        for value in ["a", "a=", "=b", "a=/nowhere", "a=oci-layout://"] {
            assert!(named_context(value, &environment).is_err(), "{value}");
        }
    }
}
