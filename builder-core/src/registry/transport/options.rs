//! How servers are reached.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::progress::Events;
use crate::registry::Secret;

/// How servers are reached: trust, proxies, patience.
#[derive(Clone)]
pub struct TransportOptions {
    /// PEM texts of certificate authorities that are trusted besides the system's.
    pub certificate_authorities: Vec<Vec<u8>>,
    /// The proxies.
    pub proxies: Proxies,
    /// What is sent as `User-Agent`.
    pub user_agent: String,
    /// How often a request is tried when faults that may pass get in its way; at least 1.
    pub attempts: u32,
    /// How long to wait before the second attempt; doubled for each further one, 60 s at most.
    pub first_pause: Duration,
    /// How long a connection may take to be made, for each address of the host.
    pub connect_timeout: Duration,
    /// How long a server may take until its answer begins.
    pub answer_timeout: Duration,
    /// How long a transfer may stand still.
    pub stall_timeout: Duration,
    /// Ends requests, pauses and transfers.
    pub cancelled: Cancelled,
    /// Hears of repeated attempts.
    pub events: Option<Events>,
    /// Whether every request is refused before a connection is made.
    pub offline: bool,
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            certificate_authorities: Vec::new(),
            proxies: Proxies::default(),
            user_agent: concat!("rbuild/", env!("CARGO_PKG_VERSION")).to_owned(),
            attempts: 6,
            first_pause: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(20),
            answer_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(60),
            cancelled: Cancelled::default(),
            events: None,
            offline: false,
        }
    }
}

impl fmt::Debug for TransportOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportOptions")
            .field("certificate_authorities", &self.certificate_authorities.len())
            .field("proxies", &self.proxies)
            .field("user_agent", &self.user_agent)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// The proxies, as the caller found them (`HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`).
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// The proxy for `http` addresses, `[http://][USER:PASSWORD@]HOST[:PORT]`.
    pub http: Option<Secret>,
    /// The proxy for `https` addresses.
    pub https: Option<Secret>,
    /// Hosts asked without a proxy, separated by commas: `*`, `example.com` (with all below it), `.example.com`,
    /// `10.0.0.0/8`, `host:port`. This machine never needs a proxy.
    pub no_proxy: String,
}

/// A flag that ends work from another thread.
#[derive(Debug, Clone, Default)]
pub struct Cancelled(Arc<AtomicBool>);

impl Cancelled {
    /// Shares a flag that the caller has.
    #[must_use]
    pub fn sharing(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }

    /// Asks all work to end.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether work should end.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
