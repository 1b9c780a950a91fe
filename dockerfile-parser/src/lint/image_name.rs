//! Whether a text can be the name of an image: `[registry/]path[:tag][@digest]`.

/// The longest name without tag and digest.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A valid name taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ImageName<'a> {
    /// The tag.
    pub(super) tag: Option<&'a str>,
    /// The digest.
    pub(super) digest: Option<&'a str>,
}

/// Reads a name; `None` if it cannot be one.
pub(super) fn parse_image_name(text: &str) -> Option<ImageName<'_>> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase()) {
        return None;
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let name_start = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[name_start..].split_once(':') {
        Some((last, tag)) => (&rest[..name_start + last.len()], Some(tag)),
        None => (rest, None),
    };
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" || first != first.to_lowercase() => {
            (Some(first), path)
        }
        _ => (None, name),
    };
    let valid = registry.is_none_or(is_registry)
        && path.split('/').all(is_component)
        && name.len() <= MAX_NAME
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest);
    valid.then_some(ImageName { tag, digest })
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port_valid = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_valid = match bracketed {
        Some(address) => !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':'),
        None => host.split('.').all(label),
    };
    port_valid && host_valid
}

/// Lower-case words, joined by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !word(*first) || !word(*last) {
        return false;
    }
    text.split(|ch: char| ch.is_ascii_lowercase() || ch.is_ascii_digit())
        .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    algorithm.split(['-', '_', '+', '.']).all(|part| {
        part.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    }) && hex.len() >= 32
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::parse_image_name;

    #[test]
    fn names() {
        for name in [
            "scratch",
            "a/b/c",
            "debian:12-slim",
            "localhost/x",
            "LOCAL/x",
            "ghcr.io:443/a_b/c--d:V1.0",
            "a@sha256:0123456789abcdef0123456789abcdef",
            "a:tag@sha256:0123456789abcdef0123456789abcdef",
            "[::1]:5000/a",
            "1:2",
        ] {
            assert!(parse_image_name(name).is_some(), "{name}");
        }
        for name in ["", "a:", ":x", "Base", "a//b", "-a", "a b", "a.", "a._b", "a@sha256:12", "a:.x", "a/B", "a:b:c"] {
            assert!(parse_image_name(name).is_none(), "{name}");
        }
        assert!(parse_image_name(&"ab".repeat(32)).is_none());
        let name = parse_image_name("a.b/c:d").unwrap();
        assert_eq!((name.tag, name.digest), (Some("d"), None));
    }
}
