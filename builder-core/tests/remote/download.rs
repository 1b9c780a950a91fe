use std::fs;
use std::time::Duration;

use rbuild_core::oci::Digest;
use rbuild_core::registry::Secret;
use rbuild_core::registry::transport::{TransportFailure, TransportOptions, Url};
use rbuild_core::remote::{DownloadError, DownloadOptions, DownloadRequest, Downloaded, Downloader};

use crate::common::http::{Reply, Server};

fn downloader(size_max: u64) -> Downloader {
    let transport = TransportOptions { first_pause: Duration::from_millis(1), ..TransportOptions::default() };
    Downloader::new(DownloadOptions { transport, size_max }).unwrap()
}

fn get(url: &str, authorization: Option<&Secret>, checksum: Option<Digest>) -> Result<Downloaded, DownloadError> {
    let (folder, url) = (tempfile::tempdir().unwrap(), Url::parse(url).unwrap());
    let request = DownloadRequest { url: &url, authorization, checksum, folder: folder.path(), events: None };
    let result = downloader(10_000_000).download(&request);
    if result.is_err() {
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
    }
    // The file is open; its folder may go.
    result
}

fn bytes(downloaded: &mut Downloaded) -> Vec<u8> {
    use std::io::{Read, Seek};
    let (mut bytes, file) = (Vec::new(), downloaded.file.as_file_mut());
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn fetches_a_file() {
    let server = Server::start(|_| {
        Reply::new(200)
            .header("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT")
            .header("etag", "\"one\"")
            .header("content-disposition", "attachment; filename=\"../../x\"")
            .body("hello")
    });
    let mut downloaded = get(&server.url("/a/b%20c.txt?q"), None, Some(Digest::of(b"hello"))).unwrap();
    assert_eq!(bytes(&mut downloaded), b"hello");
    assert_eq!((downloaded.size, downloaded.digest), (5, Digest::of(b"hello")));
    assert_eq!(downloaded.last_modified, Some(1_445_412_480));
    assert_eq!((downloaded.name.as_str(), downloaded.etag.as_deref()), ("b c.txt", Some("\"one\"")));

    let url = Url::parse(&server.url("/x")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let request =
        DownloadRequest { url: &url, authorization: None, checksum: None, folder: folder.path(), events: None };
    assert!(downloader(10).is_unchanged(&request, "\"one\"").unwrap());
    assert!(!downloader(10).is_unchanged(&request, "\"two\"").unwrap());
    server.fault("HEAD", "", 1, Reply::new(304));
    assert!(downloader(10).is_unchanged(&request, "\"two\"").unwrap());
}

#[test]
fn checks_the_checksum_and_the_size() {
    let server = Server::start(|_| Reply::new(200).body(vec![7; 1000]));
    let wrong = get(&server.url("/x"), None, Some(Digest::of(b"other"))).unwrap_err();
    assert!(matches!(wrong, DownloadError::Checksum { .. }), "{wrong}");
    for reply in [Reply::new(200).body(vec![7; 1000]), Reply::new(200).body(vec![7; 1000]).chunked()] {
        server.fault("GET", "", 1, reply);
        let (folder, url) = (tempfile::tempdir().unwrap(), Url::parse(&server.url("/x")).unwrap());
        let request =
            DownloadRequest { url: &url, authorization: None, checksum: None, folder: folder.path(), events: None };
        assert!(matches!(downloader(999).download(&request), Err(DownloadError::Size { max: 999, .. })));
    }
    server.fault("GET", "", 1, Reply::new(200).header("content-encoding", "gzip").body("x"));
    assert!(matches!(get(&server.url("/x"), None, None), Err(DownloadError::Encoding { .. })));
}

#[test]
fn says_what_the_server_says() {
    let server = Server::start(|_| Reply::new(404).body("no\u{1b}[31m such file"));
    let error = get(&server.url("/x"), None, None).unwrap_err().to_string();
    assert!(error.contains("status 404: no") && !error.contains('\u{1b}'), "{error}");
    server.fault("GET", "", 1, Reply::new(500));
    assert!(matches!(get(&server.url("/x"), None, None), Err(DownloadError::Status { status: 404, .. })));
    assert_eq!(server.count("GET", ""), 3);
}

#[test]
fn resumes_only_the_same_version() {
    let all: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    let served = all.clone();
    let server = Server::start(move |request| {
        let start =
            request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        match (start, request.header("if-range")) {
            (Some(start), Some("\"v\"")) => {
                let start: usize = start;
                let range = format!("bytes {start}-{}/{}", served.len() - 1, served.len());
                Reply::new(206).header("content-range", range).body(&served[start..])
            }
            _ => Reply::new(200).header("etag", "\"v\"").body(served.clone()),
        }
    });
    for (mark, resumed) in [("\"v\"", true), ("\"old\"", false), ("W/\"v\"", false)] {
        server.fault("GET", "", 1, Reply::new(200).header("etag", mark).body(all.clone()).cut_at(100_000));
        let mut downloaded = get(&server.url("/x"), None, Some(Digest::of(&all))).unwrap();
        assert_eq!(bytes(&mut downloaded), all, "{mark}");
        let last = server.requests().pop().unwrap();
        let matched = last.header("if-range") == Some("\"v\"");
        assert_eq!(matched, resumed, "{mark}");
    }
}

#[test]
fn follows_redirects_without_credentials() {
    let other = Server::start(|_| Reply::new(200).body("there"));
    let elsewhere = other.url("/there.txt");
    let server = Server::start(move |_| Reply::new(302).header("location", &elsewhere));
    let secret = Secret::new("Bearer s3cret");
    let mut downloaded = get(&server.url("/here.txt"), Some(&secret), None).unwrap();
    assert_eq!(bytes(&mut downloaded), b"there");
    assert_eq!(downloaded.name, "here.txt", "the name is the user's");
    assert_eq!(server.requests()[0].header("authorization"), Some("Bearer s3cret"));
    assert_eq!(other.requests()[0].header("authorization"), None);

    let with_password = server.url("/x").replace("http://", "http://u:p@");
    get(&with_password, None, None).unwrap();
    assert_eq!(server.requests()[1].header("authorization"), Some("Basic dTpw"));
    assert_eq!(other.requests()[1].header("authorization"), None);

    for (location, times) in [("/again", 100), ("ftp://x/", 1), ("file:///etc/passwd", 1)] {
        server.fault("GET", "", times, Reply::new(302).header("location", location));
        let error = get(&server.url("/x"), None, None).unwrap_err();
        assert!(matches!(error, DownloadError::Transport { failure: TransportFailure::Redirect(_), .. }), "{error}");
    }
}
