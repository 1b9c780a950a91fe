use std::path::Path;
use std::process::Command;

use super::*;
use crate::rootfs::{DirectoryTree, Root};

/// Two certificates that are DER sequences and nothing more.
const ONE: &str = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----";
const TWO: &str = "-----BEGIN CERTIFICATE-----\nMAMCAQI=\n-----END CERTIFICATE-----";

fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, DirectoryTree) {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let tree = DirectoryTree::new(Root::open(folder.path()).unwrap());
    (folder, tree)
}

fn file<'a>(authorities: &'a Authorities, name: &str) -> &'a str {
    let (_, bytes) = authorities.files.iter().find(|(found, _)| *found == name).unwrap();
    std::str::from_utf8(bytes).unwrap()
}

fn request<'a>(given: &'a str, below: &'a DirectoryTree) -> AuthorityRequest<'a> {
    AuthorityRequest { given: given.as_bytes(), host_bundle: Some(TWO.as_bytes()), below, environment: &[] }
}

#[test]
fn the_bundle_is_the_images_or_the_hosts() {
    let given = format!("subject=x\n{ONE}\n-----BEGIN PRIVATE KEY-----\nMAMCAQE=\n-----END PRIVATE KEY-----\n");
    let (_folder, empty) = tree(&[]);
    let made = authorities(&request(&given, &empty)).unwrap();
    assert_eq!(file(&made, "ca.crt"), format!("{TWO}\n{ONE}\n"));
    assert_eq!(file(&made, "extra.crt"), format!("{ONE}\n"), "a private key is never handed on");
    assert!(made.mount_over.is_empty());

    let (folder, own) = tree(&[("usr/bundle", &format!("# comment\n{ONE}\n"))]);
    std::fs::create_dir_all(folder.path().join("etc/ssl/certs")).unwrap();
    std::os::unix::fs::symlink("/usr/bundle", folder.path().join("etc/ssl/certs/ca-certificates.crt")).unwrap();
    let made = authorities(&request(&given, &own)).unwrap();
    assert_eq!(file(&made, "ca.crt"), format!("{ONE}\n"), "the same certificate stands there once");
}

#[test]
fn what_is_given_must_be_certificates() {
    let (_folder, below) = tree(&[]);
    assert!(matches!(authorities(&request("text", &below)), Err(AuthorityError::NoCertificate)));
    let cut = format!("{ONE}\n{}", &TWO[..40]);
    assert!(matches!(authorities(&request(&cut, &below)), Err(AuthorityError::Damaged { number: 2 })));
}

#[test]
fn variables_of_the_step_stay() {
    let (_folder, below) = tree(&[("etc/my-apt.conf", "Keep \"me\";"), ("etc/wgetrc", "tries = 3\n")]);
    let environment = [
        ("SSL_CERT_FILE".to_owned(), "/own".to_owned()),
        ("NPM_CONFIG_CAFILE".to_owned(), "/own".to_owned()),
        ("APT_CONFIG".to_owned(), "/etc/my-apt.conf".to_owned()),
        ("JAVA_TOOL_OPTIONS".to_owned(), "-Xmx1g".to_owned()),
    ];
    let made = authorities(&AuthorityRequest { environment: &environment, ..request(ONE, &below) }).unwrap();
    let value = |name: &str| made.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!(value("SSL_CERT_FILE"), None);
    assert_eq!(value("npm_config_cafile"), None);
    assert_eq!(value("PIP_CERT"), Some("/dev/.rbuild/ca.crt"));
    assert_eq!(value("NODE_EXTRA_CA_CERTS"), Some("/dev/.rbuild/extra.crt"));
    assert!(value("JAVA_TOOL_OPTIONS").unwrap().starts_with("-Xmx1g -Djavax.net.ssl.trustStore=/dev/.rbuild/ca.jks"));
    assert_eq!(file(&made, "apt.conf"), "Keep \"me\";\nAcquire::https::CAInfo \"/dev/.rbuild/ca.crt\";\n");
    assert_eq!(file(&made, "wgetrc"), "tries = 3\nca_certificate = /dev/.rbuild/ca.crt\n");
}

#[test]
fn red_hats_bundle_is_mounted_over() {
    let (_folder, below) = tree(&[("etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", TWO)]);
    let made = authorities(&request(ONE, &below)).unwrap();
    assert_eq!(made.mount_over, [TreePath::clean(RED_HAT_BUNDLE)]);
    assert_eq!(file(&made, "ca.crt"), format!("{TWO}\n{ONE}\n"));
}

#[test]
fn java_reads_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let path = "/usr/local/bin:/usr/bin:/bin";
        Command::new(program)
            .args(arguments)
            .current_dir(folder.path())
            .env("PATH", path)
            .stdin(std::process::Stdio::null())
            .output()
    };
    if !Path::new("/usr/bin/keytool").exists() {
        println!("skipped: no keytool");
        return;
    }
    let made = run(
        "openssl",
        &["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "k", "-out", "c", "-subj", "/CN=test-authority"],
    );
    assert!(made.unwrap().status.success());
    let given = std::fs::read_to_string(folder.path().join("c")).unwrap();
    let (_folder, below) = tree(&[]);
    let made = authorities(&AuthorityRequest { host_bundle: None, ..request(&given, &below) }).unwrap();
    let (_, store) = made.files.iter().find(|(name, _)| *name == "ca.jks").unwrap();
    std::fs::write(folder.path().join("store"), store).unwrap();
    let listed = run("keytool", &["-J-Duser.language=en", "-list", "-v", "-keystore", "store"]).unwrap();
    let text = String::from_utf8_lossy(&listed.stdout);
    assert!(text.contains("test-authority") && text.contains("authority-1"), "{text}");
}
