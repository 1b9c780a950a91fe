//! Judging and reading answers, with bounds.

use std::io::{self, Read};

use serde::Deserialize;
use ureq::Body;
use ureq::http::Response;
use ureq::http::header::{CONTENT_ENCODING, HeaderMap};

use super::error::{RegistryError, RegistryErrorKind};
use super::transport::{TransportError, excerpt, retry_after};
use crate::oci::Digest;

const ERROR_BODY_MAX: u64 = 1024 * 1024;
const ERRORS_SHOWN_MAX: usize = 3;

/// Gives an error unless the status is one of those wanted.
pub(super) fn check_status(
    response: &mut Response<Body>,
    wanted: &[u16],
    logged_in: bool,
) -> Result<(), RegistryError> {
    let status = response.status().as_u16();
    if wanted.contains(&status) {
        return check_encoding(response.headers());
    }
    let retry_after = retry_after(response.headers());
    let message = error_message(response);
    Err(RegistryError::new(match status {
        401 | 403 => RegistryErrorKind::Unauthorized { status, message, logged_in },
        404 => RegistryErrorKind::NotFound { message },
        429 => RegistryErrorKind::RateLimited { message, retry_after },
        _ => RegistryErrorKind::Status { status, message, retry_after },
    }))
}

/// Refuses bytes that are encoded for the way: digests are of the bytes as stored.
fn check_encoding(headers: &HeaderMap) -> Result<(), RegistryError> {
    match headers.get(CONTENT_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"" | b"identity") => Ok(()),
        Some(other) => {
            let encoding = excerpt(&String::from_utf8_lossy(other));
            Err(RegistryError::answer(format!("it is encoded as `{encoding}`, which was not asked for")))
        }
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The registry's own words (OCI distribution spec, "Error Codes"), safe to show.
fn error_message(response: &mut Response<Body>) -> String {
    let mut bytes = Vec::new();
    // A body that cannot be read only costs the words.
    let _ = response.body_mut().as_reader().take(ERROR_BODY_MAX).read_to_end(&mut bytes);
    if let Ok(body) = serde_json::from_slice::<ErrorBody>(&bytes) {
        let lines = body.errors.iter().take(ERRORS_SHOWN_MAX).map(|error| match (&*error.code, &*error.message) {
            ("", message) => message.to_owned(),
            (code, "") => code.to_owned(),
            (code, message) => format!("{message} ({code})"),
        });
        return excerpt(&lines.collect::<Vec<_>>().join("; "));
    }
    let text = String::from_utf8_lossy(&bytes);
    let markup = text.trim_start().starts_with('<');
    if markup { "a web page came instead of a registry's answer".to_owned() } else { excerpt(&text) }
}

/// Reads a whole body that must not have more than `max` bytes.
pub(super) fn read_bounded(reader: &mut dyn Read, max: u64, bytes: &mut Vec<u8>) -> Result<(), RegistryError> {
    reader.take(max + 1).read_to_end(bytes).map_err(|error| broken(error, ""))?;
    if bytes.len() as u64 > max {
        return Err(RegistryError::answer(format!("it has more than {max} bytes")));
    }
    Ok(())
}

/// An error met while a body was read.
pub(super) fn broken(error: io::Error, url: &str) -> RegistryError {
    TransportError::from_io(error, &url).into()
}

/// The digest that the registry says the content has; of another algorithm than SHA-256 is as good as none.
pub(super) fn content_digest(headers: &HeaderMap) -> Result<Option<Digest>, RegistryError> {
    let Some(value) = headers.get("docker-content-digest") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    match text.parse() {
        Ok(digest) => Ok(Some(digest)),
        Err(_) if text.is_empty() || (!text.starts_with("sha256:") && text.contains(':')) => Ok(None),
        Err(_) => Err(RegistryError::answer(format!("`{}` is not a digest", excerpt(text)))),
    }
}
