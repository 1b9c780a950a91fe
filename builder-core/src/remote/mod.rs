//! What a build takes from elsewhere by address: files over HTTP, and git repositories.
//!
//! ```text
//! classify   is a text a git repository, an address, or a local path     mod
//! GitSource  what is written about a repository                          git_source
//! checkout   a commit of a repository as a folder                        git_checkout, git_program
//! Downloader one file over HTTP                                          http, download_error
//! ```
//!
//! What comes back is not trusted: transfers are bounded, checksums are checked before anything is given out, names are
//! taken from the address that the user wrote, and git runs with nothing of the user's configuration.

mod download_error;
mod git_checkout;
mod git_program;
mod git_source;
mod http;

pub use download_error::DownloadError;
pub use git_checkout::{Commit, GitError, checkout, resolve};
pub use git_program::{GitAuthorization, GitOptions, HostKeys};
pub use git_source::{GitScheme, GitSource, GitSourceError, MtimeOf};
pub use http::{DownloadOptions, DownloadRequest, Downloaded, Downloader, Marks, UNNAMED, file_name};

use crate::registry::transport::Url;

/// Where a text that may be remote is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// As the build context, where `github.com/owner/repository` is a repository.
    Context,
    /// As a source of `ADD`, where that is a path.
    Add,
}

/// What a text stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteSource {
    /// A git repository.
    Git(GitSource),
    /// A file over HTTP.
    Http(Url),
    /// A path, or something else that is not remote.
    Local,
}

/// Tells what a text stands for, by BuildKit's rules: `git://`, `ssh://` and `user@host:path` are repositories, and so
/// are `http://` and `https://` with a path that ends in `.git`; other `http://` and `https://` are files.
///
/// # Errors
///
/// When it is a repository with properties that cannot be understood, and for an address that cannot be asked.
pub fn classify(text: &str, place: Place) -> Result<RemoteSource, GitSourceError> {
    if let Some(source) = GitSource::parse(text, place)? {
        return Ok(RemoteSource::Git(source));
    }
    let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
    if lower.starts_with("http://") || lower.starts_with("https://") {
        return Url::parse(text).map(RemoteSource::Http).map_err(GitSourceError::Url);
    }
    Ok(RemoteSource::Local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classifies() {
        for (text, context, add) in [
            ("https://github.com/a/b.git", "git", "git"),
            ("https://github.com/a/b.git#main:sub", "git", "git"),
            ("https://github.com/a/b.git?ref=main", "git", "git"),
            ("http://example.com/a.git", "git", "git"),
            ("https://github.com/a/b", "http", "http"),
            ("https://example.com/a.git/x.tar", "http", "http"),
            ("https://example.com/x.tar#a.git", "http", "http"),
            ("HTTPS://example.com/x", "http", "http"),
            ("github.com/a/b", "git", "local"),
            ("github.com/a/b.git#v1", "git", "local"),
            ("git@github.com:a/b.git", "git", "git"),
            ("git://example.com/a", "git", "git"),
            ("ssh://git@example.com/a", "git", "git"),
            ("./github.com/a/b", "local", "local"),
            ("../a@b:c", "local", "local"),
            ("ftp://example.com/x", "local", "local"),
            ("file:///x.git", "local", "local"),
            ("ext::sh -c x", "local", "local"),
            ("dir/file", "local", "local"),
            ("a@b", "local", "local"),
            (".", "local", "local"),
            ("", "local", "local"),
        ] {
            for (place, want) in [(Place::Context, context), (Place::Add, add)] {
                let got = match classify(text, place).unwrap() {
                    RemoteSource::Git(_) => "git",
                    RemoteSource::Http(_) => "http",
                    RemoteSource::Local => "local",
                };
                assert_eq!(got, want, "{text} {place:?}");
            }
        }
    }
}
