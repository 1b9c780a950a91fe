//! How registries are reached: trust, proxies and credentials from the settings.

use std::ffi::OsString;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rbuild_core::progress::Events;
use rbuild_core::registry::transport::{Cancelled, Proxies, TransportOptions};
use rbuild_core::registry::{Credentials, DockerConfig, Options, Secret};

use crate::error::{Failure, Kind};
use crate::settings::{Environment, GlobalSettings};

/// How long a credential helper may take; one that asks its user for a password needs a while.
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);

/// The options of a client that ends its work when the flag is set.
pub(super) fn options(
    global: &GlobalSettings,
    environment: &Environment,
    cancelled: Arc<AtomicBool>,
    events: Events,
) -> Result<Options, Failure> {
    let transport = TransportOptions {
        certificate_authorities: certificate_authorities(global)?.into_iter().collect(),
        proxies: proxies(environment),
        cancelled: Cancelled::sharing(cancelled),
        events: Some(events),
        ..TransportOptions::default()
    };
    let docker = global.docker_config.clone().map(|directory| DockerConfig {
        directory,
        search_path: environment.os("PATH").map(OsString::from).unwrap_or_default(),
        helper_timeout: HELPER_TIMEOUT,
    });
    let credentials = Credentials { docker, ..Credentials::default() };
    Ok(Options { transport, credentials, ..Options::default() })
}

/// The PEM text of `--ca`.
pub(super) fn certificate_authorities(global: &GlobalSettings) -> Result<Option<Vec<u8>>, Failure> {
    let Some(path) = &global.ca else { return Ok(None) };
    fs::read(path).map(Some).map_err(|error| {
        let action = format!("cannot read the certificate authorities `{}`", path.display());
        Failure::caused(Kind::Usage, action, &error)
    })
}

/// The proxies of rbuild's own transfers; the lower-case form of a variable wins, as for curl.
fn proxies(environment: &Environment) -> Proxies {
    let variables = environment.proxies();
    let find = |name: &str| variables.get(&name.to_lowercase()).or_else(|| variables.get(name)).cloned();
    let proxy = |name: &str| find(name).or_else(|| find("ALL_PROXY")).map(Secret::new);
    Proxies { http: proxy("HTTP_PROXY"), https: proxy("HTTPS_PROXY"), no_proxy: find("NO_PROXY").unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_case_proxies_win() {
        let environment = Environment::of(&[("HTTPS_PROXY", "upper"), ("https_proxy", "lower"), ("ALL_PROXY", "all")]);
        let proxies = proxies(&environment);
        assert_eq!(proxies.https.unwrap().expose(), "lower");
        assert_eq!(proxies.http.unwrap().expose(), "all");
    }
}
