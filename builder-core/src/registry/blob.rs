//! Blobs: asking for, and reading with resumption and verification.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use ureq::http::Method;
use ureq::http::header::{CONTENT_RANGE, HeaderMap};

use super::auth::Scope;
use super::client::{Client, context, is_elsewhere};
use super::error::{Action, RegistryError, RegistryErrorKind};
use super::response::{broken, check_status};
use super::transport::{Request, Retry, TransportFailure};
use crate::oci::{Descriptor, Digest, Hasher};
use crate::reference::Reference;

impl Client {
    /// Whether a repository has a blob.
    ///
    /// # Errors
    ///
    /// As for all that a network can do.
    pub fn has_blob(&self, reference: &Reference, digest: &Digest) -> Result<bool, RegistryError> {
        let scope = Scope::pull(reference.repository());
        self.find_blob(reference, digest, &scope).map_err(context(Action::FindBlob(*digest), reference))
    }

    /// Starts to read a blob. The reader verifies, and resumes when the connection breaks.
    ///
    /// # Errors
    ///
    /// When the blob is not there. What happens later is an error of the reader, an [`io::Error`] that holds a
    /// [`RegistryError`].
    pub fn blob(&self, reference: &Reference, descriptor: &Descriptor) -> Result<BlobReader<'_>, RegistryError> {
        let mut places = self.places(reference);
        places.reverse();
        let first = places.pop().expect("the registry itself is always a place");
        let mut reader = BlobReader {
            client: self,
            retry: self.retry(&first),
            reference: first,
            others: places,
            digest: descriptor.digest,
            size: descriptor.size,
            offset: 0,
            hasher: Some(Hasher::new()),
            body: None,
            progressed_at: 0,
            window: Default::default(),
            too_slow: false,
        };
        loop {
            match reader.open() {
                Ok(()) => return Ok(reader),
                Err(error) => reader.recover(error)?,
            }
        }
    }

    pub(super) fn find_blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        scope: &Scope,
    ) -> Result<bool, RegistryError> {
        let url = self.url(reference, &format!("blobs/{digest}"))?;
        match self.expect(reference, scope, &Request::new(Method::HEAD, url), &[200]) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Attempts are counted anew only after this many further bytes, so that a registry that breaks off after each byte
/// cannot hold a pull for ever.
const PROGRESS: u64 = 1024 * 1024;
/// The least speed, in bytes per second, over the time that a transfer may stand still.
const SPEED_MIN: u64 = 1024;

/// Reads a blob while checking its size and digest.
///
/// The last bytes are given out only when the digest of the whole is right; an error ends the blob for good.
pub struct BlobReader<'a> {
    client: &'a Client,
    /// Where the bytes come from now.
    reference: Reference,
    /// Where else they may come from, the last first.
    others: Vec<Reference>,
    digest: Digest,
    size: u64,
    offset: u64,
    /// `None` once the digest was checked, and found right or wrong.
    hasher: Option<Hasher>,
    body: Option<ureq::BodyReader<'static>>,
    retry: Retry<'a>,
    /// The offset at which attempts were last counted anew.
    progressed_at: u64,
    /// How long reads took, and how many bytes they gave, since the speed was last looked at.
    window: (Duration, u64),
    too_slow: bool,
}

impl BlobReader<'_> {
    /// How many bytes were read.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Asks for the bytes from `offset` on.
    fn open(&mut self) -> Result<(), RegistryError> {
        let url = self.client.url(&self.reference, &format!("blobs/{}", self.digest))?;
        let mut request = Request::new(Method::GET, url);
        if self.offset > 0 {
            request = request.header("range", &format!("bytes={}-", self.offset));
        }
        let scope = Scope::pull(self.reference.repository());
        let mut called = self.client.call(&self.reference, &scope, &request)?;
        let wanted: &[u16] = if self.offset > 0 { &[200, 206] } else { &[200] };
        check_status(&mut called.response, wanted, called.logged_in)?;
        let resumed = called.response.status().as_u16() == 206;
        if resumed && range_start(called.response.headers()) != Some(self.offset) {
            return Err(RegistryError::answer("it resumes at another place than asked for"));
        }
        let start = if resumed { self.offset } else { 0 };
        let announced = called.response.body().content_length();
        if let Some(length) = announced.filter(|length| start.saturating_add(*length) != self.size) {
            let got = start.saturating_add(length);
            return Err(RegistryError::new(RegistryErrorKind::Size { wanted: self.size, got }));
        }
        let mut body = called.response.into_body().into_reader();
        // A registry that ignores the range starts anew; the bytes that are known already are passed over.
        let skip = self.offset - start;
        let skipped = io::copy(&mut body.by_ref().take(skip), &mut io::sink()).map_err(|error| broken(error, ""))?;
        if skipped < skip {
            return Err(cut_off());
        }
        self.body = Some(body);
        Ok(())
    }

    /// Reads once; opens the body first where it broke.
    fn step(&mut self, buffer: &mut [u8]) -> Result<usize, RegistryError> {
        if self.client.cancelled().is_cancelled() {
            return Err(RegistryError::new(RegistryErrorKind::Cancelled));
        }
        if std::mem::take(&mut self.too_slow) && self.offset < self.size {
            return Err(RegistryError::new(RegistryErrorKind::Transport(TransportFailure::Timeout)));
        }
        if self.body.is_none() {
            self.open()?;
        }
        let body = self.body.as_mut().expect("a body was just opened");
        let left = self.size - self.offset;
        if left == 0 {
            return self.end();
        }
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let started = Instant::now();
        let count = match body.read(&mut buffer[..most]) {
            Ok(0) => return Err(cut_off()),
            Ok(count) => count,
            Err(error) => return Err(broken(error, "")),
        };
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        self.offset += count as u64;
        if self.offset - self.progressed_at >= PROGRESS {
            self.progressed_at = self.offset;
            self.retry.progressed();
        }
        self.watch_speed(started.elapsed(), count as u64);
        if self.offset == self.size {
            self.check()?;
        }
        Ok(count)
    }

    /// Gets ready to go on after an error, at the same place or at the next one, or gives the error back.
    fn recover(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.body = None;
        let Err(error) = self.retry.pause(error) else { return Ok(()) };
        let error = context(Action::FetchBlob(self.digest), &self.reference)(error);
        match self.others.pop().filter(|_| is_elsewhere(&error)) {
            Some(next) => {
                self.retry = self.client.retry(&next);
                self.reference = next;
                Ok(())
            }
            None => Err(error),
        }
    }

    /// Notes a connection that goes on too slowly, for the next read to give it up.
    fn watch_speed(&mut self, took: Duration, count: u64) {
        self.window = (self.window.0 + took, self.window.1 + count);
        if self.window.0 >= self.client.inner.transport.options.stall_timeout {
            let (time, bytes) = std::mem::take(&mut self.window);
            self.too_slow = bytes < time.as_secs().saturating_mul(SPEED_MIN);
        }
    }

    /// Compares the digest once all bytes are there.
    fn check(&mut self) -> Result<(), RegistryError> {
        match self.hasher.take().map(Hasher::finish) {
            Some(got) if got != self.digest => {
                Err(RegistryError::new(RegistryErrorKind::Digest { wanted: self.digest, got }))
            }
            _ => Ok(()),
        }
    }

    /// Makes sure that nothing follows the last byte.
    fn end(&mut self) -> Result<usize, RegistryError> {
        self.check()?;
        let more = self.body.as_mut().map_or(Ok(0), |body| body.read(&mut [0]));
        match more {
            Ok(1..) => Err(RegistryError::new(RegistryErrorKind::Size { wanted: self.size, got: self.size + 1 })),
            // All bytes are there and right; how the connection ended does not matter.
            Ok(0) | Err(_) => Ok(0),
        }
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let error = match self.step(buffer) {
                Ok(count) => return Ok(count),
                Err(error) => error,
            };
            self.recover(error).map_err(io::Error::other)?;
        }
    }
}

/// The error for a body that ends too early.
fn cut_off() -> RegistryError {
    broken(io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended too early"), "")
}

/// The first byte of a `Content-Range: bytes FIRST-LAST/SIZE`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.trim();
    text.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}
