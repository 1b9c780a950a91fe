//! TLS and proxies.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use rbuild_core::oci::Digest;
use rbuild_core::registry::Secret;
use rbuild_core::registry::transport::{Proxies, TransportFailure, TransportOptions, Url};
use rbuild_core::remote::{DownloadError, DownloadOptions, DownloadRequest, Downloader};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::common::http::{Reply, Server};

/// Makes a certificate that vouches for itself, with the openssl program; `None` where there is none.
fn certificate(folder: &Path) -> Option<(Vec<u8>, Vec<u8>)> {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args([
            "-subj",
            "/CN=test",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            "key",
            "-out",
            "certificate",
        ])
        .current_dir(folder)
        .stderr(Stdio::null())
        .status();
    let made = made.is_ok_and(|status| status.success());
    made.then(|| (fs::read(folder.join("certificate")).unwrap(), fs::read(folder.join("key")).unwrap()))
}

/// Answers each connection with one file.
fn serve(certificate: &[u8], key: &[u8]) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certificates = vec![CertificateDer::from_pem_slice(certificate).unwrap()];
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, PrivateKeyDer::from_pem_slice(key).unwrap())
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
            // A client that does not trust the certificate hangs up.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
            let _ = stream.flush();
        }
    });
    address
}

fn get(url: &str, transport: TransportOptions) -> Result<Digest, DownloadError> {
    let (folder, url) = (tempfile::tempdir().unwrap(), Url::parse(url).unwrap());
    let transport = TransportOptions { attempts: 1, ..transport };
    let downloader = Downloader::new(DownloadOptions { transport, ..DownloadOptions::default() }).unwrap();
    let request =
        DownloadRequest { url: &url, authorization: None, checksum: None, folder: folder.path(), events: None };
    downloader.download(&request).map(|downloaded| downloaded.digest)
}

#[test]
fn trusts_given_authorities_for_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let Some((certificate, key)) = certificate(folder.path()) else {
        println!("skipped: openssl is not installed");
        return;
    };
    let port = serve(&certificate, &key).port();
    let trusting =
        || TransportOptions { certificate_authorities: vec![certificate.clone()], ..TransportOptions::default() };
    let localhost = format!("https://localhost:{port}/x");
    assert_eq!(get(&localhost, trusting()).unwrap(), Digest::of(b"hello"));
    let refused =
        [get(&localhost, TransportOptions::default()), get(&format!("https://127.0.0.1:{port}/x"), trusting())];
    for result in refused {
        let error = result.unwrap_err();
        assert!(matches!(error, DownloadError::Transport { failure: TransportFailure::Tls, .. }), "{error:?}");
    }
}

#[test]
fn refuses_authorities_that_are_none() {
    for pem in ["garbage", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"] {
        let transport = TransportOptions { certificate_authorities: vec![pem.into()], ..TransportOptions::default() };
        let error = Downloader::new(DownloadOptions { transport, ..DownloadOptions::default() }).unwrap_err();
        assert!(matches!(error.failure, TransportFailure::Options(_)), "{error:?}");
    }
}

#[test]
fn asks_through_a_proxy() {
    let proxy = Server::start(|request| match request.method.as_str() {
        "CONNECT" => Reply::new(200),
        _ => Reply::new(200).body("hello"),
    });
    let address = format!("http://user:s3cret@{}", proxy.host());
    let proxies = Proxies { http: Some(Secret::new(address)), https: None, no_proxy: String::new() };
    let transport = TransportOptions { proxies, ..TransportOptions::default() };
    assert_eq!(get("http://nowhere.invalid/x", transport.clone()).unwrap(), Digest::of(b"hello"));
    assert_eq!(proxy.requests()[0].target, "nowhere.invalid:80");
    assert_eq!(proxy.requests()[0].header("proxy-authorization"), Some("Basic dXNlcjpzM2NyZXQ="));

    let direct = Proxies { no_proxy: ".invalid".into(), ..transport.proxies.clone() };
    let error = get("http://nowhere.invalid/x", TransportOptions { proxies: direct, ..transport.clone() }).unwrap_err();
    assert!(matches!(error, DownloadError::Transport { failure: TransportFailure::Resolve, .. }), "{error:?}");

    proxy.fault("CONNECT", "", 1, Reply::new(403));
    let error = get("http://nowhere.invalid/x", transport).unwrap_err();
    assert!(matches!(error, DownloadError::Transport { failure: TransportFailure::Proxy, .. }), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("s3cret"));
}
