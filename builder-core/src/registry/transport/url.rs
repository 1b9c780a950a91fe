//! Addresses of the web: just what a registry client needs of RFC 3986.
//!
//! A [`Url`] is `http` or `https`, has a host, no fragment, and never shows the credentials that it was written with.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::registry::Secret;

const LENGTH_MAX: usize = 16 * 1024;
/// Bytes that stand for themselves in a path or query; all others are percent-encoded.
const PLAIN: &[u8] = b"-._~:/?[]@!$&'()*+,;=%";

/// A text is not an address that rbuild asks.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error("`{shown}` is not an address: {reason}")]
pub struct UrlError {
    shown: String,
    reason: &'static str,
}

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Scheme, host and port: whom credentials are for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The scheme.
    pub scheme: Scheme,
    /// The host in lower case, an IPv6 address in brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port == self.scheme.default_port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl Origin {
    /// The host as an IP address, where it is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self.host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => self.host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        }
    }

    /// Whether the host is this machine: `localhost` or a loopback address.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.address().is_some_and(|address| address.is_loopback())
    }
}

/// An `http` or `https` address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    origin: Origin,
    path_and_query: String,
    credentials: Option<(String, Secret)>,
}

impl Url {
    /// Reads an absolute address. Its fragment is dropped.
    ///
    /// # Errors
    ///
    /// For another scheme, a missing or bad host, and control characters.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let error = |reason| UrlError { shown: redacted(text), reason };
        if text.len() > LENGTH_MAX {
            return Err(error("it is too long"));
        }
        if text.bytes().any(|b| b.is_ascii_control()) {
            return Err(error("it has control characters"));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| error("want `https://HOST/PATH`"))?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(error("only http and https are supported")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?', '\\']).unwrap_or(rest.len()));
        let (credentials, host) = match authority.rsplit_once('@') {
            Some((credentials, host)) => (Some(split_credentials(credentials)), host),
            None => (None, authority),
        };
        let (host, port) = split_port(host).ok_or_else(|| error("the host or port is not valid"))?;
        let origin = Origin { scheme, host, port: port.unwrap_or_else(|| scheme.default_port()) };
        Ok(Self { origin, path_and_query: encoded_path(path), credentials })
    }

    /// Reads an address that may be relative to this one, as in a `Location` header (RFC 3986, section 5.2).
    ///
    /// # Errors
    ///
    /// As [`Self::parse`].
    pub fn join(&self, text: &str) -> Result<Self, UrlError> {
        let scheme_end = text.find(':').filter(|end| {
            text[..*end].starts_with(|c: char| c.is_ascii_alphabetic())
                && text[..*end].bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        });
        if scheme_end.is_some() {
            return Self::parse(text);
        }
        if let Some(rest) = text.strip_prefix("//") {
            let scheme = if self.origin.scheme == Scheme::Https { "https" } else { "http" };
            return Self::parse(&format!("{scheme}://{rest}"));
        }
        let (path, _) = self.path_and_query.split_once('?').unwrap_or((&self.path_and_query, ""));
        let target = match text.as_bytes().first() {
            None => self.path_and_query.clone(),
            Some(b'/') => text.to_owned(),
            Some(b'?') => format!("{path}{text}"),
            Some(_) => format!("{}{text}", &path[..=path.rfind('/').unwrap_or(0)]),
        };
        Self::parse(&format!("{}{}", self.origin, without_dots(&target)))
    }

    /// Scheme, host and port.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The path, percent-encoded, starting with a slash, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path_and_query.split('?').next().unwrap_or_default()
    }

    /// User and password that were written before the host.
    #[must_use]
    pub fn credentials(&self) -> Option<&(String, Secret)> {
        self.credentials.as_ref()
    }

    /// The same address with one more query property; `value` is percent-encoded.
    #[must_use]
    pub fn with_query(&self, name: &str, value: &str) -> Self {
        let separator = match self.path_and_query.split_once('?') {
            None => "?",
            Some((_, query)) if query.is_empty() || query.ends_with('&') => "",
            Some(_) => "&",
        };
        let path_and_query = format!("{}{separator}{name}={}", self.path_and_query, percent_encoded(value));
        Self { path_and_query, ..self.clone() }
    }
}

impl fmt::Display for Url {
    /// Writes the address without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path_and_query)
    }
}

/// Percent-encodes all bytes but letters, digits and `-._~`.
pub(crate) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Decodes percent-encoding; `None` where it is broken or gives no UTF-8.
pub(crate) fn percent_decoded(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if *byte == b'%' {
            let digits = text.get(at + 1..at + 3)?;
            decoded.push(u8::from_str_radix(digits, 16).ok()?);
            at += 3;
        } else {
            decoded.push(*byte);
            at += 1;
        }
    }
    String::from_utf8(decoded).ok()
}

/// An address for a message, without credentials, bounded, control characters escaped.
pub(crate) fn redacted(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let visible = match rest[..end].rfind('@') {
        Some(at) => format!("***{}", &rest[at..]),
        None => rest.to_owned(),
    };
    let whole = if scheme.is_empty() { visible } else { format!("{scheme}://{visible}") };
    whole
        .chars()
        .take(300)
        .flat_map(|c| {
            c.escape_default().take(if c.is_control() { 12 } else { 0 }).chain((!c.is_control()).then_some(c))
        })
        .collect()
}

fn split_credentials(text: &str) -> (String, Secret) {
    let decode = |part: &str| percent_decoded(part).unwrap_or_else(|| part.to_owned());
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    (decode(user), Secret::new(decode(password)))
}

fn split_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            (format!("[{address}]"), port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let valid = |label: &str| {
                !label.is_empty()
                    && !label.starts_with('-')
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            };
            if host.len() > 253 || !host.strip_suffix('.').unwrap_or(host).split('.').all(valid) {
                return None;
            }
            (host.to_ascii_lowercase(), port)
        }
    };
    match port.strip_prefix(':') {
        None if port.is_empty() => Some((host, None)),
        Some("") => Some((host, None)),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some((host, Some(digits.parse().ok()?))),
        _ => None,
    }
}

fn encoded_path(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        encoded.push('/');
    }
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || PLAIN.contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Resolves `.` and `..` in the path of an address.
fn without_dots(path_and_query: &str) -> String {
    let (path, query) = path_and_query.split_at(path_and_query.find('?').unwrap_or(path_and_query.len()));
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').skip(1) {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    if path.ends_with("/.") || path.ends_with("/..") {
        parts.push("");
    }
    format!("/{}{query}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        for (text, want) in [
            ("https://Example.com", "https://example.com/"),
            ("http://example.com:80/a?b=c#d", "http://example.com/a?b=c"),
            ("https://example.com:8443?x", "https://example.com:8443/?x"),
            ("https://u:p@example.com/a b", "https://example.com/a%20b"),
            ("HTTPS://[::1]:5000/ä", "https://[::1]:5000/%C3%A4"),
        ] {
            assert_eq!(Url::parse(text).unwrap().to_string(), want);
        }
        for text in [
            "example.com",
            "ftp://example.com/",
            "file:///etc/passwd",
            "https:///x",
            "https://a b/",
            "https://a/\n",
            "https://a:99999/",
            "https://a:b/",
            "https://[::1/",
            "https://-a/",
            "https://a..b/",
            "https://ä.com/",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn joins() {
        let base = Url::parse("https://r.example:5000/v2/a/blobs/uploads/?q=1").unwrap();
        for (text, want) in [
            ("/v2/x?_state=A%3D&b", "https://r.example:5000/v2/x?_state=A%3D&b"),
            ("session/7", "https://r.example:5000/v2/a/blobs/uploads/session/7"),
            ("?z=1", "https://r.example:5000/v2/a/blobs/uploads/?z=1"),
            ("//other.example/x", "https://other.example/x"),
            ("http://other.example/x", "http://other.example/x"),
            ("../../../../../etc", "https://r.example:5000/etc"),
            ("", "https://r.example:5000/v2/a/blobs/uploads/?q=1"),
        ] {
            assert_eq!(base.join(text).unwrap().to_string(), want);
        }
        assert!(base.join("javascript:alert(1)").is_err());
    }

    #[test]
    fn hides_credentials() {
        let url = Url::parse("https://us%65r:s3cret@example.com/x").unwrap();
        assert_eq!(url.credentials().unwrap().0, "user");
        assert!(!format!("{url:?} {url}").contains("s3cret"));
        assert!(!Url::parse("ftp://user:s3cret@example.com/x").unwrap_err().to_string().contains("s3cret"));
    }

    #[test]
    fn adds_query() {
        for (text, want) in [("https://a/x", "https://a/x?d=s%3A1"), ("https://a/x?q", "https://a/x?q&d=s%3A1")] {
            assert_eq!(Url::parse(text).unwrap().with_query("d", "s:1").to_string(), want);
        }
    }

    #[test]
    fn knows_this_machine() {
        for (text, want) in [
            ("http://localhost:5000/", true),
            ("http://127.3.2.1/", true),
            ("http://[::1]/", true),
            ("http://localhost.evil.com/", false),
            ("http://127.0.0.1.nip.io/", false),
        ] {
            assert_eq!(Url::parse(text).unwrap().origin().is_loopback(), want, "{text}");
        }
    }
}
