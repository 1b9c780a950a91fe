//! The client: which server a registry is, and authorized requests to it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::auth::{Authenticator, Scope};
use super::error::{Action, RegistryError, RegistryErrorKind};
use super::transport::{Cancelled, Origin, Reach, Request, Retry, Transport, TransportFailure, TransportOptions, Url};
use super::{Credentials, response};
use crate::reference::{DEFAULT_REGISTRY, Reference};

/// How often a mirror is asked.
const MIRROR_ATTEMPTS: u32 = 2;

/// The server behind the name `docker.io`.
const HUB_HOST: &str = "registry-1.docker.io";

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Trust, proxies, patience.
    pub transport: TransportOptions,
    /// Registries spoken to in the clear, as written in image names. Those of this machine (`localhost`, loopback
    /// addresses) always are.
    pub insecure_registries: Vec<String>,
    /// Registries asked first when something is pulled, by the registry that they stand in for, both as written in image
    /// names. The registry itself is asked when its mirrors are away or do not have what is wanted; a mirror that has
    /// something else under a digest is an error.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Where credentials come from.
    pub credentials: Credentials,
    /// Hosts of token services that may be told the credentials of any registry, besides those that belong to the
    /// registry by their name.
    pub trusted_realms: Vec<String>,
}

/// A client for all registries: it keeps connections and tokens. Cloning shares them.
#[derive(Clone)]
pub struct Client {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) transport: Transport,
    authenticator: Authenticator,
    insecure_registries: Vec<String>,
    mirrors: BTreeMap<String, Vec<String>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

/// An answer, where it came from, and whether credentials were behind the request.
pub(super) struct Called {
    pub(super) response: ureq::http::Response<ureq::Body>,
    pub(super) url: Url,
    pub(super) logged_in: bool,
}

impl Client {
    /// Makes a client. Asks nobody yet.
    ///
    /// # Errors
    ///
    /// For a proxy or certificate authorities that cannot be used.
    pub fn new(options: Options) -> Result<Self, RegistryError> {
        let transport = Transport::new(options.transport, Reach::Registry)?;
        let authenticator = Authenticator::new(options.credentials, options.trusted_realms);
        let (insecure_registries, mirrors) = (options.insecure_registries, options.mirrors);
        Ok(Self { inner: Arc::new(Inner { transport, authenticator, insecure_registries, mirrors }) })
    }

    /// The flag that ends the client's work.
    #[must_use]
    pub fn cancelled(&self) -> &Cancelled {
        &self.inner.transport.options.cancelled
    }

    /// How often and how patiently a registry is asked; a mirror only a little, as others can do its work.
    pub(super) fn retry(&self, reference: &Reference) -> Retry<'_> {
        let options = &self.inner.transport.options;
        let is_mirror = self.inner.mirrors.values().flatten().any(|mirror| mirror == reference.registry());
        let attempts = if is_mirror { options.attempts.min(MIRROR_ATTEMPTS) } else { options.attempts };
        Retry::with_attempts(options, attempts)
    }

    /// Where a reference is pulled from: the mirrors of its registry, then the registry.
    pub(super) fn places(&self, reference: &Reference) -> Vec<Reference> {
        let mirrors = self.inner.mirrors.get(reference.registry()).into_iter().flatten();
        mirrors.map(|mirror| reference.with_registry(mirror)).chain([reference.clone()]).collect()
    }

    /// Does `work` at the first place that can do it.
    pub(super) fn at_first_place<T>(
        &self,
        reference: &Reference,
        work: impl Fn(&Reference) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut places = self.places(reference).into_iter();
        let mut place = places.next().expect("the registry itself is always a place");
        loop {
            let error = match work(&place) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            match places.next() {
                Some(next) if is_elsewhere(&error) => place = next,
                _ => return Err(error),
            }
        }
    }

    /// The address below which the API of a reference's registry is.
    fn base(&self, reference: &Reference) -> Result<Url, RegistryError> {
        let registry = reference.registry();
        let host = if registry == DEFAULT_REGISTRY { HUB_HOST } else { registry };
        let parse = |scheme: &str| {
            Url::parse(&format!("{scheme}://{host}/")).map_err(|error| RegistryError::answer(error.to_string()))
        };
        let secure = parse("https")?;
        let insecure = secure.origin().is_loopback()
            || self.inner.insecure_registries.iter().any(|listed| listed.eq_ignore_ascii_case(registry));
        if insecure { parse("http") } else { Ok(secure) }
    }

    /// The address of something in a repository: `path` is what follows the repository's name.
    pub(super) fn url(&self, reference: &Reference, path: &str) -> Result<Url, RegistryError> {
        let target = format!("/v2/{}/{path}", reference.repository());
        self.base(reference)?.join(&target).map_err(|error| RegistryError::answer(error.to_string()))
    }

    /// Sends a request once, with a log-in where the registry asks for one.
    pub(super) fn call(
        &self,
        reference: &Reference,
        scope: &Scope,
        request: &Request<'_>,
    ) -> Result<Called, RegistryError> {
        const ROUNDS: usize = 3;
        let origin: Origin = self.base(reference)?.origin().clone();
        let ours = *request.url.origin() == origin;
        let (transport, authenticator) = (&self.inner.transport, &self.inner.authenticator);
        let registry = reference.registry();
        let mut round = 1;
        loop {
            let authorization = match ours {
                true => authenticator.authorization(transport, registry, &origin, scope)?,
                false => super::auth::Authorization::default(),
            };
            let answer = transport.send(request.clone().authorization(authorization.header.clone()))?;
            let denied = answer.response.status().as_u16() == 401 && ours && *answer.url.origin() == origin;
            if denied
                && round < ROUNDS
                && authenticator.learn(registry, scope, &authorization, answer.response.headers())
            {
                round += 1;
                continue;
            }
            let logged_in = authorization.with_credentials;
            return Ok(Called { response: answer.response, url: answer.url, logged_in });
        }
    }

    /// As [`Self::call`], with repeated attempts, for one of the statuses wanted.
    pub(super) fn expect(
        &self,
        reference: &Reference,
        scope: &Scope,
        request: &Request<'_>,
        statuses: &[u16],
    ) -> Result<Called, RegistryError> {
        self.retry(reference).run(|| {
            let mut called = self.call(reference, scope, request)?;
            response::check_status(&mut called.response, statuses, called.logged_in)?;
            Ok(called)
        })
    }
}

/// Says for all errors of one piece of work what was being done.
pub(super) fn context(action: Action, reference: &Reference) -> impl Fn(RegistryError) -> RegistryError {
    let (image, registry) = (reference.familiar(), reference.registry().to_owned());
    move |error| error.during(action.clone(), image.clone(), &registry)
}

/// Whether an error is about the way and not about what was asked for.
pub(super) fn is_about_the_way(error: &RegistryError) -> bool {
    match &*error.kind {
        RegistryErrorKind::Transport(TransportFailure::Protocol) => false,
        RegistryErrorKind::Transport(_)
        | RegistryErrorKind::RateLimited { .. }
        | RegistryErrorKind::Cancelled
        | RegistryErrorKind::Credentials => true,
        _ => error.action == Action::LogIn,
    }
}

/// Whether another registry may have what this one does not give.
pub(super) fn is_elsewhere(error: &RegistryError) -> bool {
    use RegistryErrorKind as Kind;
    match &*error.kind {
        Kind::Unauthorized { .. } | Kind::NotFound { .. } | Kind::RateLimited { .. } | Kind::Status { .. } => true,
        Kind::Transport(failure) => *failure != TransportFailure::Cancelled,
        _ => false,
    }
}
