//! Further certificate authorities for RUN steps (`--ca`), without a trace in the image.
//!
//! Behind a proxy that inspects TLS, every program in a step must trust one more authority. The image's own store is
//! left alone: what a step changes there would be part of the layer, and a mount over it would make
//! `update-ca-certificates` fail, which replaces the file. So the step gets files in its own `/dev`, which is never
//! part of a layer, and variables that point programs to them:
//!
//! ```text
//! /dev/.rbuild/ca.crt     the image's bundle (or the host's, where the image has none) and the given authorities
//! /dev/.rbuild/extra.crt  the given authorities alone, for programs that add them to their own
//! /dev/.rbuild/ca.jks     the same as ca.crt for Java
//! /dev/.rbuild/apt.conf   what APT_CONFIG named before, and the bundle; likewise wgetrc
//! ```
//!
//! A variable that the step already has is left as it is. Neither the files nor the variables are part of a step's key
//! or of the image's configuration. Pure but for reading the tree below the step.

use std::collections::BTreeSet;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::tree::{FollowLast, Node, TreeError, TreePath, TreeView, read_small, resolve};

/// The folder in the step's `/dev` that holds the files.
pub(super) const AUTHORITY_FOLDER: &str = "/dev/.rbuild";

const BUNDLE: &str = "/dev/.rbuild/ca.crt";
const EXTRA: &str = "/dev/.rbuild/extra.crt";
const JAVA_STORE: &str = "/dev/.rbuild/ca.jks";
const APT_CONFIGURATION: &str = "/dev/.rbuild/apt.conf";
const WGET_CONFIGURATION: &str = "/dev/.rbuild/wgetrc";

/// Where distributions keep their bundle: Debian, Alpine, Arch; Fedora; older Red Hat; SUSE; Alpine without the
/// `ca-certificates` package; Nix.
const BUNDLES_OF_IMAGES: [&[u8]; 6] = [
    b"etc/ssl/certs/ca-certificates.crt",
    RED_HAT_BUNDLE,
    b"etc/pki/tls/certs/ca-bundle.crt",
    b"etc/ssl/ca-bundle.pem",
    b"etc/ssl/cert.pem",
    b"etc/ssl/certs/ca-bundle.crt",
];
const RED_HAT_BUNDLE: &[u8] = b"etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem";
/// Real bundles have about 250 KiB.
const GREATEST_BUNDLE: u64 = 8 * 1024 * 1024;
const GREATEST_CONFIGURATION: u64 = 256 * 1024;

/// Variables that name a bundle which replaces a program's own.
const BUNDLE_VARIABLES: [&str; 18] = [
    // OpenSSL and what is built on it, Go, most of Ruby, PHP's Composer, .NET, rustls.
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "npm_config_cafile",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "DENO_CERT",
    // apk and others with FreeBSD's libfetch.
    "SSL_CA_CERT_FILE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "HTTPLIB2_CA_CERTS",
    "HEX_CACERTS_PATH",
    "NIX_SSL_CERT_FILE",
    "PERL_LWP_SSL_CA_FILE",
    "SYSTEM_CERTIFICATE_PATH",
    "UV_SSL_CERT_FILE",
];

/// Authorities could not be made available to a step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum AuthorityError {
    /// What was given holds no certificate.
    #[error("the certificate authorities hold no certificate in PEM form")]
    NoCertificate,
    /// What was given holds something that looks like a certificate and is none.
    #[error("certificate {number} of the certificate authorities is damaged")]
    Damaged {
        /// Which one, from 1.
        number: usize,
    },
    /// The tree below the step can't be read.
    #[error("could not look for the image's own certificate authorities")]
    Tree(#[from] TreeError),
}

/// What is known of a step before its authorities are made.
pub(super) struct AuthorityRequest<'a> {
    /// The given authorities, in PEM form. Whatever else the text holds is left out.
    pub given: &'a [u8],
    /// The host's own bundle, in PEM form, for images that have none.
    pub host_bundle: Option<&'a [u8]>,
    /// The tree that the step starts from.
    pub below: &'a dyn TreeView,
    /// The step's environment.
    pub environment: &'a [(String, String)],
}

/// What a step gets for its authorities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authorities {
    /// Files for [`AUTHORITY_FOLDER`], by name. All of them readable by everyone (0644, the folder 0755).
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// Variables to set, in addition to or in place of those of the same name.
    pub environment: Vec<(String, String)>,
    /// Files of the image over which `ca.crt` should be mounted, read-only: Red Hat's bundle, because `dnf` takes no
    /// other by any variable. (`update-ca-trust` in such a step can't replace it, which it reports and survives.)
    pub mount_over: Vec<TreePath>,
}

/// Makes the files and variables of a step.
///
/// # Errors
/// When `given` holds no certificate or a damaged one, or the tree can't be read.
pub(super) fn authorities(request: &AuthorityRequest<'_>) -> Result<Authorities, AuthorityError> {
    let given = certificates(request.given)?;
    if given.is_empty() {
        return Err(AuthorityError::NoCertificate);
    }
    let image_bundle = image_bundle(request.below)?;
    let known = image_bundle.as_deref().or(request.host_bundle).unwrap_or_default();
    let mut bundle = Vec::new();
    let mut seen = BTreeSet::new();
    // A damaged certificate in a bundle that works otherwise is no reason to stop.
    for certificate in blocks(known).filter_map(Certificate::parse).chain(given.iter().cloned()) {
        if seen.insert(certificate.der.clone()) {
            bundle.push(certificate);
        }
    }
    let files = vec![
        ("ca.crt", pem(&bundle)),
        ("extra.crt", pem(&given)),
        ("ca.jks", java_store(&bundle)),
        ("apt.conf", apt_configuration(request)?),
        ("wgetrc", wget_configuration(request)?),
    ];
    Ok(Authorities { files, environment: variables(request.environment), mount_over: mount_over(request.below)? })
}

fn variables(present: &[(String, String)]) -> Vec<(String, String)> {
    let value = |name: &str| present.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let mut variables: Vec<(String, String)> = BUNDLE_VARIABLES
        .into_iter()
        .map(|name| (name, BUNDLE))
        .chain([("NODE_EXTRA_CA_CERTS", EXTRA), ("SYSTEM_WGETRC", WGET_CONFIGURATION)])
        .filter(|(name, _)| value(name).is_none() && value(&name.to_ascii_uppercase()).is_none())
        .map(|(name, path)| (name.to_owned(), path.to_owned()))
        .collect();
    // The file repeats what the variable named before.
    variables.push(("APT_CONFIG".to_owned(), APT_CONFIGURATION.to_owned()));
    let options = value("JAVA_TOOL_OPTIONS").unwrap_or_default();
    if !options.contains("-Djavax.net.ssl.trustStore=") {
        let options = format!("{options} -Djavax.net.ssl.trustStore={JAVA_STORE} -Djavax.net.ssl.trustStoreType=jks");
        variables.push(("JAVA_TOOL_OPTIONS".to_owned(), options.trim_start().to_owned()));
    }
    variables
}

fn image_bundle(below: &dyn TreeView) -> Result<Option<Vec<u8>>, AuthorityError> {
    for path in BUNDLES_OF_IMAGES {
        if let Some(bytes) = read_if_sound(below, path, GREATEST_BUNDLE)?
            && blocks(&bytes).next().is_some()
        {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// A small file, or nothing where the image has something odd in its place.
fn read_if_sound(below: &dyn TreeView, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>, AuthorityError> {
    match read_small(below, path, limit) {
        Err(TreeError::LinkLoop { .. } | TreeError::TooLarge { .. } | TreeError::NotADirectory { .. }) => Ok(None),
        result => Ok(result?),
    }
}

fn mount_over(below: &dyn TreeView) -> Result<Vec<TreePath>, AuthorityError> {
    let path = match resolve(below, RED_HAT_BUNDLE, FollowLast::Yes) {
        Err(TreeError::LinkLoop { .. } | TreeError::NotADirectory { .. }) => return Ok(Vec::new()),
        path => path?,
    };
    let is_file = matches!(below.get(&path)?.map(|entry| entry.node), Some(Node::File { .. }));
    Ok(if is_file { vec![path] } else { Vec::new() })
}

fn apt_configuration(request: &AuthorityRequest<'_>) -> Result<Vec<u8>, AuthorityError> {
    let named = request.environment.iter().find(|(name, _)| name == "APT_CONFIG").map(|(_, path)| path.as_bytes());
    let mut text = match named {
        Some(path) => read_if_sound(request.below, path, GREATEST_CONFIGURATION)?.unwrap_or_default(),
        None => Vec::new(),
    };
    end_line(&mut text);
    text.extend_from_slice(format!("Acquire::https::CAInfo \"{BUNDLE}\";\n").as_bytes());
    Ok(text)
}

fn wget_configuration(request: &AuthorityRequest<'_>) -> Result<Vec<u8>, AuthorityError> {
    let mut text = read_if_sound(request.below, b"etc/wgetrc", GREATEST_CONFIGURATION)?.unwrap_or_default();
    end_line(&mut text);
    text.extend_from_slice(format!("ca_certificate = {BUNDLE}\n").as_bytes());
    Ok(text)
}

fn end_line(text: &mut Vec<u8>) {
    if !text.is_empty() && text.last() != Some(&b'\n') {
        text.push(b'\n');
    }
}

#[derive(Debug, Clone)]
struct Certificate<'a> {
    /// The lines from `BEGIN` to `END`.
    text: &'a [u8],
    der: Vec<u8>,
}

impl<'a> Certificate<'a> {
    fn parse(text: &'a [u8]) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(text).ok()?.to_vec();
        // A DER sequence; what is in it is for the programs that use it to judge.
        (der.first() == Some(&0x30)).then_some(Self { text, der })
    }
}

/// All certificates of a text that must be sound.
fn certificates(text: &[u8]) -> Result<Vec<Certificate<'_>>, AuthorityError> {
    blocks(text)
        .enumerate()
        .map(|(index, block)| Certificate::parse(block).ok_or(AuthorityError::Damaged { number: index + 1 }))
        .collect()
}

/// The parts of a text that are certificates, each with its first and last line.
fn blocks(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    const END: &[u8] = b"-----END CERTIFICATE-----";
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = find(rest, BEGIN)?;
        let block = &rest[start..];
        // One that has no end reaches to the end of the text, and proves damaged.
        let length = find(block, END).map_or(block.len(), |end| end + END.len());
        rest = &block[length..];
        Some(&block[..length])
    })
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

fn pem(certificates: &[Certificate<'_>]) -> Vec<u8> {
    certificates.iter().flat_map(|certificate| [certificate.text, b"\n"].concat()).collect()
}

/// A trust store in Java's own old format, which every version reads.
///
/// ```text
/// FEEDFEED  version: u32 = 2  count: u32
/// each: tag: u32 = 2 (trusted)  alias: u16 length and text  time: u64  "X.509" likewise  length: u32 and DER
/// 20 bytes of a digest over a password and all of that
/// ```
///
/// The digest is zero: it is looked at only when a password is given, and for a trust store none is.
fn java_store(certificates: &[Certificate<'_>]) -> Vec<u8> {
    const TRUSTED: u32 = 2;
    let text = |bytes: &mut Vec<u8>, text: &str| {
        let length = u16::try_from(text.len()).expect("the texts written here are short");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    };
    let length = |length: usize| u32::try_from(length).expect("bundles are bounded").to_be_bytes();
    let mut bytes = vec![0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2];
    bytes.extend_from_slice(&length(certificates.len()));
    for (index, certificate) in certificates.iter().enumerate() {
        bytes.extend_from_slice(&TRUSTED.to_be_bytes());
        text(&mut bytes, &format!("authority-{}", index + 1));
        bytes.extend_from_slice(&0_u64.to_be_bytes());
        text(&mut bytes, "X.509");
        bytes.extend_from_slice(&length(certificate.der.len()));
        bytes.extend_from_slice(&certificate.der);
    }
    bytes.extend_from_slice(&[0; 20]);
    bytes
}

#[cfg(test)]
#[path = "ca_tests.rs"]
mod tests;
