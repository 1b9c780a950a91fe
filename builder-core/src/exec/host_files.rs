//! `/etc/hosts` and `/etc/resolv.conf` as a RUN step sees them. Pure.
//!
//! COMPAT(buildkit): the same host name, lines and name servers, so that what a step reads there (and may bake into an
//! artifact) is the same everywhere.

use std::fmt::Write as _;
use std::net::IpAddr;

/// The host name of RUN steps unless another was asked for.
pub const DEFAULT_HOSTNAME: &str = "buildkitsandbox";
/// Where systemd-resolved writes the real name servers when `/etc/resolv.conf` names only its own stub.
pub const SYSTEMD_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";

const SYSTEMD_STUB: &str = "127.0.0.53";
/// Asked where the host names none that a step could reach.
const FALLBACK_SERVERS: [&str; 4] = ["8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"];

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
pub fn hosts(hostname: &str, extra: &[ExtraHost]) -> String {
    let mut text = format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for host in extra {
        writeln!(text, "{}\t{}", host.address, host.name).expect("writing to a string can't fail");
    }
    text
}

/// Whether a step can reach what listens on the host's loopback addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loopback {
    /// It has the host's network.
    Hosts,
    /// It has a network of its own.
    Own,
}

/// What replaces the host's answers, where it is not empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsOptions {
    /// Addresses of name servers.
    pub nameservers: Vec<String>,
    /// Domains to search.
    pub search: Vec<String>,
    /// Resolver options, such as `ndots:1`.
    pub options: Vec<String>,
}

/// Whether the host's `/etc/resolv.conf` names only systemd-resolved's stub, so that for a step with a network of its
/// own [`SYSTEMD_RESOLV_CONF`] should be read in its place.
#[must_use]
pub fn names_only_systemd_stub(host: &str) -> bool {
    let mut servers = settings(host).filter(|(key, _)| *key == "nameserver").map(|(_, value)| value);
    servers.next() == Some(SYSTEMD_STUB) && servers.next().is_none()
}

/// The contents of `/etc/resolv.conf`, from the host's (empty where it has none).
///
/// With a network of its own a step can't reach name servers on the host's loopback addresses; they are left out, and
/// public ones stand in when none is left.
#[must_use]
pub fn resolv_conf(host: &str, dns: &DnsOptions, loopback: Loopback) -> String {
    let mut servers: Vec<&str> = if dns.nameservers.is_empty() {
        settings(host).filter(|(key, _)| *key == "nameserver").map(|(_, value)| value).collect()
    } else {
        dns.nameservers.iter().map(String::as_str).collect()
    };
    if loopback == Loopback::Own {
        servers.retain(|server| !is_loopback(server));
    }
    if servers.is_empty() {
        servers.extend(FALLBACK_SERVERS);
    }
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        writeln!(text, "{key} {value}").expect("writing to a string can't fail");
    };
    servers.iter().for_each(|server| line("nameserver", server));
    match dns.search.as_slice() {
        // The last `search` or `domain` line is the one that counts.
        [] => {
            if let Some((key, value)) = settings(host).filter(|(key, _)| matches!(*key, "search" | "domain")).last() {
                line(key, value);
            }
        }
        // A single dot asks for no search at all.
        [dot] if dot == "." => {}
        domains => line("search", &domains.join(" ")),
    }
    if dns.options.is_empty() {
        settings(host)
            .filter(|(key, _)| matches!(*key, "options" | "sortlist"))
            .for_each(|(key, value)| line(key, value));
    } else {
        line("options", &dns.options.join(" "));
    }
    text
}

/// Key and value of every line that is no comment.
fn settings(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with(['#', ';']))
        .filter_map(|line| line.trim().split_once(char::is_whitespace))
        .map(|(key, value)| (key, value.trim()))
}

fn is_loopback(server: &str) -> bool {
    // A zone, as in `fe80::1%eth0`, is no part of the address.
    let address = server.split('%').next().unwrap_or_default();
    address.parse::<IpAddr>().is_ok_and(|address| match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => address.is_loopback() || address.to_ipv4_mapped().is_some_and(|a| a.is_loopback()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lists_loopback_and_extra_hosts() {
        let extra = [ExtraHost::parse("db:10.0.0.7").unwrap(), ExtraHost::parse("six=[::2]").unwrap()];
        assert_eq!(
            hosts(DEFAULT_HOSTNAME, &extra),
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

    #[test]
    fn loopback_servers_are_left_out() {
        let host =
            "# comment\nnameserver 127.0.0.1\nnameserver\t10.1.1.1\nnameserver ::1\nsearch a b\noptions ndots:2\n";
        let plain = DnsOptions::default();
        assert_eq!(resolv_conf(host, &plain, Loopback::Own), "nameserver 10.1.1.1\nsearch a b\noptions ndots:2\n");
        assert_eq!(
            resolv_conf(host, &plain, Loopback::Hosts),
            "nameserver 127.0.0.1\nnameserver 10.1.1.1\nnameserver ::1\nsearch a b\noptions ndots:2\n"
        );
    }

    #[test]
    fn public_servers_stand_in() {
        for (host, loopback) in [("nameserver 127.0.0.53\n", Loopback::Own), ("", Loopback::Hosts), ("", Loopback::Own)]
        {
            let text = resolv_conf(host, &DnsOptions::default(), loopback);
            assert!(text.starts_with("nameserver 8.8.8.8\nnameserver 8.8.4.4\n"), "{host}: {text}");
            assert_eq!(text.lines().count(), 4);
        }
    }

    #[test]
    fn options_replace_what_the_host_says() {
        let dns = DnsOptions {
            nameservers: vec!["9.9.9.9".into()],
            search: vec!["corp".into()],
            options: vec!["rotate".into(), "ndots:1".into()],
        };
        assert_eq!(
            resolv_conf("nameserver 1.1.1.1\ndomain x\noptions edns0\n", &dns, Loopback::Own),
            "nameserver 9.9.9.9\nsearch corp\noptions rotate ndots:1\n"
        );
    }

    #[test]
    fn the_stub_of_systemd_is_seen() {
        assert!(names_only_systemd_stub("nameserver 127.0.0.53\noptions edns0\n"));
        assert!(!names_only_systemd_stub("nameserver 127.0.0.53\nnameserver 1.1.1.1\n"));
        assert!(!names_only_systemd_stub("nameserver 1.1.1.1\n"));
    }
}
