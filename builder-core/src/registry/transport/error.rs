//! Why an exchange failed before there was an answer.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use super::guard::Unreachable;

/// An exchange with a server failed before there was an answer to judge.
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
pub struct TransportError {
    /// What kind of failure it is.
    pub failure: TransportFailure,
    /// The address that was asked, without credentials.
    pub url: String,
    /// What the system or the library said.
    #[source]
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The kinds of failures between rbuild and a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportFailure {
    /// The host has no address.
    #[error("the host name cannot be resolved")]
    Resolve,
    /// Nobody listens.
    #[error("the connection was refused")]
    Refused,
    /// The server took too long.
    #[error("the server did not answer in time")]
    Timeout,
    /// The server's certificate or its TLS is not acceptable.
    #[error("no secure connection can be made")]
    Tls,
    /// The proxy refused.
    #[error("the proxy does not connect")]
    Proxy,
    /// The connection broke.
    #[error("the connection broke")]
    Connection,
    /// What came back is no HTTP.
    #[error("the answer is not valid HTTP")]
    Protocol,
    /// A redirect must not be followed.
    #[error("a redirect is refused: {0}")]
    Redirect(String),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// The caller forbids connections.
    #[error("--offline allows no request")]
    Offline,
    /// The options cannot be used.
    #[error("{0}")]
    Options(String),
    /// The bytes to send could not be read.
    #[error("the bytes to send cannot be read")]
    Payload,
}

impl TransportError {
    pub(crate) fn new(failure: TransportFailure, url: &dyn fmt::Display) -> Self {
        Self { failure, url: url.to_string(), source: None }
    }

    /// Sorts an error of the HTTP library.
    pub(crate) fn from_ureq(error: ureq::Error, url: &dyn fmt::Display) -> Self {
        use ureq::Error as E;
        let failure = match &error {
            E::HostNotFound => TransportFailure::Resolve,
            E::Timeout(_) => TransportFailure::Timeout,
            E::Tls(_) | E::Rustls(_) | E::Pem(_) | E::TlsRequired => TransportFailure::Tls,
            E::ConnectProxyFailed(_) | E::InvalidProxyUrl => TransportFailure::Proxy,
            E::Io(io) => sort_io(io),
            E::Other(other) if other.is::<Unreachable>() => TransportFailure::Redirect(other.to_string()),
            E::ConnectionFailed | E::BodyStalled => TransportFailure::Connection,
            _ => TransportFailure::Protocol,
        };
        Self { failure, url: url.to_string(), source: Some(Box::new(error)) }
    }

    /// Sorts an error met while an answer was read.
    pub(crate) fn from_io(error: io::Error, url: &dyn fmt::Display) -> Self {
        Self::from_ureq(ureq::Error::from(error), url)
    }
}

fn sort_io(error: &io::Error) -> TransportFailure {
    use io::ErrorKind as K;
    match error.kind() {
        K::ConnectionRefused => TransportFailure::Refused,
        K::TimedOut | K::WouldBlock => TransportFailure::Timeout,
        K::InvalidData => match error.get_ref() {
            Some(inner) if inner.is::<rustls::Error>() => TransportFailure::Tls,
            _ => TransportFailure::Connection,
        },
        // The standard library gives failed look-ups no kind of their own.
        _ if error.to_string().contains("lookup address") => TransportFailure::Resolve,
        _ => TransportFailure::Connection,
    }
}

/// A server's text for a message: bounded, on one line, control characters escaped.
pub(crate) fn excerpt(text: &str) -> String {
    const SHOWN_MAX: usize = 500;
    let mut shown = String::new();
    for c in text.trim().chars() {
        if shown.len() >= SHOWN_MAX {
            shown.push('…');
            break;
        }
        match c {
            '\n' | '\r' | '\t' => shown.push(' '),
            c if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{2069}').contains(&c) => {
                shown.extend(c.escape_unicode());
            }
            c => shown.push(c),
        }
    }
    shown
}
