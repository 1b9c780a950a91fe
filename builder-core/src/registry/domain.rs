//! Which hosts belong together.

/// Suffixes below which strangers have names of their own; a host below one of them shares it with nobody.
const SHARED_SUFFIXES: [&str; 24] = [
    "amazonaws.com",
    "amazonaws.com.cn",
    "azurecr.io",
    "azurecr.cn",
    "azurecr.us",
    "azurewebsites.net",
    "cloudapp.azure.com",
    "cloudfront.net",
    "digitaloceanspaces.com",
    "fly.dev",
    "github.io",
    "gitlab.io",
    "herokuapp.com",
    "jfrog.io",
    "netlify.app",
    "ngrok.io",
    "ngrok.app",
    "ngrok-free.app",
    "nip.io",
    "pages.dev",
    "pkg.dev",
    "sslip.io",
    "vercel.app",
    "workers.dev",
];

/// The second-level labels below which a country sells names (`co.uk`, `com.au`).
const SECOND_LEVELS: [&str; 10] = ["ac", "co", "com", "edu", "gov", "gob", "ne", "net", "or", "org"];

/// Whether two hosts are below one domain that somebody registered.
///
/// This is stricter than the public suffix list where it differs: an unknown case only means that credentials are
/// not sent.
pub(super) fn share_a_domain(a: &str, b: &str) -> bool {
    match (registrable(a), registrable(b)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

fn registrable(host: &str) -> Option<&str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.starts_with('[') || host.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let shared = SHARED_SUFFIXES
        .iter()
        .any(|suffix| host.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
    if shared {
        return None;
    }
    let labels: Vec<&str> = host.rsplit('.').collect();
    let [top, second, ..] = labels[..] else { return None };
    let wanted = if top.len() == 2 && SECOND_LEVELS.contains(&second) { 3 } else { 2 };
    if labels.len() < wanted {
        return None;
    }
    let length = labels[..wanted].iter().map(|label| label.len() + 1).sum::<usize>() - 1;
    Some(&host[host.len() - length..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_domains() {
        for (a, b, want) in [
            ("registry.gitlab.com", "gitlab.com", true),
            ("registry-1.docker.io", "auth.docker.io", true),
            ("registry.example.co.uk", "auth.example.co.uk", true),
            ("registry.example.co.uk", "evil.co.uk", false),
            ("example.com", "example.com.evil.com", false),
            ("a.github.io", "b.github.io", false),
            ("a.azurecr.io", "b.azurecr.io", false),
            ("10.0.0.1", "10.0.0.1", false),
            ("[::1]", "[::1]", false),
            ("localhost", "localhost", false),
            ("a.internal", "b.internal", false),
            ("com", "evil.com", false),
        ] {
            assert_eq!(share_a_domain(a, b), want, "{a} {b}");
        }
    }
}
