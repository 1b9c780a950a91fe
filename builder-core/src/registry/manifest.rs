//! Manifests: looking up, fetching, sending.

use ureq::http::Method;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};

use super::auth::Scope;
use super::client::{Client, context, is_about_the_way};
use super::document::{self, ACCEPT};
use super::error::{Action, RegistryError, RegistryErrorKind};
use super::response::{content_digest, read_bounded};
use super::transport::{Payload, Request};
use crate::oci::{Descriptor, Digest, media_type};
use crate::reference::Reference;

/// The size in bytes that a manifest or an index may have.
pub const MANIFEST_SIZE_MAX: u64 = 4 * 1024 * 1024;

impl Client {
    /// Looks up what a reference stands for, without fetching it where the registry tells.
    ///
    /// # Errors
    ///
    /// When the reference is not there, and as for all that a network can do.
    pub fn resolve(&self, reference: &Reference) -> Result<Descriptor, RegistryError> {
        self.at_first_place(reference, |place| self.resolve_at(place))
    }

    fn resolve_at(&self, reference: &Reference) -> Result<Descriptor, RegistryError> {
        let context = context(Action::Resolve, reference);
        match self.head_manifest(reference) {
            Ok(Some(descriptor)) => return Ok(descriptor),
            Err(error) if is_about_the_way(&error) => return Err(context(error)),
            // Another answer has no body to a HEAD; the GET tells what is wrong, or simply works.
            Ok(None) | Err(_) => {}
        }
        self.get_manifest(reference).map(|(_, descriptor)| descriptor).map_err(context)
    }

    /// Fetches a manifest or index by the reference's digest, or else by its tag.
    ///
    /// The bytes are checked against the reference's digest, and against the one that the registry names.
    ///
    /// # Errors
    ///
    /// When it is not there, is not what it says, or is larger than [`MANIFEST_SIZE_MAX`].
    pub fn manifest(&self, reference: &Reference) -> Result<(Vec<u8>, Descriptor), RegistryError> {
        let fetch = |place: &Reference| self.get_manifest(place).map_err(context(Action::FetchManifest, place));
        self.at_first_place(reference, fetch)
    }

    /// Sends a manifest or index to the reference's tag, or to its digest where it has no tag.
    ///
    /// # Errors
    ///
    /// When the reference has a digest that the bytes do not have, or the registry refuses.
    pub fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Digest, RegistryError> {
        self.put_manifest(reference, media_type, bytes).map_err(context(Action::PushManifest, reference))
    }

    fn head_manifest(&self, reference: &Reference) -> Result<Option<Descriptor>, RegistryError> {
        let url = self.url(reference, &format!("manifests/{}", target(reference)))?;
        let request = Request::new(Method::HEAD, url).header("accept", ACCEPT);
        let called = self.expect(reference, &Scope::pull(reference.repository()), &request, &[200])?;
        let headers = called.response.headers();
        let (Some(kind), Some(digest), Some(size)) = (known_type(headers), content_digest(headers)?, length(headers))
        else {
            return Ok(None);
        };
        if let Some(wanted) = reference.digest().filter(|wanted| *wanted != digest) {
            return Err(RegistryError::new(RegistryErrorKind::Digest { wanted, got: digest }));
        }
        Ok((size <= MANIFEST_SIZE_MAX).then(|| Descriptor::new(kind, digest, size)))
    }

    fn get_manifest(&self, reference: &Reference) -> Result<(Vec<u8>, Descriptor), RegistryError> {
        let url = self.url(reference, &format!("manifests/{}", target(reference)))?;
        let request = Request::new(Method::GET, url).header("accept", ACCEPT);
        let scope = Scope::pull(reference.repository());
        let (headers, bytes) = self.retry(reference).run(|| {
            let mut called = self.call(reference, &scope, &request)?;
            super::response::check_status(&mut called.response, &[200], called.logged_in)?;
            let mut bytes = Vec::new();
            read_bounded(&mut called.response.body_mut().as_reader(), MANIFEST_SIZE_MAX, &mut bytes)?;
            Ok::<_, RegistryError>((called.response.headers().clone(), bytes))
        })?;
        let digest = Digest::of(&bytes);
        for wanted in reference.digest().into_iter().chain(content_digest(&headers)?) {
            if wanted != digest {
                return Err(RegistryError::new(RegistryErrorKind::Digest { wanted, got: digest }));
            }
        }
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let kind = document::kind(&bytes, content_type)?;
        let descriptor = Descriptor::new(kind, digest, bytes.len() as u64);
        Ok((bytes, descriptor))
    }

    fn put_manifest(&self, reference: &Reference, media_type: &str, bytes: &[u8]) -> Result<Digest, RegistryError> {
        let digest = Digest::of(bytes);
        if let Some(wanted) = reference.digest().filter(|wanted| *wanted != digest) {
            return Err(RegistryError::new(RegistryErrorKind::Digest { wanted, got: digest }));
        }
        let target = reference.tag().map_or_else(|| digest.to_string(), str::to_owned);
        let url = self.url(reference, &format!("manifests/{target}"))?;
        let request = Request::new(Method::PUT, url).header("content-type", media_type).payload(Payload::Bytes(bytes));
        let called = self.expect(reference, &Scope::push(reference.repository()), &request, &[201, 200, 202, 204])?;
        match content_digest(called.response.headers())? {
            Some(got) if got != digest => Err(RegistryError::new(RegistryErrorKind::Digest { wanted: digest, got })),
            _ => Ok(digest),
        }
    }
}

/// What a manifest is asked for by: the digest binds more than the tag.
fn target(reference: &Reference) -> String {
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, Some(tag)) => tag.to_owned(),
        (None, None) => unreachable!("a reference without a digest has a tag"),
    }
}

fn known_type(headers: &HeaderMap) -> Option<&'static str> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?.split(';').next()?.trim();
    [media_type::INDEX, media_type::MANIFEST, media_type::DOCKER_INDEX, media_type::DOCKER_MANIFEST]
        .into_iter()
        .find(|kind| *kind == text)
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
