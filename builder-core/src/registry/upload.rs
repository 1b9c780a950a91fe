//! Sending blobs.

use std::io::{self, Read};

use ureq::http::Method;
use ureq::http::header::LOCATION;

use super::auth::Scope;
use super::client::{Called, Client, context, is_about_the_way};
use super::error::{Action, RegistryError, RegistryErrorKind};
use super::response::{check_status, content_digest};
use super::transport::{Payload, Request, Scheme, Url, percent_encoded};
use crate::oci::Descriptor;
use crate::reference::Reference;

/// How a blob came to be in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there already.
    Present,
    /// The registry took it from another of its repositories.
    Mounted,
    /// Its bytes were sent.
    Sent,
}

impl Client {
    /// Makes sure that a repository has a blob: asks for it, has the registry mount it from `mount_from` (a repository
    /// of the same registry), or sends its bytes, which `open` gives anew for each attempt.
    ///
    /// # Errors
    ///
    /// When the registry refuses, or `open` or its reader fails.
    pub fn push_blob<'s>(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        open: &(dyn Fn() -> io::Result<Box<dyn Read + 's>> + 's),
        mount_from: Option<&str>,
    ) -> Result<Pushed, RegistryError> {
        let context = context(Action::PushBlob(descriptor.digest), reference);
        let scope = Scope::push(reference.repository());
        if self.find_blob(reference, &descriptor.digest, &scope).map_err(&context)? {
            return Ok(Pushed::Present);
        }
        let mut session = match mount_from.filter(|from| *from != reference.repository()) {
            None => None,
            Some(from) => match self.mount(reference, descriptor, &scope, from) {
                Ok(Mount::Done) => return Ok(Pushed::Mounted),
                Ok(Mount::Session(url)) => Some(url),
                Err(error) if is_about_the_way(&error) && error.action != Action::LogIn => return Err(context(error)),
                // A registry that cannot mount still takes the bytes.
                Err(_) => None,
            },
        };
        let sent = self.retry(reference).run(|| {
            let session = match session.take() {
                Some(url) => url,
                None => self.start_upload(reference, &scope)?,
            };
            self.send_blob(reference, descriptor, &scope, &session, open)
        });
        sent.map(|()| Pushed::Sent).map_err(context)
    }

    fn mount(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        scope: &Scope,
        from: &str,
    ) -> Result<Mount, RegistryError> {
        let path = format!(
            "blobs/uploads/?mount={}&from={}",
            percent_encoded(&descriptor.digest.to_string()),
            percent_encoded(from)
        );
        let request = Request::new(Method::POST, self.url(reference, &path)?);
        let called = self.expect(reference, &scope.and(&Scope::pull(from)), &request, &[201, 202])?;
        if called.response.status().as_u16() == 201 {
            return Ok(Mount::Done);
        }
        session(&called).map(Mount::Session)
    }

    fn start_upload(&self, reference: &Reference, scope: &Scope) -> Result<Url, RegistryError> {
        let request = Request::new(Method::POST, self.url(reference, "blobs/uploads/")?);
        let mut called = self.call(reference, scope, &request)?;
        check_status(&mut called.response, &[202], called.logged_in)?;
        session(&called)
    }

    fn send_blob<'s>(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        scope: &Scope,
        session: &Url,
        open: &(dyn Fn() -> io::Result<Box<dyn Read + 's>> + 's),
    ) -> Result<(), RegistryError> {
        let cancelled = self.cancelled().clone();
        let reopen = || -> io::Result<Box<dyn Read + '_>> {
            Ok(Box::new(Cancellable { inner: open()?, cancelled: &cancelled }))
        };
        let request = Request::new(Method::PUT, session.with_query("digest", &descriptor.digest.to_string()))
            .header("content-type", "application/octet-stream")
            .payload(Payload::Open(&reopen, descriptor.size));
        let mut called = self.call(reference, scope, &request)?;
        check_status(&mut called.response, &[201, 204], called.logged_in)?;
        match content_digest(called.response.headers())? {
            Some(got) if got != descriptor.digest => {
                Err(RegistryError::new(RegistryErrorKind::Digest { wanted: descriptor.digest, got }))
            }
            _ => Ok(()),
        }
    }
}

enum Mount {
    Done,
    Session(Url),
}

/// Where the bytes go: the `Location`, its query kept. Credentials follow only to the registry itself, which
/// [`Client::call`] sees to.
fn session(called: &Called) -> Result<Url, RegistryError> {
    let location = called.response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| RegistryError::answer("it says not where to send the bytes"))?;
    let url = called.url.join(location).map_err(|error| RegistryError::answer(error.to_string()))?;
    if url.origin().scheme == Scheme::Http && called.url.origin().scheme == Scheme::Https {
        return Err(RegistryError::answer(format!("it wants the bytes sent in the clear to `{}`", url.origin())));
    }
    if url.credentials().is_some() {
        return Err(RegistryError::answer("it wants the bytes sent with credentials of its own"));
    }
    Ok(url)
}

struct Cancellable<'a, R> {
    inner: R,
    cancelled: &'a super::transport::Cancelled,
}

impl<R: Read> Read for Cancellable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancelled.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        self.inner.read(buffer)
    }
}
