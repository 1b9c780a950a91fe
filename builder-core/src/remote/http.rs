//! One file over HTTP: `ADD https://...`, and contexts and Dockerfiles by address.

use std::io::{self, Read, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tempfile::NamedTempFile;
use ureq::http::header::{CONTENT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED};
use ureq::http::{Method, Response};

use super::DownloadError;
use crate::oci::{Digest, Hasher};
use crate::progress::{Event, Events};
use crate::registry::Secret;
use crate::registry::transport::{
    Reach, Request, Retry, Transport, TransportError, TransportFailure, TransportOptions, Url, excerpt,
    percent_decoded, retry_after,
};

/// The name of a file whose address has none.
pub const UNNAMED: &str = "__unnamed__";

const NAME_LENGTH_MAX: usize = 255;
const EVENT_EVERY: u64 = 512 * 1024;
const ERROR_BODY_MAX: u64 = 64 * 1024;

/// How files are fetched.
#[derive(Debug, Clone)]
pub struct DownloadOptions {
    /// Trust, proxies, patience.
    pub transport: TransportOptions,
    /// How many bytes a file may have.
    pub size_max: u64,
}

impl Default for DownloadOptions {
    fn default() -> Self {
        Self { transport: TransportOptions::default(), size_max: 64 << 30 }
    }
}

/// One file to fetch.
#[derive(Clone, Copy)]
pub struct DownloadRequest<'a> {
    /// Its address.
    pub url: &'a Url,
    /// The value of an `Authorization` header for the address's own origin; no other host gets it.
    pub authorization: Option<&'a Secret>,
    /// What its digest must be.
    pub checksum: Option<Digest>,
    /// The folder for the temporary file.
    pub folder: &'a Path,
    /// Hears of progress.
    pub events: Option<&'a Events>,
}

/// What is known of the version of a file that the caller has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// The server's mark of it.
    pub etag: Option<String>,
    /// When the server said it was last changed, in seconds since 1970.
    pub last_modified: Option<i64>,
}

impl Marks {
    /// The headers that ask for a newer version only. A time is asked by only without a mark, which says more.
    fn headers(&self) -> Option<(&'static str, String)> {
        if let Some(etag) = &self.etag {
            return Some(("if-none-match", etag.clone()));
        }
        let time = jiff::Timestamp::from_second(self.last_modified?).ok()?;
        let text = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()?;
        Some(("if-modified-since", text))
    }
}

/// A fetched file.
#[derive(Debug)]
pub struct Downloaded {
    /// Its bytes; the file is removed when this is dropped.
    pub file: NamedTempFile,
    /// How many bytes it has.
    pub size: u64,
    /// The digest of its bytes.
    pub digest: Digest,
    /// When the server says it was last changed, in seconds since 1970.
    pub last_modified: Option<i64>,
    /// The last part of the address's path, or [`UNNAMED`].
    pub name: String,
    /// The server's mark of this version, for [`Downloader::is_unchanged`].
    pub etag: Option<String>,
}

/// Fetches files over HTTP.
///
/// Redirects are followed, at most 10, never from `https` to `http`, never with credentials to another origin, and from
/// a public server never to this machine or a private network.
#[derive(Debug)]
pub struct Downloader {
    transport: Transport,
    size_max: u64,
}

impl Downloader {
    /// Makes a downloader. Asks nobody yet.
    ///
    /// # Errors
    ///
    /// For a proxy or certificate authorities that cannot be used.
    pub fn new(options: DownloadOptions) -> Result<Self, TransportError> {
        Ok(Self { transport: Transport::new(options.transport, Reach::Internet)?, size_max: options.size_max })
    }

    /// Fetches a file, resuming when the connection breaks, and checks it.
    ///
    /// # Errors
    ///
    /// For any status but 200, a wrong checksum, too many bytes, and all that a network can do. Nothing is left behind.
    pub fn download(&self, request: &DownloadRequest<'_>) -> Result<Downloaded, DownloadError> {
        let fetched = self.fetch(request, None)?;
        Ok(fetched.expect("a server is asked for changes only where a version is known"))
    }

    /// As [`Self::download`], but gives `None` when the server says that it has the version that the caller knows.
    ///
    /// # Errors
    ///
    /// As [`Self::download`].
    pub fn download_if_changed(
        &self,
        request: &DownloadRequest<'_>,
        known: &Marks,
    ) -> Result<Option<Downloaded>, DownloadError> {
        self.fetch(request, known.headers())
    }

    fn fetch(
        &self,
        request: &DownloadRequest<'_>,
        unless: Option<(&'static str, String)>,
    ) -> Result<Option<Downloaded>, DownloadError> {
        let write_error = |source| DownloadError::Write { folder: request.folder.to_owned(), source };
        let file = NamedTempFile::new_in(request.folder).map_err(write_error)?;
        let (hasher, headers) = (Hasher::new(), HeaderMap::new());
        let mut partial = Partial { file, size: 0, hasher, headers, unless, unchanged: false };
        Retry::new(&self.transport.options).run(|| self.attempt(request, &mut partial))?;
        if partial.unchanged {
            return Ok(None);
        }
        partial.file.as_file_mut().flush().map_err(write_error)?;
        let digest = partial.hasher.finish();
        if let Some(wanted) = request.checksum.filter(|wanted| *wanted != digest) {
            return Err(DownloadError::Checksum { url: request.url.to_string(), wanted, got: digest });
        }
        Ok(Some(Downloaded {
            size: partial.size,
            digest,
            last_modified: last_modified(&partial.headers),
            name: file_name(request.url),
            etag: header(&partial.headers, &ETAG).map(str::to_owned),
            file: partial.file,
        }))
    }

    /// Whether the server still has the version with this mark; `false` also where it cannot tell.
    ///
    /// # Errors
    ///
    /// For all that a network can do.
    pub fn is_unchanged(&self, request: &DownloadRequest<'_>, etag: &str) -> Result<bool, DownloadError> {
        let mut asked = self.request(request)?.header("if-none-match", etag);
        asked.method = Method::HEAD;
        let answer = Retry::new(&self.transport.options)
            .run(|| self.transport.send(asked.clone()).map_err(|error| transport_error(request.url, error)))?;
        let same = header(answer.response.headers(), &ETAG) == Some(etag);
        Ok(answer.response.status().as_u16() == 304 || (answer.response.status().as_u16() == 200 && same))
    }

    fn request(&self, request: &DownloadRequest<'_>) -> Result<Request<'static>, DownloadError> {
        let written = request
            .url
            .credentials()
            .map(|(user, password)| format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.expose()))));
        let text = request.authorization.map(|secret| secret.expose().to_owned()).or(written);
        let header = text.map(|text| HeaderValue::from_str(&text)).transpose();
        let header = header.map_err(|_| DownloadError::Authorization { url: request.url.to_string() })?;
        Ok(Request::new(Method::GET, request.url.clone()).authorization(header))
    }

    fn attempt(&self, request: &DownloadRequest<'_>, partial: &mut Partial) -> Result<(), DownloadError> {
        let mut asked = self.request(request)?;
        // Only a strong mark makes sure that the rest belongs to the same bytes.
        let mark = header(&partial.headers, &ETAG).filter(|mark| mark.starts_with('"')).map(str::to_owned);
        if let Some(mark) = mark.filter(|_| partial.size > 0) {
            asked = asked.header("range", &format!("bytes={}-", partial.size)).header("if-range", &mark);
        }
        if let Some((name, value)) = &partial.unless {
            asked = asked.header(name, value);
        }
        let answer = self.transport.send(asked).map_err(|error| transport_error(request.url, error))?;
        let mut response = answer.response;
        if partial.unless.is_some() && response.status().as_u16() == 304 {
            partial.unchanged = true;
            return Ok(());
        }
        let resumed = response.status().as_u16() == 206 && range_start(response.headers()) == Some(partial.size);
        if !resumed {
            check(request.url, &mut response)?;
            partial.restart().map_err(|source| DownloadError::Write { folder: request.folder.to_owned(), source })?;
            partial.headers = response.headers().clone();
            // From here on it is the new version that is wanted, whatever breaks.
            partial.unless = None;
        }
        let total = response.body().content_length().map(|length| length.saturating_add(partial.size));
        if total.is_some_and(|total| total > self.size_max) {
            return Err(DownloadError::Size { url: request.url.to_string(), max: self.size_max });
        }
        self.receive(request, partial, &mut response.into_body().into_reader(), total)
    }

    fn receive(
        &self,
        request: &DownloadRequest<'_>,
        partial: &mut Partial,
        body: &mut dyn Read,
        total: Option<u64>,
    ) -> Result<(), DownloadError> {
        let broken = |error: io::Error| transport_error(request.url, TransportError::from_io(error, request.url));
        let (mut buffer, mut told) = (vec![0; 128 * 1024], partial.size);
        loop {
            if self.transport.options.cancelled.is_cancelled() {
                let cancelled = TransportError::new(TransportFailure::Cancelled, request.url);
                return Err(transport_error(request.url, cancelled));
            }
            let count = body.read(&mut buffer).map_err(broken)?;
            partial.size += count as u64;
            if partial.size > self.size_max {
                return Err(DownloadError::Size { url: request.url.to_string(), max: self.size_max });
            }
            partial.hasher.update(&buffer[..count]);
            let written = partial.file.write_all(&buffer[..count]);
            written.map_err(|source| DownloadError::Write { folder: request.folder.to_owned(), source })?;
            if let Some(events) = request.events.filter(|_| count == 0 || partial.size - told >= EVENT_EVERY) {
                told = partial.size;
                events.event(Event::Transfer { what: request.url.to_string(), done: partial.size, total });
            }
            if count > 0 {
                continue;
            }
            return match total {
                Some(total) if partial.size < total => {
                    Err(broken(io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended too early")))
                }
                _ => Ok(()),
            };
        }
    }
}

/// What was received until now.
struct Partial {
    file: NamedTempFile,
    size: u64,
    hasher: Hasher,
    headers: HeaderMap,
    /// A header that makes the server send only a version that the caller does not have.
    unless: Option<(&'static str, String)>,
    /// Whether the caller has the version that the server has.
    unchanged: bool,
}

impl Partial {
    fn restart(&mut self) -> io::Result<()> {
        use std::io::Seek;
        self.file.as_file_mut().set_len(0)?;
        self.file.as_file_mut().rewind()?;
        (self.size, self.hasher) = (0, Hasher::new());
        Ok(())
    }
}

fn transport_error(url: &Url, error: TransportError) -> DownloadError {
    DownloadError::Transport { url: url.to_string(), failure: error.failure, source: error.source }
}

fn check(url: &Url, response: &mut Response<ureq::Body>) -> Result<(), DownloadError> {
    let status = response.status().as_u16();
    if status != 200 {
        let retry_after = retry_after(response.headers());
        let mut bytes = Vec::new();
        // A body that cannot be read only costs the words.
        let _ = response.body_mut().as_reader().take(ERROR_BODY_MAX).read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let message = if text.trim_start().starts_with('<') { String::new() } else { excerpt(&text) };
        return Err(DownloadError::Status { url: url.to_string(), status, message, retry_after });
    }
    match header(response.headers(), &CONTENT_ENCODING) {
        None | Some("" | "identity") => Ok(()),
        Some(other) => Err(DownloadError::Encoding { url: url.to_string(), encoding: excerpt(other) }),
    }
}

/// The last part of an address's path, decoded; [`UNNAMED`] where that is no name of a file.
#[must_use]
pub fn file_name(url: &Url) -> String {
    let path = percent_decoded(url.path()).unwrap_or_else(|| url.path().to_owned());
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let usable = !matches!(name, "" | "." | "..") && name.len() <= NAME_LENGTH_MAX && !name.contains(char::is_control);
    if usable { name.to_owned() } else { UNNAMED.to_owned() }
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn last_modified(headers: &HeaderMap) -> Option<i64> {
    let date = jiff::fmt::rfc2822::parse(header(headers, &LAST_MODIFIED)?).ok()?;
    Some(date.timestamp().as_second())
}

fn range_start(headers: &HeaderMap) -> Option<u64> {
    header(headers, &CONTENT_RANGE)?.trim().strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_files() {
        let long = format!("https://e.com/{}", "a".repeat(256));
        for (url, want) in [
            ("https://e.com/a/b.tar.gz?x=1#y", "b.tar.gz"),
            ("https://e.com/a/b/", "b"),
            ("https://e.com", UNNAMED),
            ("https://e.com/", UNNAMED),
            ("https://e.com/.", UNNAMED),
            ("https://e.com/..", UNNAMED),
            ("https://e.com/..%2f..%2fx", "x"),
            ("https://e.com/a%00b", UNNAMED),
            ("https://e.com/a%20b", "a b"),
            ("https://e.com/%zz", "%zz"),
            (&long, UNNAMED),
        ] {
            assert_eq!(file_name(&Url::parse(url).unwrap()), want, "{url}");
        }
    }
}
