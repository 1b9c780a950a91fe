//! Which hosts are asked without a proxy.

use std::net::IpAddr;

use super::url::Origin;

/// Whether an origin is asked directly by the rules of `NO_PROXY`, as Go's `httpproxy` reads them.
pub(super) fn is_direct(no_proxy: &str, origin: &Origin) -> bool {
    origin.is_loopback() || no_proxy.split(',').map(str::trim).any(|rule| matches(rule, origin))
}

fn matches(rule: &str, origin: &Origin) -> bool {
    if rule == "*" {
        return true;
    }
    if let (Some((network, length)), Some(address)) = (rule.split_once('/'), origin.address()) {
        return in_network(network, length, address);
    }
    let (rule, port) = match rule.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !host.ends_with(':') && port.parse::<u16>().is_ok() => {
            (host, port.parse::<u16>().ok())
        }
        _ => (rule, None),
    };
    if rule.is_empty() || port.is_some_and(|port| port != origin.port) {
        return false;
    }
    let rule = rule.strip_prefix('*').unwrap_or(rule).to_ascii_lowercase();
    let host = origin.host.trim_matches(['[', ']']);
    match rule.strip_prefix('.') {
        Some(parent) => host.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.')),
        None => {
            let rule = rule.trim_matches(['[', ']']);
            host == rule || host.strip_suffix(rule).is_some_and(|rest| rest.ends_with('.'))
        }
    }
}

fn in_network(network: &str, length: &str, address: IpAddr) -> bool {
    let Ok(length) = length.parse::<u32>() else { return false };
    match (network.parse::<IpAddr>(), address) {
        (Ok(IpAddr::V4(network)), IpAddr::V4(address)) if length <= 32 => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            u32::from(network) & mask == u32::from(address) & mask
        }
        (Ok(IpAddr::V6(network)), IpAddr::V6(address)) if length <= 128 => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            u128::from(network) & mask == u128::from(address) & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::transport::Url;

    #[test]
    fn follows_no_proxy() {
        for (rules, url, want) in [
            ("", "https://example.com/", false),
            ("", "http://127.0.0.1:5000/", true),
            ("*", "https://example.com/", true),
            ("example.com", "https://example.com/", true),
            ("example.com", "https://a.example.com/", true),
            ("example.com", "https://notexample.com/", false),
            (".example.com", "https://example.com/", false),
            (".example.com", "https://a.example.com/", true),
            ("*.example.com", "https://a.example.com/", true),
            ("a, example.com:8443", "https://example.com:8443/", true),
            ("example.com:8443", "https://example.com/", false),
            ("10.0.0.0/8", "http://10.2.3.4/", true),
            ("10.0.0.0/8", "http://11.2.3.4/", false),
            ("fd00::/8", "http://[fd00::1]/", true),
            ("::1", "http://[::2]/", false),
            ("[fd00::1]", "http://[fd00::1]/", true),
        ] {
            assert_eq!(is_direct(rules, Url::parse(url).unwrap().origin()), want, "{rules} {url}");
        }
    }
}
