//! Connections to servers, and single exchanges over them.

use std::io::{self, Read};
use std::sync::Arc;

use ureq::config::Config;
use ureq::http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, HeaderMap, HeaderValue, LOCATION};
use ureq::http::{Method, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body, Proxy, SendBody};

use super::guard::{self, GuardedResolver, Reach};
use super::url::Scheme;
use super::{TransportError, TransportFailure, TransportOptions, Url, proxy};

const REDIRECTS_MAX: usize = 10;

/// What is sent with a request.
#[derive(Clone, Copy)]
pub(crate) enum Payload<'a> {
    /// Nothing.
    None,
    /// Bytes in memory.
    Bytes(&'a [u8]),
    /// Bytes of a known length that are read anew for each attempt.
    Open(&'a dyn Fn() -> io::Result<Box<dyn Read + 'a>>, u64),
}

/// A request before it is sent.
#[derive(Clone)]
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    /// Headers for whoever answers.
    pub(crate) headers: HeaderMap,
    /// Headers for the origin of `url` alone.
    pub(crate) authorization: HeaderMap,
    pub(crate) payload: Payload<'a>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        let (headers, authorization) = (HeaderMap::new(), HeaderMap::new());
        Request { method, url, headers, authorization, payload: Payload::None }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    pub(crate) fn authorization(mut self, value: Option<HeaderValue>) -> Self {
        if let Some(mut value) = value {
            value.set_sensitive(true);
            self.authorization.insert(AUTHORIZATION, value);
        }
        self
    }

    pub(crate) fn payload(mut self, payload: Payload<'a>) -> Self {
        self.payload = payload;
        self
    }
}

/// An answer, and where it came from in the end.
pub(crate) struct Answer {
    pub(crate) response: Response<Body>,
    pub(crate) url: Url,
}

/// Connections to servers.
#[derive(Debug)]
pub(crate) struct Transport {
    direct: Agent,
    guarded: Agent,
    http_proxy: Option<Agent>,
    https_proxy: Option<Agent>,
    reach: Reach,
    pub(crate) options: TransportOptions,
}

impl Transport {
    pub(crate) fn new(options: TransportOptions, reach: Reach) -> Result<Self, TransportError> {
        let tls = tls_config(&options)?;
        let guard = GuardedResolver { reach, inner: DefaultResolver::default() };
        let proxied = |text: Option<&crate::registry::Secret>| -> Result<Option<Agent>, TransportError> {
            let Some(text) = text.map(|text| text.expose().trim()).filter(|text| !text.is_empty()) else {
                return Ok(None);
            };
            let proxy = Proxy::new(text).map_err(|_| {
                let what = format!("`{}` is not a proxy", super::redacted(text));
                TransportError::new(TransportFailure::Options(what), &"")
            })?;
            Ok(Some(Agent::new_with_config(config(&options, &tls, Some(proxy)))))
        };
        Ok(Self {
            direct: Agent::new_with_config(config(&options, &tls, None)),
            guarded: Agent::with_parts(config(&options, &tls, None), DefaultConnector::default(), guard),
            http_proxy: proxied(options.proxies.http.as_ref())?,
            https_proxy: proxied(options.proxies.https.as_ref())?,
            reach,
            options,
        })
    }

    /// Sends a request and follows redirects of `GET` and `HEAD`.
    pub(crate) fn send(&self, mut request: Request<'_>) -> Result<Answer, TransportError> {
        let first = request.url.origin().clone();
        let follows = request.method == Method::GET || request.method == Method::HEAD;
        let mut near = None;
        for _ in 0..=REDIRECTS_MAX {
            let same = *request.url.origin() == first;
            let guarded = !same && !*near.get_or_insert_with(|| guard::is_near(&first));
            let response = self.exchange(&request, same, guarded)?;
            if !follows || !is_redirect(response.status().as_u16()) {
                return Ok(Answer { response, url: request.url });
            }
            request.url = redirected(&request.url, response.headers())?;
        }
        Err(refused(&request.url, format!("there are more than {REDIRECTS_MAX}")))
    }

    /// Sends one request and takes the head of its answer.
    fn exchange(
        &self,
        request: &Request<'_>,
        authorized: bool,
        guarded: bool,
    ) -> Result<Response<Body>, TransportError> {
        let url = &request.url;
        if self.options.cancelled.is_cancelled() {
            return Err(TransportError::new(TransportFailure::Cancelled, url));
        }
        if self.options.offline {
            return Err(TransportError::new(TransportFailure::Offline, url));
        }
        if guarded && url.origin().address().is_some_and(|address| !guard::is_allowed(self.reach, address)) {
            return Err(refused(url, format!("it leads to `{}`", url.origin())));
        }
        let mut builder = ureq::http::Request::builder().method(request.method.clone()).uri(url.to_string());
        let secret = authorized.then_some(&request.authorization);
        for (name, value) in request.headers.iter().chain(secret.into_iter().flatten()) {
            if authorized || (name != AUTHORIZATION && name != COOKIE) {
                builder = builder.header(name, value);
            }
        }
        let fault = |error: ureq::Error| TransportError::from_ureq(error, url);
        let agent = self.agent(url, guarded);
        match request.payload {
            Payload::None if request.method == Method::GET || request.method == Method::HEAD => {
                agent.run(builder.body(()).map_err(|error| fault(error.into()))?).map_err(fault)
            }
            Payload::None => agent.run(builder.body(&[][..]).map_err(|error| fault(error.into()))?).map_err(fault),
            Payload::Bytes(bytes) => {
                agent.run(builder.body(bytes).map_err(|error| fault(error.into()))?).map_err(fault)
            }
            Payload::Open(open, length) => {
                let unreadable = |error: io::Error| TransportError {
                    failure: TransportFailure::Payload,
                    url: url.to_string(),
                    source: Some(Box::new(error)),
                };
                let mut reader = Measured { inner: open().map_err(unreadable)?, left: length, failed: None };
                let builder = builder.header(CONTENT_LENGTH, length);
                let body = builder.body(SendBody::from_reader(&mut reader)).map_err(|error| fault(error.into()))?;
                let answer = agent.run(body);
                match (answer, reader.failed) {
                    (Ok(answer), _) => Ok(answer),
                    (Err(_), Some(error)) => Err(unreadable(error)),
                    (Err(error), None) => Err(fault(error)),
                }
            }
        }
    }

    fn agent(&self, url: &Url, guarded: bool) -> &Agent {
        let proxied = match url.origin().scheme {
            Scheme::Http => self.http_proxy.as_ref(),
            Scheme::Https => self.https_proxy.as_ref(),
        };
        match proxied {
            Some(agent) if !proxy::is_direct(&self.options.proxies.no_proxy, url.origin()) => agent,
            _ if guarded => &self.guarded,
            _ => &self.direct,
        }
    }
}

/// Bytes to send, exactly as many as announced. Remembers its own failure, which else looks like one of the connection.
struct Measured<'a> {
    inner: Box<dyn Read + 'a>,
    left: u64,
    failed: Option<io::Error>,
}

impl Read for Measured<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let error = match self.inner.read(&mut buffer[..most]) {
            Ok(0) => io::Error::new(io::ErrorKind::UnexpectedEof, "there are fewer bytes than announced"),
            Ok(count) => {
                self.left -= count as u64;
                return Ok(count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => error,
        };
        let shown = io::Error::new(error.kind(), error.to_string());
        self.failed = Some(error);
        Err(shown)
    }
}

fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Where an answer redirects to, if that may be followed.
fn redirected(from: &Url, headers: &HeaderMap) -> Result<Url, TransportError> {
    let location = headers.get(LOCATION).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
    let location = location.ok_or_else(|| refused(from, "it says not where to".to_owned()))?;
    let to = from.join(location).map_err(|error| refused(from, error.to_string()))?;
    if to.origin().scheme == Scheme::Http && from.origin().scheme == Scheme::Https {
        return Err(refused(from, format!("it leads from https to http at `{}`", to.origin().host)));
    }
    if to.credentials().is_some() {
        return Err(refused(from, format!("it brings its own credentials for `{}`", to.origin().host)));
    }
    Ok(to)
}

fn refused(url: &Url, reason: String) -> TransportError {
    TransportError::new(TransportFailure::Redirect(reason), url)
}

fn config(options: &TransportOptions, tls: &TlsConfig, proxy: Option<Proxy>) -> Config {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .tls_config(tls.clone())
        .proxy(proxy)
        .user_agent(options.user_agent.as_str())
        // What is verified are the bytes as stored, so no encoding may come between.
        .accept_encoding("identity")
        .max_response_header_size(64 * 1024)
        .input_buffer_size(256 * 1024)
        .output_buffer_size(128 * 1024)
        .timeout_connect(Some(options.connect_timeout))
        .timeout_resolve(Some(options.connect_timeout))
        .timeout_recv_response(Some(options.answer_timeout))
        .timeout_per_read(Some(options.stall_timeout))
        .timeout_per_write(Some(options.stall_timeout))
        .build()
}

fn tls_config(options: &TransportOptions) -> Result<TlsConfig, TransportError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = TlsConfig::builder().unversioned_rustls_crypto_provider(provider);
    if options.certificate_authorities.is_empty() {
        return Ok(builder.root_certs(RootCerts::PlatformVerifier).build());
    }
    let bad = |what: &str| TransportError::new(TransportFailure::Options(what.to_owned()), &"");
    let system = rustls_native_certs::load_native_certs().certs;
    let mut roots: Vec<Certificate<'static>> =
        system.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect();
    for pem in &options.certificate_authorities {
        let before = roots.len();
        for item in parse_pem(pem) {
            if let PemItem::Certificate(certificate) =
                item.map_err(|_| bad("a file of certificate authorities is not PEM"))?
            {
                roots.push(certificate);
            }
        }
        if roots.len() == before {
            return Err(bad("a file of certificate authorities has no certificate"));
        }
    }
    Ok(builder.root_certs(RootCerts::new_with_certs(&roots)).build())
}
