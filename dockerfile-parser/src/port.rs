//! Port specifications of EXPOSE: `80`, `80/udp`, `8000-8010/tcp`, and `address:host:container`, of which only the
//! last part counts.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

/// The protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A range of ports, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The protocol is not written in lower case.
    pub odd_protocol_case: bool,
    /// An address or a host port is written, which EXPOSE has no use for.
    pub host_part: bool,
}

impl PortSpec {
    /// The keys of `ExposedPorts`, as in `80/tcp`.
    pub fn keys(&self) -> impl Iterator<Item = String> + '_ {
        (self.first..=self.last).map(|port| format!("{port}/{}", self.protocol))
    }
}

/// A word that is no port specification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// No port in it.
    #[error("invalid port `{0}`: no port specified")]
    Missing(String),
    /// A protocol that is not known.
    #[error("invalid port `{text}`: invalid proto `{protocol}` (tcp, udp and sctp are known)")]
    Protocol {
        /// The protocol.
        protocol: String,
        /// The whole word.
        text: String,
    },
    /// Not a number from 0 to 65535, or a range that runs backwards.
    #[error("invalid port `{text}`: `{part}` is no port (0-65535) or range of ports")]
    Number {
        /// The part that is no port.
        part: String,
        /// The whole word.
        text: String,
    },
    /// The address part is no IP address.
    #[error("invalid port `{text}`: invalid IP address `{address}`")]
    Address {
        /// The address.
        address: String,
        /// The whole word.
        text: String,
    },
    /// Host and container ranges differ in length.
    #[error("invalid port `{0}`: invalid ranges for container and host ports")]
    RangeLengths(String),
}

/// Reads one word of EXPOSE, after expansion.
///
/// # Errors
///
/// Fails if it is no port specification; what EXPOSE ignores is checked too.
pub fn parse_port(text: &str) -> Result<PortSpec, PortError> {
    let (host, container) = match text.rsplit_once(':') {
        Some((host, container)) => (Some(host), container),
        None => (None, text),
    };
    let (address, host_port) = match host.map(|host| host.rsplit_once(':').unwrap_or(("", host))) {
        Some((address, port)) => (address, port),
        None => ("", ""),
    };
    let (ports, protocol) = container.split_once('/').unwrap_or((container, ""));
    if ports.is_empty() {
        return Err(PortError::Missing(text.to_owned()));
    }
    let lower = protocol.to_ascii_lowercase();
    let known = match lower.as_str() {
        "" | "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err(PortError::Protocol { protocol: protocol.to_owned(), text: text.to_owned() }),
    };
    check_address(address, text)?;
    let (first, last) = range(ports, text)?;
    if !host_port.is_empty() {
        let (from, to) = range(host_port, text)?;
        if last != first && last - first != to - from {
            return Err(PortError::RangeLengths(text.to_owned()));
        }
    }
    let host_part = !address.is_empty() || !host_port.is_empty();
    Ok(PortSpec { first, last, protocol: known, odd_protocol_case: lower != protocol, host_part })
}

fn check_address(address: &str, text: &str) -> Result<(), PortError> {
    let plain = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if address.is_empty() || plain.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    Err(PortError::Address { address: address.to_owned(), text: text.to_owned() })
}

fn range(part: &str, text: &str) -> Result<(u16, u16), PortError> {
    let error = || PortError::Number { part: part.to_owned(), text: text.to_owned() };
    let number = |digits: &str| {
        let plain = digits.strip_prefix('+').unwrap_or(digits);
        plain.bytes().all(|byte| byte.is_ascii_digit()).then(|| plain.parse::<u16>().ok()).flatten().ok_or_else(error)
    };
    match part.split_once('-') {
        None => number(part).map(|port| (port, port)),
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first { Err(error()) } else { Ok((first, last)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        for (text, expected) in [
            ("80", "80/tcp"),
            ("53/udp", "53/udp"),
            ("9/sctp", "9/sctp"),
            ("80/TCP", "80/tcp"),
            ("90-92/udp", "90/udp 91/udp 92/udp"),
            ("8080:80", "80/tcp"),
            ("127.0.0.1:8443:443/udp", "443/udp"),
            ("[::1]:1:2", "2/tcp"),
            ("::1:1:2", "2/tcp"),
            ("80/", "80/tcp"),
            ("0", "0/tcp"),
            ("7000-7001:80", "80/tcp"),
        ] {
            let keys: Vec<String> = parse_port(text).unwrap_or_else(|error| panic!("{error}")).keys().collect();
            assert_eq!(keys.join(" "), expected, "{text}");
        }
    }

    #[test]
    fn faults() {
        for (text, word) in [
            ("80/icmp", "icmp"),
            ("http", "http"),
            ("65536", "65536"),
            ("-1", "-1"),
            ("5-3", "5-3"),
            ("/tcp", "no port"),
            ("x:1:2", "IP address"),
            ("1-3:5-6", "ranges"),
            ("x:80", "`x`"),
            ("", "no port"),
        ] {
            let error = parse_port(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn oddities_are_noted() {
        let spec = parse_port("1:2/Tcp").unwrap();
        assert!(spec.odd_protocol_case && spec.host_part);
        let spec = parse_port("2/tcp").unwrap();
        assert!(!spec.odd_protocol_case && !spec.host_part);
    }
}
