//! Logging in: challenges, tokens, and whom credentials are told.
//!
//! A registry is first asked without credentials. When it answers with a challenge, the challenge is kept and tokens
//! are fetched ahead of further requests: one per registry and scope, by one thread while others wait for it.
//!
//! Credentials go to the registry itself and to a token service that belongs to it: at the same host, below the same
//! registrable domain, or named by the caller. The service must use `https`, unless the registry itself is spoken to
//! in the clear. Any other service is asked without credentials, with a warning.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::http::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use ureq::http::{Method, Response};

use super::challenge::{self, Challenge};
use super::domain::share_a_domain;
use super::error::RegistryError;
use super::response::{check_status, read_bounded};
use super::transport::{Origin, Payload, Request, Retry, Scheme, Transport, Url, percent_encoded, redacted};
use super::{Credential, Credentials, Secret};
use crate::progress::{Event, Warning};

const TOKEN_ANSWER_MAX: u64 = 1024 * 1024;
const TOKEN_LIFE_DEFAULT: u64 = 60;
/// A token is renewed this long before it ends.
const TOKEN_MARGIN: Duration = Duration::from_secs(10);
const TOKEN_LENGTH_MAX: usize = 64 * 1024;

/// What a request needs to be allowed to do, `repository:NAME:pull[,push]`, several separated by spaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scope(String);

impl Scope {
    pub(super) fn pull(repository: &str) -> Self {
        Self(format!("repository:{repository}:pull"))
    }

    pub(super) fn push(repository: &str) -> Self {
        Self(format!("repository:{repository}:pull,push"))
    }

    pub(super) fn and(&self, other: &Self) -> Self {
        Self(format!("{} {}", self.0, other.0))
    }
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    ends: Instant,
    with_credentials: bool,
}

type Slot<T> = Arc<Mutex<Option<T>>>;

/// The `Authorization` header for a request.
#[derive(Clone, Default)]
pub(super) struct Authorization {
    pub(super) header: Option<HeaderValue>,
    pub(super) with_credentials: bool,
}

/// Everything that is known about logging in.
pub(super) struct Authenticator {
    credentials: Credentials,
    trusted_realms: Vec<String>,
    found: Mutex<BTreeMap<String, Slot<Option<Credential>>>>,
    challenges: Mutex<BTreeMap<String, Challenge>>,
    tokens: Mutex<BTreeMap<(String, Scope), Slot<Token>>>,
}

impl Authenticator {
    pub(super) fn new(credentials: Credentials, trusted_realms: Vec<String>) -> Self {
        let (found, challenges, tokens) = Default::default();
        Self { credentials, trusted_realms, found, challenges, tokens }
    }

    /// The header for a request, as far as the registry was heard about what it wants.
    pub(super) fn authorization(
        &self,
        transport: &Transport,
        registry: &str,
        origin: &Origin,
        scope: &Scope,
    ) -> Result<Authorization, RegistryError> {
        let challenge = lock(&self.challenges).get(registry).cloned();
        match challenge {
            None => Ok(Authorization::default()),
            Some(Challenge::Basic) => match self.credential(registry)? {
                Some(Credential::Password { user, password }) => {
                    Ok(Authorization { header: Some(basic(&user, &password)?), with_credentials: true })
                }
                Some(Credential::IdentityToken(_)) | None => Ok(Authorization::default()),
            },
            Some(Challenge::Bearer { realm, service }) => {
                let slot = slot(&self.tokens, (registry.to_owned(), scope.clone()));
                let mut kept = lock(&slot);
                if let Some(token) = kept.as_ref().filter(|token| token.ends > Instant::now()) {
                    return Ok(token.authorization());
                }
                let service = TokenService::new(&realm, service.as_deref(), registry, origin)?;
                let token = self.fetch(transport, &service, scope)?;
                let authorization = token.authorization();
                *kept = Some(token);
                Ok(authorization)
            }
        }
    }

    /// Learns from a 401; tells whether asking again makes sense.
    pub(super) fn learn(&self, registry: &str, scope: &Scope, used: &Authorization, headers: &HeaderMap) -> bool {
        let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let Some(challenge) = challenge::best(texts) else { return false };
        let basic = challenge == Challenge::Basic;
        lock(&self.challenges).insert(registry.to_owned(), challenge);
        if basic {
            return used.header.is_none()
                && matches!(self.credential(registry), Ok(Some(Credential::Password { .. })) | Err(_));
        }
        if let Some(stale) = &used.header {
            let slot = slot(&self.tokens, (registry.to_owned(), scope.clone()));
            let mut kept = lock(&slot);
            if kept.as_ref().is_some_and(|token| token.header == *stale) {
                *kept = None;
            }
        }
        true
    }

    fn credential(&self, registry: &str) -> Result<Option<Credential>, RegistryError> {
        let slot = slot(&self.found, registry.to_owned());
        let mut kept = lock(&slot);
        if let Some(found) = kept.as_ref() {
            return Ok(found.clone());
        }
        let found = self.credentials.find(registry)?;
        *kept = Some(found.clone());
        Ok(found)
    }

    /// Asks a token service.
    fn fetch(&self, transport: &Transport, service: &TokenService<'_>, scope: &Scope) -> Result<Token, RegistryError> {
        let mut credential = self.credential(service.registry)?;
        if credential.is_some() && !service.is_trusted(&self.trusted_realms) {
            credential = None;
            if let Some(events) = &transport.options.events {
                events.event(Event::Warning(Warning {
                    rule: String::new(),
                    message: format!(
                        "the credentials for {} are not sent to its token service at {}",
                        service.registry,
                        service.url.origin()
                    ),
                    help: "trust the token service's host by name if it belongs to the registry".to_owned(),
                    span: None,
                }));
            }
        }
        let with_credentials = credential.is_some();
        let body = Retry::new(&transport.options)
            .run(|| ask_token_service(transport, service, scope, credential.as_ref()))
            .map_err(|error| error.during(super::Action::LogIn, String::new(), service.registry))?;
        let answer: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|_| RegistryError::answer("the token service sent something else than a token").logging_in())?;
        answer.into_token(with_credentials).map_err(RegistryError::logging_in)
    }
}

impl Token {
    fn authorization(&self) -> Authorization {
        Authorization { header: Some(self.header.clone()), with_credentials: self.with_credentials }
    }
}

/// Where tokens for a registry come from.
struct TokenService<'a> {
    url: Url,
    service: Option<&'a str>,
    registry: &'a str,
    origin: &'a Origin,
}

impl<'a> TokenService<'a> {
    fn new(
        realm: &str,
        service: Option<&'a str>,
        registry: &'a str,
        origin: &'a Origin,
    ) -> Result<Self, RegistryError> {
        let refuse = |reason: &str| {
            Err(RegistryError::answer(format!("its token service `{}` {reason}", redacted(realm))).logging_in())
        };
        let Ok(url) = Url::parse(realm) else { return refuse("is not an address") };
        if url.credentials().is_some() {
            return refuse("brings its own credentials");
        }
        let clear = url.origin().scheme == Scheme::Http;
        if clear
            && (origin.scheme == Scheme::Https || (url.origin().host != origin.host && !url.origin().is_loopback()))
        {
            return refuse("is not reached by https");
        }
        if url.origin().is_loopback() && !origin.is_loopback() {
            return refuse("is on this machine");
        }
        Ok(Self { url, service, registry, origin })
    }

    /// Whether the registry's credentials may be told.
    fn is_trusted(&self, trusted: &[String]) -> bool {
        let (host, registry) = (&self.url.origin().host, &self.origin.host);
        let clear_elsewhere = self.url.origin().scheme == Scheme::Http && self.origin.scheme == Scheme::Https;
        let near = self.url.origin().is_loopback() && self.origin.is_loopback();
        !clear_elsewhere && (host == registry || near || trusted.contains(host) || share_a_domain(host, registry))
    }
}

fn ask_token_service(
    transport: &Transport,
    service: &TokenService<'_>,
    scope: &Scope,
    credential: Option<&Credential>,
) -> Result<Vec<u8>, RegistryError> {
    let mut answer = match credential {
        Some(Credential::IdentityToken(token)) => {
            let form = refresh_form(service.service.unwrap_or_default(), scope, token);
            let request = Request::new(Method::POST, service.url.clone())
                .header("content-type", "application/x-www-form-urlencoded")
                .payload(Payload::Bytes(form.as_bytes()));
            transport.send(request)?
        }
        Some(Credential::Password { user, password }) => {
            let url = token_url(service, scope).with_query("account", user);
            let header = basic(user, password)?;
            transport.send(Request::new(Method::GET, url).authorization(Some(header)))?
        }
        None => transport.send(Request::new(Method::GET, token_url(service, scope)))?,
    };
    check_status(&mut answer.response, &[200], credential.is_some()).map_err(RegistryError::logging_in)?;
    read_token_answer(&mut answer.response)
}

fn read_token_answer(response: &mut Response<ureq::Body>) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    let reader: &mut dyn Read = &mut response.body_mut().as_reader();
    read_bounded(reader, TOKEN_ANSWER_MAX, &mut bytes)?;
    Ok(bytes)
}

fn token_url(service: &TokenService<'_>, scope: &Scope) -> Url {
    let mut url = service.url.clone();
    if let Some(name) = service.service {
        url = url.with_query("service", name);
    }
    scope.0.split(' ').fold(url, |url, scope| url.with_query("scope", scope))
}

fn refresh_form(service: &str, scope: &Scope, token: &Secret) -> String {
    let pairs = [
        ("grant_type", "refresh_token"),
        ("service", service),
        ("client_id", "rbuild"),
        ("scope", &scope.0),
        ("refresh_token", token.expose()),
    ];
    pairs.map(|(name, value)| format!("{name}={}", percent_encoded(value))).join("&")
}

pub(super) fn basic(user: &str, password: &Secret) -> Result<HeaderValue, RegistryError> {
    let text = format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.expose())));
    let mut value = HeaderValue::from_str(&text).expect("base64 is valid in a header");
    value.set_sensitive(true);
    Ok(value)
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl TokenAnswer {
    fn into_token(self, with_credentials: bool) -> Result<Token, RegistryError> {
        let no_token = || RegistryError::answer("the token service sent no token");
        let some = |text: Option<String>| text.filter(|text| !text.is_empty() && text.len() <= TOKEN_LENGTH_MAX);
        let text = some(self.token).or_else(|| some(self.access_token)).ok_or_else(no_token)?;
        let mut header = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| no_token())?;
        header.set_sensitive(true);
        // Lives are counted on the monotonic clock from now, so a wrong wall clock does no harm.
        let life = Duration::from_secs(self.expires_in.unwrap_or(TOKEN_LIFE_DEFAULT).clamp(1, 24 * 3600));
        let ends = Instant::now() + life.saturating_sub(TOKEN_MARGIN).max(life / 2);
        Ok(Token { header, ends, with_credentials })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked left a map or an option behind, both of which are whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn slot<K: Ord, T>(map: &Mutex<BTreeMap<K, Slot<T>>>, key: K) -> Slot<T> {
    Arc::clone(lock(map).entry(key).or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trusts_token_services_that_belong_to_the_registry() {
        for (registry, realm, trusted) in [
            ("https://registry-1.docker.io", "https://auth.docker.io/token", Some(true)),
            ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth", Some(true)),
            ("https://a.example", "https://a.example:8443/token", Some(true)),
            ("https://a.example", "https://sso.elsewhere.example.org/token", Some(true)),
            ("https://a.example", "https://evil.com/token", Some(false)),
            ("https://a.azurecr.io", "https://b.azurecr.io/token", Some(false)),
            ("https://10.0.0.1", "https://10.0.0.2/token", Some(false)),
            ("https://a.example", "https://a.example.evil.com/", Some(false)),
            ("https://a.example", "http://a.example/token", None),
            ("https://a.example", "https://127.0.0.1/token", None),
            ("https://a.example", "https://u:p@a.example/token", None),
            ("http://10.0.0.1:5000", "http://10.0.0.1:5001/token", Some(true)),
            ("http://10.0.0.1:5000", "http://10.0.0.2:5001/token", None),
            ("http://127.0.0.1:5000", "http://localhost:5001/token", Some(true)),
        ] {
            let origin = Url::parse(registry).unwrap().origin().clone();
            let service = TokenService::new(realm, None, "r", &origin).ok();
            let listed = ["sso.elsewhere.example.org".to_owned()];
            assert_eq!(service.map(|service| service.is_trusted(&listed)), trusted, "{registry} {realm}");
        }
    }
}
