//! `/etc/hosts` and `/etc/resolv.conf` as a RUN step sees them.
//!
//! COMPAT(buildkit): the same lines in `/etc/hosts`, so that what a step reads there (and may bake into an artifact) is
//! the same everywhere.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::sys::network::{self, DNS_FORWARD, ResolverView};

/// A host that was given by hand (`--add-host`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraHost {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
}

/// A text is not of the form `NAME:ADDRESS` or `NAME=ADDRESS`.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error("`{text}` is not a host and its address (`name:address` or `name=address`)")]
pub struct ExtraHostError {
    text: String,
}

impl ExtraHost {
    /// Reads `name:address` or `name=address`; an IPv6 address may stand in brackets.
    ///
    /// # Errors
    /// When the name is empty or holds white space, or the address is none.
    pub fn parse(text: &str) -> Result<Self, ExtraHostError> {
        let error = || ExtraHostError { text: text.to_owned() };
        let (name, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(error)?;
        let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(error());
        }
        Ok(Self { name: name.to_owned(), address: address.parse().map_err(|_| error())? })
    }
}

/// The contents of `/etc/hosts`.
#[must_use]
pub(super) fn hosts(hostname: &str, extra: &[ExtraHost]) -> String {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for host in extra {
        writeln!(text, "{}\t{}", host.address, host.name).expect("writing to a string can't fail");
    }
    text
}

/// The contents of `/etc/resolv.conf`. A network of its own (`private`) reaches the host's name servers through one
/// address; without a file to read, the text is empty, which means the local machine.
#[must_use]
pub(super) fn resolv_conf(private: bool) -> Vec<u8> {
    let host = network::host_resolv_conf().unwrap_or_default();
    let view = if private { ResolverView::Private { forward: DNS_FORWARD } } else { ResolverView::Host };
    network::resolv_conf(&host, view)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lists_loopback_and_extra_hosts() {
        let extra = [ExtraHost::parse("db:10.0.0.7").unwrap(), ExtraHost::parse("six=[::2]").unwrap()];
        assert_eq!(
            hosts("buildkitsandbox", &extra),
            "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tdb\n::2\tsix\n"
        );
    }

    #[test]
    fn extra_hosts_are_names_with_addresses() {
        assert_eq!(ExtraHost::parse("six:fe80::1").unwrap().address, "fe80::1".parse::<IpAddr>().unwrap());
        for text in ["db", "db:", ":1.2.3.4", "d b:1.2.3.4", "db:host", "a\nb:1.2.3.4"] {
            assert!(ExtraHost::parse(text).is_err(), "{text}");
        }
    }
}
