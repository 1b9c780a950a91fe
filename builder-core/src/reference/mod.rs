//! Names of images: `registry/repository:tag@digest`, in the short forms that people write.
//!
//! The grammar and the rules that complete a short name are those of Docker's `distribution/reference`: a name whose
//! first part is no host is on Docker Hub, a Docker Hub name of one part is in `library/`, and a name with neither tag
//! nor digest has the tag `latest`.
//!
//! ```text
//! reference  := [host [":" port] "/"] component *("/" component) [":" tag] ["@" digest]
//! component  := alphanumeric *(separator alphanumeric)      lower case
//! separator  := "." | "_" | "__" | 1*"-"
//! tag        := (letter | digit | "_") *127(letter | digit | "_" | "." | "-")
//! ```
//!
//! A reference is never used as a path.

mod grammar;

use std::fmt;
use std::str::FromStr;

use crate::oci::{Digest, DigestError};

/// The registry of a name that does not say one.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of a name that has neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";

const OFFICIAL_PREFIX: &str = "library/";
const REPOSITORY_LENGTH_MAX: usize = 255;
const REFERENCE_LENGTH_MAX: usize = 4096;
const SHOWN_LENGTH_MAX: usize = 200;

/// A text is not an image reference.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error("`{text}` is not an image reference: {reason}")]
pub struct ReferenceError {
    text: String,
    /// What is wrong.
    pub reason: ReferenceErrorReason,
}

/// What is wrong with a text that should be an image reference.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReferenceErrorReason {
    /// Nothing is there.
    #[error("it is empty")]
    Empty,
    /// More bytes than any reference has.
    #[error("it is longer than {REFERENCE_LENGTH_MAX} bytes")]
    TooLong,
    /// The repository has more bytes than registries take.
    #[error("the repository name is longer than {REPOSITORY_LENGTH_MAX} bytes")]
    RepositoryTooLong,
    /// It starts as a URL does.
    #[error("leave out the `{scheme}://`")]
    Scheme {
        /// The scheme.
        scheme: String,
    },
    /// It has a user or password before the host.
    #[error("credentials do not belong into the name; log in to the registry instead")]
    Credentials,
    /// It is 64 hexadecimal digits, which could be taken for an image ID.
    #[error("64 hexadecimal digits are an image ID, not a name")]
    ImageId,
    /// The registry is no host with an optional port.
    #[error("`{registry}` is not a host with an optional port")]
    Registry {
        /// The registry as written.
        registry: String,
    },
    /// The repository has upper-case letters.
    #[error("the repository name `{repository}` must be lower-case")]
    UpperCase {
        /// The repository as written.
        repository: String,
    },
    /// A part of the repository breaks the grammar.
    #[error(
        "`{component}` is not a part of a repository name: want lower-case letters and digits, joined by `.`, `_`, `__` or `-`"
    )]
    Component {
        /// The part as written.
        component: String,
    },
    /// The tag breaks the grammar.
    #[error("`{tag}` is not a tag: want up to 128 letters, digits, `_`, `.` and `-`, not starting with `.` or `-`")]
    Tag {
        /// The tag as written.
        tag: String,
    },
    /// The digest is none that rbuild can check.
    #[error("{0}")]
    Digest(DigestError),
}

/// The name of an image, complete: registry, repository, and a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads a name and completes it.
    ///
    /// # Errors
    ///
    /// Says which part breaks the grammar. Only `sha256` digests are accepted, because rbuild checks no other.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        grammar::parse(text).map_err(|reason| ReferenceError { text: shown(text), reason })
    }

    /// The host, with its port where one was written: `docker.io`, `localhost:5000`, `[::1]:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry: `library/debian`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` where neither a tag nor a digest was written.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where one was written.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Registry and repository: `docker.io/library/debian`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The repository as people write it: `debian`, `example.com/a/b`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        // Without its registry such a name would be read as one of another registry.
        if self.repository.split_once('/').is_some_and(|(first, _)| grammar::is_host(first)) {
            return self.name();
        }
        let official = self.repository.strip_prefix(OFFICIAL_PREFIX).filter(|rest| !rest.contains('/'));
        official.unwrap_or(&self.repository).to_owned()
    }

    /// The whole reference as people write it: `debian:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        format!("{}{}", self.familiar_name(), self.suffix())
    }

    /// The same name pinned to a digest; the tag stays, for the reader.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// The same repository, tag and digest at another registry, such as a mirror.
    #[must_use]
    pub fn with_registry(&self, registry: &str) -> Self {
        Self { registry: registry.to_owned(), ..self.clone() }
    }

    /// The same repository by a digest alone, without a tag.
    #[must_use]
    pub fn by_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), tag: None, ..self.clone() }
    }

    /// The same name without its digest, with the tag `latest` where that leaves none.
    #[must_use]
    pub fn without_digest(&self) -> Self {
        let tag = self.tag.clone().or_else(|| Some(DEFAULT_TAG.to_owned()));
        Self { digest: None, tag, ..self.clone() }
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
        tag + &digest
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl fmt::Display for Reference {
    /// Writes the complete form, `docker.io/library/debian:latest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.registry, self.repository, self.suffix())
    }
}

/// Bounds a text for a message, escapes control characters and hides what could be a password.
fn shown(text: &str) -> String {
    let head = text.find('/').map_or(text, |slash| &text[..slash]);
    let public = match (text.split_once("://"), head.rfind('@')) {
        (Some((scheme, rest)), _) => {
            let host = rest.find('/').map_or(rest, |slash| &rest[..slash]);
            let visible = host.rfind('@').map_or(0, |at| at + 1);
            let hidden = if visible == 0 { "" } else { "***@" };
            format!("{scheme}://{hidden}{}", &rest[visible..])
        }
        (None, Some(at)) if head.len() < text.len() => format!("***{}", &text[at..]),
        _ => text.to_owned(),
    };
    public
        .chars()
        .take(SHOWN_LENGTH_MAX)
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests;
