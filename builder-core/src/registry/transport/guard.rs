//! Keeps redirects of public servers away from this machine and its neighbours.
//!
//! A server on the internet must not be able to make rbuild ask a metadata service or a port of this machine. What the
//! user names is always allowed; what a public server redirects to is looked at after the name is resolved, at the
//! moment of connecting, so that a name that changes its address gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::url::Origin;

/// Which addresses redirects may lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Neither this machine nor a link-local address (metadata services); private networks are allowed, because
    /// registries keep their blobs there.
    Registry,
    /// As [`Self::Registry`], and no private network.
    Internet,
}

/// A resolver that hides addresses that a redirect must not reach.
#[derive(Debug)]
pub(super) struct GuardedResolver {
    pub(super) reach: Reach,
    pub(super) inner: DefaultResolver,
}

/// The address that a redirect led to must not be asked.
#[derive(Debug, thiserror::Error)]
#[error("it leads to `{0}`, which is this machine or a network of its own")]
pub struct Unreachable(pub IpAddr);

impl Resolver for GuardedResolver {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        let mut allowed = self.empty();
        for address in found.iter().filter(|address| is_allowed(self.reach, address.ip())) {
            allowed.push(*address);
        }
        match found.iter().next() {
            Some(first) if allowed.is_empty() => Err(ureq::Error::Other(Box::new(Unreachable(first.ip())))),
            _ => Ok(allowed),
        }
    }
}

/// Whether a redirect may lead to an address.
pub(super) fn is_allowed(reach: Reach, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_allowed_v4(reach, v4),
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some(v4) => is_allowed_v4(reach, v4),
            None => {
                let metadata = v6.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254];
                !(v6.is_loopback()
                    || v6.is_unspecified()
                    || v6.is_multicast()
                    || v6.is_unicast_link_local()
                    || metadata)
                    && (reach == Reach::Registry || !v6.is_unique_local())
            }
        },
    }
}

fn is_allowed_v4(reach: Reach, v4: Ipv4Addr) -> bool {
    let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
    let here = v4.octets()[0] == 0 || v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast();
    !here && (reach == Reach::Registry || !(v4.is_private() || shared))
}

/// The IPv4 address inside an IPv6 one: mapped, compatible, and NAT64.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = v6.segments();
    let nat64 = segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    let compatible = segments[..6] == [0; 6] && !v6.is_loopback() && !v6.is_unspecified();
    let octets = v6.octets();
    v6.to_ipv4_mapped()
        .or_else(|| (nat64 || compatible).then(|| Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15])))
}

/// Whether the server that a user named is itself on this machine or a network of its own, so that its redirects may
/// stay there.
pub(super) fn is_near(origin: &Origin) -> bool {
    if let Some(address) = origin.address() {
        return !is_allowed(Reach::Internet, address);
    }
    let found = (origin.host.as_str(), origin.port).to_socket_addrs();
    found.is_ok_and(|mut addresses| addresses.any(|a: SocketAddr| !is_allowed(Reach::Internet, a.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_redirects_out() {
        for (address, registry, internet) in [
            ("93.184.216.34", true, true),
            ("10.0.0.1", true, false),
            ("192.168.1.1", true, false),
            ("100.64.0.1", true, false),
            ("127.0.0.1", false, false),
            ("169.254.169.254", false, false),
            ("0.0.0.0", false, false),
            ("::1", false, false),
            ("::", false, false),
            ("fe80::1", false, false),
            ("fd00:ec2::254", false, false),
            ("fd12::1", true, false),
            ("::ffff:10.0.0.1", true, false),
            ("::ffff:127.0.0.1", false, false),
            ("64:ff9b::a9fe:a9fe", false, false),
            ("2606:2800::1", true, true),
        ] {
            let parsed = address.parse().unwrap();
            assert_eq!(is_allowed(Reach::Registry, parsed), registry, "{address}");
            assert_eq!(is_allowed(Reach::Internet, parsed), internet, "{address}");
        }
    }
}
