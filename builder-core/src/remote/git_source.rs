//! What is written about a git repository, by BuildKit's rules.
//!
//! ```text
//! REMOTE[#[REF][:SUBDIR]]
//! REMOTE?ref=&tag=&branch=&subdir=&checksum=&commit=&keep-git-dir=&submodules=&mtime=&fetch-by-commit=
//! ```
//!
//! An unknown property, one without a needed value, one given twice, and two that contradict each other are errors.

use std::fmt;

use rbuild_dockerfile::parse_bool;

use crate::registry::Secret;
use crate::registry::transport::{Url, UrlError, excerpt, percent_decoded, redacted};

use super::Place;

const GITHUB: &str = "github.com/";

/// A text that names a git repository cannot be understood.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GitSourceError {
    /// The address itself.
    #[error(transparent)]
    Url(UrlError),
    /// Something that git could take for an option, or that no repository has.
    #[error("`{remote}` is not a git repository: {reason}")]
    Remote {
        /// The repository, without credentials.
        remote: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A name of a branch or tag that git does not allow.
    #[error("`{name}` is not the name of a branch, tag or commit")]
    Ref {
        /// The name.
        name: String,
    },
    /// A folder outside the repository.
    #[error("`{subdir}` is not a folder inside the repository")]
    Subdir {
        /// The folder.
        subdir: String,
    },
    /// A commit that is none.
    #[error("`{checksum}` is not a commit: want 7 to 64 hexadecimal digits")]
    Checksum {
        /// The commit.
        checksum: String,
    },
    /// A property that is not known.
    #[error("a git repository has no property `{name}`")]
    UnknownProperty {
        /// The property.
        name: String,
    },
    /// A property without a value, with several, or with one that it cannot have.
    #[error("the property `{name}` of a git repository {reason}")]
    Property {
        /// The property.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Two properties that contradict each other.
    #[error("the {what} of a git repository is given as `{one}` and as `{other}`")]
    Conflict {
        /// Which property.
        what: &'static str,
        /// One value.
        one: String,
        /// The other.
        other: String,
    },
}

/// How a repository is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GitScheme {
    /// `http://`, in the clear.
    Http,
    /// `https://`.
    Https,
    /// `ssh://`, `user@host:path`.
    Ssh,
    /// `git://`, in the clear.
    Git,
    /// A local path; never parsed, made by tests alone.
    #[doc(hidden)]
    File,
}

/// Which time the files of a checkout have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MtimeOf {
    /// When they were checked out.
    Checkout,
    /// When the commit was made.
    Commit,
}

/// A git repository, what to take of it, and how.
#[derive(Clone, PartialEq, Eq)]
pub struct GitSource {
    /// The address for the git program, without user and password for `http` and `https`.
    pub remote: String,
    /// How it is reached.
    pub scheme: GitScheme,
    /// User and password that were written in an `http` or `https` address.
    pub credentials: Option<(String, Secret)>,
    /// The branch, tag, `refs/...` or commit; the remote's default branch where there is none.
    pub reference: Option<String>,
    /// The commit that must come out, or its first digits.
    pub checksum: Option<String>,
    /// The folder inside the repository, without a slash at either end; empty for all of it.
    pub subdir: String,
    /// Whether `.git` stays, where that is said.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are fetched, where that is said.
    pub submodules: Option<bool>,
    /// Which time files have, where that is said.
    pub mtime: Option<MtimeOf>,
    /// Whether the commit is fetched by its digits instead of by the name of the branch or tag, where that is said.
    pub fetch_by_commit: Option<bool>,
}

impl GitSource {
    /// Reads a text; `None` when it names no git repository.
    ///
    /// # Errors
    ///
    /// When it names one, and something about it cannot be understood.
    pub fn parse(text: &str, place: Place) -> Result<Option<Self>, GitSourceError> {
        if text.starts_with("./") || text.starts_with("../") {
            return Ok(None);
        }
        let short = text.starts_with(GITHUB);
        if short && place == Place::Add {
            return Ok(None);
        }
        let full = if short { format!("https://{text}") } else { text.to_owned() };
        let (rest, fragment) = full.split_once('#').unwrap_or((&full, ""));
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let Some(mut source) = parse_address(address, short)? else { return Ok(None) };
        let decode = |part: &str| match address.contains("://") {
            true => percent_decoded(part).unwrap_or_else(|| part.to_owned()),
            false => part.to_owned(),
        };
        let (name, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        source.reference = Some(decode(name)).filter(|name| !name.is_empty());
        source.subdir = decode(subdir);
        source.read_query(query)?;
        source.check()?;
        Ok(Some(source))
    }

    /// The commit that the source stands for whatever its server says, where that is written out in full.
    #[must_use]
    pub fn pinned_commit(&self) -> Option<&str> {
        let full = |text: &&str| {
            matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        self.checksum.as_deref().filter(full).or_else(|| self.reference.as_deref().filter(full))
    }

    fn new(remote: &str, scheme: GitScheme) -> Self {
        Self {
            remote: remote.to_owned(),
            scheme,
            credentials: None,
            reference: None,
            checksum: None,
            subdir: String::new(),
            keep_git_dir: None,
            submodules: None,
            mtime: None,
            fetch_by_commit: None,
        }
    }

    /// Makes a source of a repository on this machine, for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn local(path: &str) -> Self {
        Self::new(&format!("file://{path}"), GitScheme::File)
    }

    fn read_query(&mut self, query: &str) -> Result<(), GitSourceError> {
        let (mut tag, mut branch) = (None, None);
        let mut seen = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (form_decoded(name), form_decoded(value));
            let wrong = |reason| GitSourceError::Property { name: excerpt(&name), reason };
            if seen.contains(&name) {
                return Err(wrong("is given twice"));
            }
            seen.push(name.clone());
            let flag = || match value.as_str() {
                "" => Ok(true),
                text => parse_bool(text).ok_or_else(|| wrong("is neither true nor false")),
            };
            let text = || if value.is_empty() { Err(wrong("has no value")) } else { Ok(value.clone()) };
            match name.as_str() {
                "ref" => set(&mut self.reference, text()?, "reference")?,
                "tag" => tag = Some(with_prefix("refs/tags/", &text()?)),
                "branch" => branch = Some(with_prefix("refs/heads/", &text()?)),
                "subdir" => {
                    let mut subdir = Some(self.subdir.clone()).filter(|subdir| !subdir.is_empty());
                    set(&mut subdir, text()?, "folder")?;
                    self.subdir = subdir.unwrap_or_default();
                }
                "checksum" | "commit" => set(&mut self.checksum, text()?, "commit")?,
                "keep-git-dir" => self.keep_git_dir = Some(flag()?),
                "submodules" => self.submodules = Some(flag()?),
                "fetch-by-commit" => self.fetch_by_commit = Some(flag()?),
                "mtime" => {
                    self.mtime = Some(match value.as_str() {
                        "checkout" => MtimeOf::Checkout,
                        "commit" => MtimeOf::Commit,
                        _ => return Err(wrong("is neither `checkout` nor `commit`")),
                    });
                }
                _ => return Err(GitSourceError::UnknownProperty { name: excerpt(&name) }),
            }
        }
        if let (Some(one), Some(other)) = (&tag, &branch) {
            let (one, other) = (one.clone(), other.clone());
            return Err(GitSourceError::Conflict { what: "reference", one, other });
        }
        if let Some(name) = tag.or(branch) {
            set(&mut self.reference, name, "reference")?;
        }
        if self.reference.is_none() {
            self.reference = self.checksum.clone();
        }
        Ok(())
    }

    /// Refuses what could be taken for something else (an option, a path outside), and tidies the folder.
    fn check(&mut self) -> Result<(), GitSourceError> {
        if let Some(name) = self.reference.as_ref().filter(|name| !is_reference(name)) {
            return Err(GitSourceError::Ref { name: excerpt(name) });
        }
        if let Some(checksum) = &self.checksum {
            let valid = (7..=64).contains(&checksum.len()) && checksum.bytes().all(|b| b.is_ascii_hexdigit());
            if !valid {
                return Err(GitSourceError::Checksum { checksum: excerpt(checksum) });
            }
        }
        let parts: Vec<&str> = self.subdir.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let outside = |part: &&str| *part == ".." || part.eq_ignore_ascii_case(".git") || part.contains(['\0', '\n']);
        if parts.iter().any(outside) {
            return Err(GitSourceError::Subdir { subdir: excerpt(&self.subdir) });
        }
        self.subdir = parts.join("/");
        Ok(())
    }
}

impl fmt::Display for GitSource {
    /// Writes the repository, without credentials, with the reference and the folder.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.remote)?;
        match (self.reference.as_deref().unwrap_or_default(), self.subdir.as_str()) {
            ("", "") => Ok(()),
            (name, "") => write!(f, "#{name}"),
            (name, subdir) => write!(f, "#{name}:{subdir}"),
        }
    }
}

impl fmt::Debug for GitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GitSource({self}")?;
        let checksum = self.checksum.as_deref().unwrap_or_default();
        write!(f, ", checksum={checksum}, keep_git_dir={:?}, submodules={:?}", self.keep_git_dir, self.submodules)?;
        write!(f, ", mtime={:?}, fetch_by_commit={:?})", self.mtime, self.fetch_by_commit)
    }
}

/// Reads the address alone. `any_path` lifts the rule that the path of an `http` address ends in `.git`.
fn parse_address(address: &str, any_path: bool) -> Result<Option<GitSource>, GitSourceError> {
    let refuse = |reason| GitSourceError::Remote { remote: redacted(address), reason };
    let Some((scheme, rest)) = address.split_once("://") else { return parse_scp(address) };
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" => GitScheme::Http,
        "https" => GitScheme::Https,
        "ssh" => GitScheme::Ssh,
        "git" => GitScheme::Git,
        _ => return Ok(None),
    };
    if matches!(scheme, GitScheme::Http | GitScheme::Https) {
        if !any_path && !address.ends_with(".git") {
            return Ok(None);
        }
        let url = Url::parse(address).map_err(GitSourceError::Url)?;
        let credentials = url.credentials().cloned();
        return Ok(Some(GitSource { credentials, ..GitSource::new(&url.to_string(), scheme) }));
    }
    let (authority, path) = rest.split_once('/').ok_or_else(|| refuse("it has no path"))?;
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if user.contains(':') || (scheme == GitScheme::Git && !user.is_empty()) {
        return Err(refuse("a password has no place in such an address"));
    }
    check_parts(user, host, path).map_err(refuse)?;
    Ok(Some(GitSource::new(address, scheme)))
}

/// Reads `user@host:path`; the user tells it from a local path.
fn parse_scp(address: &str) -> Result<Option<GitSource>, GitSourceError> {
    let refuse = |reason| GitSourceError::Remote { remote: redacted(address), reason };
    let Some((user, rest)) = address.split_once('@') else { return Ok(None) };
    let Some((host, path)) = rest.split_once(':') else { return Ok(None) };
    let word = |text: &str, more: &[u8]| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
    };
    if !word(user, b"-_.") || !word(host, b"-.") {
        return Ok(None);
    }
    check_parts(user, host, path).map_err(refuse)?;
    Ok(Some(GitSource::new(address, GitScheme::Ssh)))
}

fn check_parts(user: &str, host: &str, path: &str) -> Result<(), &'static str> {
    let all = [user, host, path];
    if all.iter().any(|part| part.starts_with('-') || part.starts_with("/-")) {
        return Err("a part of it starts with `-`");
    }
    if all.iter().any(|part| part.bytes().any(|b| b.is_ascii_control() || b == b' ')) {
        return Err("it has blanks or control characters");
    }
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if host.is_empty()
        || !host.bytes().all(valid)
        || !user.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    {
        return Err("the host or user is not valid");
    }
    if path.is_empty() { Err("it has no path") } else { Ok(()) }
}

/// Whether git takes a name as that of a branch, tag, `refs/...` or commit (`git check-ref-format`).
fn is_reference(name: &str) -> bool {
    let bad = |c: char| c.is_ascii_control() || " ~^:?*[\\".contains(c);
    !name.is_empty()
        && name.len() <= 1024
        && name != "@"
        && !name.starts_with('-')
        && !name.contains(bad)
        && !name.contains("..")
        && !name.contains("@{")
        && name.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock"))
        && !name.ends_with('.')
}

fn set(slot: &mut Option<String>, value: String, what: &'static str) -> Result<(), GitSourceError> {
    match slot.take().filter(|present| *present != value) {
        Some(one) => Err(GitSourceError::Conflict { what, one: excerpt(&one), other: excerpt(&value) }),
        None => {
            *slot = Some(value);
            Ok(())
        }
    }
}

fn with_prefix(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) { name.to_owned() } else { format!("{prefix}{name}") }
}

fn form_decoded(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decoded(&spaced).unwrap_or(spaced)
}

#[cfg(test)]
mod tests;
