//! One HTTP exchange after another: connections, redirects, repeated attempts.
//!
//! Redirects are followed here and not in the HTTP library, because what may travel along is decided here: credentials
//! go to the origin (scheme, host and port) that they are for and to no other, a redirect never leads from `https` to
//! `http`, and one from a public server never to this machine.

mod agents;
mod error;
mod guard;
mod options;
mod proxy;
mod retry;
mod url;

pub(crate) use agents::{Payload, Request, Transport};
pub(crate) use error::excerpt;
pub use error::{TransportError, TransportFailure};
pub use guard::{Reach, Unreachable};
pub use options::{Cancelled, Proxies, TransportOptions};
pub(crate) use retry::{Passing, Retry, retry_after};
pub use url::{Origin, Scheme, Url, UrlError};
pub(crate) use url::{percent_decoded, percent_encoded, redacted};
