use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;

struct Setup {
    folder: tempfile::TempDir,
}

impl Setup {
    fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), config).unwrap();
        Self { folder }
    }

    fn helper(self, name: &str, script: &str) -> Self {
        let path = self.folder.path().join(format!("docker-credential-{name}"));
        // Written by a child, so that no other test's child holds it open for writing when it is run.
        let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 755 "$0""#;
        assert!(Command::new("sh").arg("-c").arg(write).arg(&path).arg(script).status().unwrap().success());
        self
    }

    fn find(&self, registry: &str) -> Result<Option<Credential>, CredentialError> {
        let docker = DockerConfig {
            directory: self.folder.path().to_owned(),
            search_path: self.folder.path().as_os_str().to_owned(),
            helper_timeout: Duration::from_secs(5),
        };
        Credentials { fixed: BTreeMap::new(), docker: Some(docker) }.find(registry)
    }
}

fn password(user: &str, password: &str) -> Option<Credential> {
    Some(Credential::Password { user: user.to_owned(), password: Secret::new(password) })
}

#[test]
fn reads_auths() {
    let auth = |text: &str| STANDARD.encode(text);
    let config = format!(
        r#"{{"auths":{{
            "https://index.docker.io/v1/":{{"auth":"{}"}},
            "reg.example.com":{{"auth":"{}"}},
            "https://old.example.com/v1/":{{"auth":"{}"}},
            "reg.example.com:5000":{{"username":"u5","password":"p5"}},
            "token.example.com":{{"auth":"{}","identitytoken":"idt"}},
            "empty.example.com":{{}}
        }}}}"#,
        auth("hub:h:1"),
        auth("u:p"),
        auth("o:p"),
        auth("00000000-0000-0000-0000-000000000000:"),
    );
    let setup = Setup::new(&config);
    for (registry, want) in [
        ("docker.io", password("hub", "h:1")),
        ("reg.example.com", password("u", "p")),
        ("old.example.com", password("o", "p")),
        ("reg.example.com:5000", password("u5", "p5")),
        ("token.example.com", Some(Credential::IdentityToken(Secret::new("idt")))),
        ("empty.example.com", None),
        ("sub.reg.example.com", None),
        ("reg.example.com.evil.com", None),
        ("reg.example.com:5001", None),
        ("example.com", None),
    ] {
        assert_eq!(setup.find(registry).unwrap(), want, "{registry}");
    }
}

#[test]
fn a_missing_file_is_anonymous_and_a_broken_one_an_error() {
    let setup = Setup::new("{");
    let error = setup.find("a.example").unwrap_err();
    assert!(matches!(error, CredentialError::Content { .. }), "{error}");
    fs::remove_file(setup.folder.path().join("config.json")).unwrap();
    assert_eq!(setup.find("a.example").unwrap(), None);
}

#[test]
fn asks_helpers() {
    let config = r#"{"credsStore":"store","credHelpers":{"a.example":"one"},"auths":{"b.example":{}}}"#;
    let setup = Setup::new(config)
        .helper("one", r#"read s; echo "{\"ServerURL\":\"$s\",\"Username\":\"u\",\"Secret\":\"for $s\"}""#)
        .helper("store", "read s; case $s in b.example) echo '{\"Username\":\"<token>\",\"Secret\":\"t\"}';; *) echo credentials not found in native keychain; exit 1;; esac");
    assert_eq!(setup.find("a.example").unwrap(), password("u", "for a.example"));
    assert_eq!(setup.find("b.example").unwrap(), Some(Credential::IdentityToken(Secret::new("t"))));
    assert_eq!(setup.find("c.example").unwrap(), None);
}

#[test]
fn bounds_helpers() {
    let with = |name: &str, script: &str| {
        Setup::new(&format!(r#"{{"credHelpers":{{"a.example":"{name}"}}}}"#)).helper("x", script).find("a.example")
    };
    assert!(matches!(with("../../x", "true"), Err(CredentialError::HelperName { .. })));
    assert!(matches!(with("missing", "true"), Err(CredentialError::HelperMissing { .. })));
    assert!(matches!(with("x", "yes | head -c 200000"), Err(CredentialError::Helper { .. })));
    assert!(matches!(with("x", "echo hello"), Err(CredentialError::Helper { .. })));
    let error = with("x", "printf 'bad\\033[31m'; exit 3").unwrap_err().to_string();
    assert!(error.contains("failed: bad") && !error.contains('\u{1b}'), "{error}");
}
