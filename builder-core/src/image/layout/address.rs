//! Addresses of images in layouts.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::oci::Digest;

use super::super::ImageError;

/// Which image of a layout is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayoutImage {
    /// The only one, or the one named `latest`.
    Default,
    /// The one of that tag.
    Tag(String),
    /// The one of that digest.
    Digest(Digest),
}

impl fmt::Display for LayoutImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("latest"),
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// `oci-layout://PATH[:TAG][@DIGEST]`, the scheme being optional. A digest outweighs a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutAddress {
    /// The folder or tar file, as it was written.
    pub path: PathBuf,
    /// The image in it.
    pub image: LayoutImage,
}

impl FromStr for LayoutAddress {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let error = |reason| ImageError::BadAddress { address: text.chars().take(500).collect(), reason };
        let rest = text.strip_prefix("oci-layout://").unwrap_or(text);
        let (rest, digest) = match rest.rsplit_once('@') {
            Some((path, digest)) if digest.starts_with("sha256:") => {
                let digest = digest.parse::<Digest>().map_err(|_| error("its digest is not valid"))?;
                (path, Some(digest))
            }
            _ => (rest, None),
        };
        // A colon before a slash belongs to a folder's name.
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (rest, None),
        };
        if path.is_empty() {
            return Err(error("it names no folder or file"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(error("its tag is not valid"));
        }
        let image = match (digest, tag) {
            (Some(digest), _) => LayoutImage::Digest(digest),
            (None, Some(tag)) => LayoutImage::Tag(tag.to_owned()),
            (None, None) => LayoutImage::Default,
        };
        Ok(Self { path: PathBuf::from(path), image })
    }
}

/// Whether a text is a tag (OCI distribution spec, "Pulling manifests").
fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = text.as_bytes();
    (1..=128).contains(&bytes.len()) && word(bytes[0]) && bytes.iter().all(|&b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        let digest = Digest::of(b"x");
        let tag = |t: &str| LayoutImage::Tag(t.to_owned());
        for (text, path, image) in [
            ("oci-layout:///a/b", "/a/b", LayoutImage::Default),
            ("oci-layout://a/b:v1.0", "a/b", tag("v1.0")),
            ("dir:latest", "dir", tag("latest")),
            ("/odd:dir/x", "/odd:dir/x", LayoutImage::Default),
            ("/a.tar:v1", "/a.tar", tag("v1")),
            (&format!("/a@{digest}"), "/a", LayoutImage::Digest(digest)),
            (&format!("/a:v1@{digest}"), "/a", LayoutImage::Digest(digest)),
            ("/a@b/c", "/a@b/c", LayoutImage::Default),
        ] {
            assert_eq!(text.parse::<LayoutAddress>().unwrap(), LayoutAddress { path: path.into(), image }, "{text}");
        }
        for text in ["", "oci-layout://", ":tag", "/a@sha256:123", "/a:-x", "/a:"] {
            assert!(text.parse::<LayoutAddress>().is_err(), "{text}");
        }
    }
}
